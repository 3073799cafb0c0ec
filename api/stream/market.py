"""What the topics have brought, by symbol and interval: candles, forecasts, scores. Pure, bounded.

A forecast of ``step`` candles is scored when its candle has come, by counting candles from the one
that it was made at: sessions, holidays and halts need no calendar. A score is not taken back
when a correction of that candle comes later.

What is kept by the hundred thousand are structs that Python's collector does not follow, with
bytes and numbers in them and no cycles: to walk those of 200 symbols took it an eighth of a
second, and held up everybody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import orjson

from api.stream.cursors import Source
from shared.candles import Candle
from shared.forecasts import Forecast
from shared.scores import Score, Summary, score, summarise

Key = tuple[str, str]
"""Symbol and interval."""


@dataclass(frozen=True)
class Bounds:
    """How much is kept."""

    series: int = 5_000
    candles: int = 400  # of each series
    forecasts: int = 150  # of each series
    scores: int = 100  # of each series and step
    pooled_scores: int = 2_000  # of each step, over all series
    latencies: int = 500


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A candle."""

    open_ms: int
    close_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    appended_ms: int  # by the broker
    source: Source

    def as_json(self) -> dict[str, float]:
        """Return what clients see of it."""
        return {
            "open_ms": self.open_ms,
            "close_ms": self.close_ms,
            "open": self.open,
            "high": self.high,
            "low": self.low,
            "close": self.close,
            "volume": self.volume,
        }


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that clients of the stream may want to know."""

    kind: str  # candle, forecast or score
    symbol: str
    interval: str
    data: bytes  # JSON
    sources: tuple[Source, ...]  # the messages that it follows from


class Scored(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a score; as much as ``summarise`` looks at."""

    step: int
    error: float
    baseline_error: float
    pinball: float
    pit: float
    inside: Mapping[str, bool]


class Past(msgspec.Struct, gc=False):
    """A forecast, and what came of it."""

    id: str
    as_of_ms: int
    encoded: bytes
    awaited: tuple[int, ...]  # steps without an outcome, rising
    source: Source
    outcomes: tuple[bytes, ...] = ()  # JSON

    def as_json(self) -> dict[str, Any]:
        """Return what clients see of it."""
        outcomes = [orjson.Fragment(one) for one in self.outcomes]
        return {"forecast": orjson.Fragment(self.encoded), "outcomes": outcomes}


@dataclass
class MarketSeries:
    """Candles, forecasts and scores of one symbol and interval."""

    symbol: str
    interval: str
    candles: list[Seen] = field(default_factory=list)  # by opening time
    forecasts: OrderedDict[int, Past] = field(default_factory=OrderedDict)  # by as_of_ms
    open_forecasts: dict[int, Forecast] = field(default_factory=dict)  # some step is awaited
    scores: dict[int, deque[Scored]] = field(default_factory=dict)  # by step

    @property
    def latest(self) -> Past | None:
        """The forecast made at the newest candle."""
        return self.forecasts[max(self.forecasts)] if self.forecasts else None


_INSIDE: Final[dict[tuple[tuple[str, bool], ...], Mapping[str, bool]]] = {}


class Market:
    """Every series that the topics have shown."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.series: dict[Key, MarketSeries] = {}
        self.pooled: dict[int, deque[Scored]] = {}
        self.latencies_ms: deque[int] = deque(maxlen=self.bounds.latencies)
        self.newest_made_ms: int | None = None

    def clear(self) -> None:
        """Forget all, as when the topics were made anew."""
        self.series.clear()
        self.pooled.clear()
        self.latencies_ms.clear()
        self.newest_made_ms = None

    def add_candle(self, candle: Candle, appended_ms: int, source: Source) -> list[Event]:
        """Take a candle in, in its place by time; return what is new. A repeat is not."""
        series = self._series((candle.symbol, candle.interval))
        seen = Seen(
            candle.open_ms, candle.close_ms, candle.open, candle.high, candle.low, candle.close,
            candle.volume, appended_ms, source,
        )  # fmt: skip
        if series is None or not _place(series.candles, seen, self.bounds.candles):
            return []
        data = {"symbol": series.symbol, "interval": series.interval, **seen.as_json()}
        events = [Event("candle", series.symbol, series.interval, orjson.dumps(data), (source,))]
        return events + self._settle(series)

    def add_forecast(self, forecast: Forecast, appended_ms: int, source: Source) -> list[Event]:
        """Take a forecast in; one of a corrected candle replaces its former. Return what is new."""
        series = self._series((forecast.symbol, forecast.interval))
        known = series.forecasts.get(forecast.as_of_ms) if series else None
        if series is None or (known is not None and known.id == forecast.id):
            return []
        past = Past(
            forecast.id,
            forecast.as_of_ms,
            forecast.encode(),
            tuple(one.step for one in forecast.horizons),
            source,
        )
        series.forecasts[past.as_of_ms] = past
        series.open_forecasts[past.as_of_ms] = forecast
        while len(series.forecasts) > self.bounds.forecasts:
            oldest = min(series.forecasts)
            del series.forecasts[oldest]
            series.open_forecasts.pop(oldest, None)
        self.newest_made_ms = max(self.newest_made_ms or 0, forecast.made_at_ms)
        self._clock_latency(series, past.as_of_ms, appended_ms)
        events = [Event("forecast", series.symbol, series.interval, past.encoded, (source,))]
        return events + self._settle(series)

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

    def _series(self, key: Key) -> MarketSeries | None:
        """Return a series, a new one while there is room."""
        found = self.series.get(key)
        if found is None and len(self.series) < self.bounds.series:
            found = self.series[key] = MarketSeries(*key)
        return found

    def _clock_latency(self, series: MarketSeries, as_of_ms: int, appended_ms: int) -> None:
        at = _at_close(series.candles, as_of_ms)
        if at is not None:
            self.latencies_ms.append(max(appended_ms - series.candles[at].appended_ms, 0))

    def _settle(self, series: MarketSeries) -> list[Event]:
        """Score what the candles now decide."""
        events: list[Event] = []
        for as_of_ms in list(series.open_forecasts):
            at = _at_close(series.candles, as_of_ms)
            past = series.forecasts[as_of_ms]
            while at is not None and past.awaited and at + past.awaited[0] < len(series.candles):
                step, *later = past.awaited
                past.awaited = tuple(later)
                came = series.candles[at + step]
                events.append(self._score(series, past, step, came))
            if not past.awaited:
                del series.open_forecasts[as_of_ms]
        return events

    def _score(self, series: MarketSeries, past: Past, step: int, came: Seen) -> Event:
        forecast = series.open_forecasts[past.as_of_ms]
        horizon = next(one for one in forecast.horizons if one.step == step)
        made = score(forecast, horizon, came.close, came.close_ms)
        outcome = {
            "step": step,
            "close_ms": came.close_ms,
            "close": came.close,
            "inside": dict(made.inside),
        }
        past.outcomes = (*past.outcomes, orjson.dumps(outcome))
        kept = _kept(made)
        series.scores.setdefault(step, deque(maxlen=self.bounds.scores)).append(kept)
        self.pooled.setdefault(step, deque(maxlen=self.bounds.pooled_scores)).append(kept)
        sources = (past.source, came.source)
        return Event("score", series.symbol, series.interval, made.encode(), sources)


def _kept(made: Score) -> Scored:
    inside = _INSIDE.setdefault(tuple(made.inside.items()), made.inside)
    return Scored(made.step, made.error, made.baseline_error, made.pinball, made.pit, inside)


def _place(candles: list[Seen], seen: Seen, capacity: int) -> bool:
    """Put a candle in its place; return whether that changed anything."""
    if not candles or seen.open_ms > candles[-1].open_ms:
        candles.append(seen)
        if len(candles) > capacity:
            del candles[0]
        return True
    at = bisect_left(candles, seen.open_ms, key=_open_ms)
    if candles[at].open_ms == seen.open_ms:
        if candles[at].as_json() == seen.as_json():
            return False
        candles[at] = seen
        return True
    if len(candles) >= capacity:
        return False
    candles.insert(at, seen)
    return True


def _at_close(candles: list[Seen], close_ms: int) -> int | None:
    """Return the place of the candle that closed at a time, if it is among them."""
    at = bisect_left(candles, close_ms, key=_close_ms)
    return at if at < len(candles) and candles[at].close_ms == close_ms else None


def _open_ms(seen: Seen) -> int:
    return seen.open_ms


def _close_ms(seen: Seen) -> int:
    return seen.close_ms


def quantile(values: Iterable[int], level: float) -> float | None:
    """Return the value below which a share of the values lies; None of none."""
    ordered = sorted(values)
    return float(ordered[min(int(level * len(ordered)), len(ordered) - 1)]) if ordered else None
