"""Candles, forecasts and scores of each symbol and interval, in memory and bounded; no I/O.

A forecast of ``step`` candles is scored when its candle arrives, by counting candles from the one
that it was made at: sessions, holidays and halts need no calendar. A score stays when a correction
of that candle arrives later.

What is kept by the hundred thousand are structs that Python's collector does not follow, with
bytes and numbers in them and no cycles: to walk those of 200 symbols took it an eighth of a
second, and held up everybody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import orjson

from api.stream.cursors import Origin
from shared.candles import Candle
from shared.forecasts import Forecast
from shared.scores import Score, Summary, score, summarise

Key = tuple[str, str]
"""Symbol and interval."""


@dataclass(frozen=True)
class MarketBounds:
    """How many of each are kept in memory, and in how many bytes, about."""

    size: int = 300 << 20  # of all series
    series: int = 20_000
    candles: int = 400  # of each series
    forecasts: int = 150  # of each series
    scores: int = 100  # of each series and step
    pooled_scores: int = 2_000  # of each step, over all series
    pooled_steps: int = 64
    latencies: int = 500


SERIES_BYTES: Final = 1_200
CANDLE_BYTES: Final = 410
FORECAST_BYTES: Final = 420
OUTCOME_BYTES: Final = 160
SCORE_BYTES: Final = 210
"""What each takes in memory, about; a forecast beside its JSON."""


class KeptCandle(msgspec.Struct, frozen=True, gc=False):
    """A candle of the topic."""

    open_ms: int
    close_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    appended_ms: int  # by the broker
    origin: Origin

    def as_json(self) -> dict[str, float]:
        """Return the candle as ``StreamCandle`` has it."""
        return {
            "open_ms": self.open_ms,
            "close_ms": self.close_ms,
            "open": self.open,
            "high": self.high,
            "low": self.low,
            "close": self.close,
            "volume": self.volume,
        }


class StreamEvent(msgspec.Struct, frozen=True, gc=False):
    """News for the clients of the event stream."""

    kind: str  # candle, forecast or score
    symbol: str
    interval: str
    data: bytes  # JSON
    origins: tuple[Origin, ...]  # the messages that it was derived from


class KeptScore(msgspec.Struct, frozen=True, gc=False):
    """The fields of a score that ``summarise`` reads."""

    step: int
    error: float
    baseline_error: float
    pinball: float
    pit: float
    inside: Mapping[str, bool]


class KeptForecast(msgspec.Struct, gc=False):
    """A forecast with its outcomes so far."""

    id: str
    as_of_ms: int
    encoded: bytes
    awaited: tuple[int, ...]  # steps without an outcome, rising
    origin: Origin
    outcomes: tuple[bytes, ...] = ()  # JSON

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as ``PastForecast`` has it."""
        outcomes = [orjson.Fragment(outcome) for outcome in self.outcomes]
        return {"forecast": orjson.Fragment(self.encoded), "outcomes": outcomes}

    @property
    def size(self) -> int:
        """Bytes that it takes in memory once it is settled, about."""
        steps = len(self.awaited) + len(self.outcomes)
        return FORECAST_BYTES + len(self.encoded) + steps * OUTCOME_BYTES


@dataclass
class MarketSeries:
    """Candles, forecasts and scores of one symbol and interval."""

    symbol: str
    interval: str
    candles: list[KeptCandle] = field(default_factory=list)  # by opening time
    forecasts: dict[int, KeptForecast] = field(default_factory=dict)  # by as_of_ms
    open_forecasts: set[int] = field(default_factory=set)  # as_of_ms of those that await a step
    scores: dict[int, deque[KeptScore]] = field(default_factory=dict)  # by step
    forecast_bytes: int = 0

    @property
    def latest(self) -> KeptForecast | None:
        """The forecast made at the newest candle."""
        return self.forecasts[max(self.forecasts)] if self.forecasts else None

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        return SERIES_BYTES + self.candle_bytes + self.forecast_bytes + self.score_bytes

    @property
    def candle_bytes(self) -> int:
        return len(self.candles) * CANDLE_BYTES

    @property
    def score_bytes(self) -> int:
        return sum(map(len, self.scores.values())) * SCORE_BYTES

    def put(self, past: KeptForecast) -> None:
        """Keep a forecast, in the place of one of the same candle."""
        self.drop(past.as_of_ms)
        self.forecasts[past.as_of_ms] = past
        self.open_forecasts.add(past.as_of_ms)
        self.forecast_bytes += past.size

    def drop(self, as_of_ms: int) -> None:
        """Forget the forecast of a candle, if there is one."""
        past = self.forecasts.pop(as_of_ms, None)
        self.open_forecasts.discard(as_of_ms)
        self.forecast_bytes -= past.size if past else 0

    def trim(self, most_bytes: int) -> None:
        """Forget the oldest of whatever takes most, until the rest is within the bytes."""
        while self.size > most_bytes:
            largest = max(self.candle_bytes, self.forecast_bytes, self.score_bytes)
            if self.score_bytes == largest and self.scores:
                longest = max(self.scores, key=lambda step: len(self.scores[step]))
                self.scores[longest].popleft()
                if not self.scores[longest]:
                    del self.scores[longest]
            elif self.forecast_bytes == largest and len(self.forecasts) > 1:
                self.drop(min(self.forecasts))
            elif len(self.candles) > 1:
                del self.candles[0]
            else:
                return


_INSIDE: Final[dict[tuple[tuple[str, bool], ...], Mapping[str, bool]]] = {}
"""Mappings that scores share: there are few different ones."""


class Market:
    """Every series of the topics, within bounds.

    A series takes no more than its share of the bytes once all of these are taken; after that
    the one goes that has been silent for longest.
    """

    def __init__(
        self, bounds: MarketBounds | None = None, forgotten: Callable[[], object] = int
    ) -> None:
        """``forgotten`` is called for each series that had to go."""
        self.bounds = bounds or MarketBounds()
        self.series: OrderedDict[Key, MarketSeries] = OrderedDict()  # silent longest first
        self.size = 0  # bytes of all series, about
        self._forgotten = forgotten
        self.pooled: dict[int, deque[KeptScore]] = {}
        self.latencies_ms: deque[int] = deque(maxlen=self.bounds.latencies)
        self.newest_made_ms: int | None = None

    def clear(self) -> None:
        """Forget all, as when the topics were recreated."""
        self.series.clear()
        self.size = 0
        self.pooled.clear()
        self.latencies_ms.clear()
        self.newest_made_ms = None

    def add_candle(self, candle: Candle, appended_ms: int, origin: Origin) -> list[StreamEvent]:
        """Add a candle in its place by time; return the events, none for a repeat."""
        kept = KeptCandle(
            candle.open_ms, candle.close_ms, candle.open, candle.high, candle.low, candle.close,
            candle.volume, appended_ms, origin,
        )  # fmt: skip
        with self._growing((candle.symbol, candle.interval)) as series:
            if not _place(series.candles, kept, self.bounds.candles):
                return []
            data = {"symbol": series.symbol, "interval": series.interval, **kept.as_json()}
            encoded = _exact(orjson.dumps(data))
            event = StreamEvent("candle", series.symbol, series.interval, encoded, (origin,))
            return [event, *self._settle(series)]

    def add_forecast(
        self, forecast: Forecast, appended_ms: int, origin: Origin
    ) -> list[StreamEvent]:
        """Add a forecast, or replace that of a candle since corrected; return the events."""
        with self._growing((forecast.symbol, forecast.interval)) as series:
            known = series.forecasts.get(forecast.as_of_ms)
            if known is not None and known.id == forecast.id:
                return []
            past = KeptForecast(
                forecast.id,
                forecast.as_of_ms,
                _exact(forecast.encode()),
                tuple(horizon.step for horizon in forecast.horizons),
                origin,
            )
            series.put(past)
            while len(series.forecasts) > self.bounds.forecasts:
                series.drop(min(series.forecasts))
            self.newest_made_ms = max(self.newest_made_ms or 0, forecast.made_at_ms)
            self._clock_latency(series, past.as_of_ms, appended_ms)
            event = StreamEvent("forecast", series.symbol, series.interval, past.encoded, (origin,))
            return [event, *self._settle(series)]

    def summaries(self, series: MarketSeries) -> list[Summary]:
        """Return the summary of each step of a series that has scores."""
        return [summarise(series.scores[step]) for step in sorted(series.scores)]

    def overall(self) -> list[Summary]:
        """Return the summary of each step over all series."""
        return [summarise(self.pooled[step]) for step in sorted(self.pooled)]

    def chosen(
        self, symbols: frozenset[str] | None = None, interval: str | None = None
    ) -> Iterator[MarketSeries]:
        """Yield the series of these symbols and this interval, by name; None takes all."""
        for key in sorted(self.series):
            if (symbols is None or key[0] in symbols) and interval in {None, key[1]}:
                yield self.series[key]

    @contextmanager
    def _growing(self, key: Key) -> Iterator[MarketSeries]:
        """Yield a series, perhaps a new one, to add to; then keep the bounds."""
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = MarketSeries(*key)
            self.size += series.size
        self.series.move_to_end(key)
        before = series.size
        try:
            yield series
        finally:
            if self.size + series.size - before > self.bounds.size:
                series.trim(self.bounds.size // len(self.series))
            self.size += series.size - before
            self._keep_bounds()

    def _keep_bounds(self) -> None:
        while len(self.series) > 1 and (
            self.size > self.bounds.size or len(self.series) > self.bounds.series
        ):
            _, silent = self.series.popitem(last=False)
            self.size -= silent.size
            self._forgotten()

    def _clock_latency(self, series: MarketSeries, as_of_ms: int, appended_ms: int) -> None:
        at = _at_close(series.candles, as_of_ms)
        if at is not None:
            self.latencies_ms.append(max(appended_ms - series.candles[at].appended_ms, 0))

    def _settle(self, series: MarketSeries) -> list[StreamEvent]:
        """Score the forecasts whose awaited candles have arrived."""
        events: list[StreamEvent] = []
        for as_of_ms in sorted(series.open_forecasts):
            past = series.forecasts[as_of_ms]
            at = _at_close(series.candles, as_of_ms)
            forecast: Forecast | None = None
            while at is not None and past.awaited and at + past.awaited[0] < len(series.candles):
                step, *later = past.awaited
                past.awaited = tuple(later)
                forecast = forecast or Forecast.decode(past.encoded)
                candle = series.candles[at + step]
                events.append(self._score(series, past, forecast, step, candle))
            if not past.awaited:
                series.open_forecasts.discard(as_of_ms)
        return events

    def _score(
        self,
        series: MarketSeries,
        past: KeptForecast,
        forecast: Forecast,
        step: int,
        candle: KeptCandle,
    ) -> StreamEvent:
        horizon = next(other for other in forecast.horizons if other.step == step)
        settled = score(forecast, horizon, candle.close, candle.close_ms)
        outcome = {
            "step": step,
            "close_ms": candle.close_ms,
            "close": candle.close,
            "inside": dict(settled.inside),
        }
        past.outcomes = (*past.outcomes, _exact(orjson.dumps(outcome)))
        kept = _kept(settled)
        series.scores.setdefault(step, deque(maxlen=self.bounds.scores)).append(kept)
        if step in self.pooled or len(self.pooled) < self.bounds.pooled_steps:
            pool = self.pooled.setdefault(step, deque(maxlen=self.bounds.pooled_scores))
            pool.append(kept)
        origins = (past.origin, candle.origin)
        encoded = _exact(settled.encode())
        return StreamEvent("score", series.symbol, series.interval, encoded, origins)


def _exact(encoded: bytes) -> bytes:
    """Return a copy that takes its own length: an encoder's result holds on to its buffer."""
    return bytes(memoryview(encoded))


def _kept(full: Score) -> KeptScore:
    inside = _INSIDE.setdefault(tuple(full.inside.items()), full.inside)
    return KeptScore(full.step, full.error, full.baseline_error, full.pinball, full.pit, inside)


def _place(candles: list[KeptCandle], candle: KeptCandle, capacity: int) -> bool:
    """Put a candle in its place by time; return whether that changed anything."""
    if not candles or candle.open_ms > candles[-1].open_ms:
        candles.append(candle)
        if len(candles) > capacity:
            del candles[0]
        return True
    at = bisect_left(candles, candle.open_ms, key=_open_ms)
    if candles[at].open_ms == candle.open_ms:
        if candles[at].as_json() == candle.as_json():
            return False
        candles[at] = candle
        return True
    if len(candles) >= capacity:
        return False
    candles.insert(at, candle)
    return True


def _at_close(candles: list[KeptCandle], close_ms: int) -> int | None:
    """Return the place of the candle that closed at a time; None where there is none."""
    at = bisect_left(candles, close_ms, key=_close_ms)
    return at if at < len(candles) and candles[at].close_ms == close_ms else None


def _open_ms(candle: KeptCandle) -> int:
    return candle.open_ms


def _close_ms(candle: KeptCandle) -> int:
    return candle.close_ms


def quantile(values: Iterable[int], level: float) -> float | None:
    """Return the value below which a share of the values lies; None for no values."""
    ordered = sorted(values)
    return float(ordered[min(int(level * len(ordered)), len(ordered) - 1)]) if ordered else None
