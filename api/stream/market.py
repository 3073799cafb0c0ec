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
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
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
    """How many of each are kept in memory."""

    series: int = 5_000
    candles: int = 400  # of each series
    forecasts: int = 150  # of each series
    scores: int = 100  # of each series and step
    pooled_scores: int = 2_000  # of each step, over all series
    latencies: int = 500


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


@dataclass
class MarketSeries:
    """Candles, forecasts and scores of one symbol and interval."""

    symbol: str
    interval: str
    candles: list[KeptCandle] = field(default_factory=list)  # by opening time
    forecasts: dict[int, KeptForecast] = field(default_factory=dict)  # by as_of_ms
    open_forecasts: dict[int, Forecast] = field(default_factory=dict)  # with an awaited step
    scores: dict[int, deque[KeptScore]] = field(default_factory=dict)  # by step

    @property
    def latest(self) -> KeptForecast | None:
        """The forecast made at the newest candle."""
        return self.forecasts[max(self.forecasts)] if self.forecasts else None


_INSIDE: Final[dict[tuple[tuple[str, bool], ...], Mapping[str, bool]]] = {}
"""Mappings that scores share: there are few different ones."""


class Market:
    """Every series of the topics."""

    def __init__(self, bounds: MarketBounds | None = None) -> None:
        self.bounds = bounds or MarketBounds()
        self.series: dict[Key, MarketSeries] = {}
        self.pooled: dict[int, deque[KeptScore]] = {}
        self.latencies_ms: deque[int] = deque(maxlen=self.bounds.latencies)
        self.newest_made_ms: int | None = None

    def clear(self) -> None:
        """Forget all, as when the topics were recreated."""
        self.series.clear()
        self.pooled.clear()
        self.latencies_ms.clear()
        self.newest_made_ms = None

    def add_candle(self, candle: Candle, appended_ms: int, origin: Origin) -> list[StreamEvent]:
        """Add a candle in its place by time; return the events, none for a repeat."""
        series = self._series((candle.symbol, candle.interval))
        kept = KeptCandle(
            candle.open_ms, candle.close_ms, candle.open, candle.high, candle.low, candle.close,
            candle.volume, appended_ms, origin,
        )  # fmt: skip
        if series is None or not _place(series.candles, kept, self.bounds.candles):
            return []
        data = {"symbol": series.symbol, "interval": series.interval, **kept.as_json()}
        events = [
            StreamEvent("candle", series.symbol, series.interval, orjson.dumps(data), (origin,))
        ]
        return events + self._settle(series)

    def add_forecast(
        self, forecast: Forecast, appended_ms: int, origin: Origin
    ) -> list[StreamEvent]:
        """Add a forecast, or replace that of a candle since corrected; return the events."""
        series = self._series((forecast.symbol, forecast.interval))
        known = series.forecasts.get(forecast.as_of_ms) if series else None
        if series is None or (known is not None and known.id == forecast.id):
            return []
        past = KeptForecast(
            forecast.id,
            forecast.as_of_ms,
            forecast.encode(),
            tuple(horizon.step for horizon in forecast.horizons),
            origin,
        )
        series.forecasts[past.as_of_ms] = past
        series.open_forecasts[past.as_of_ms] = forecast
        while len(series.forecasts) > self.bounds.forecasts:
            oldest = min(series.forecasts)
            del series.forecasts[oldest]
            series.open_forecasts.pop(oldest, None)
        self.newest_made_ms = max(self.newest_made_ms or 0, forecast.made_at_ms)
        self._clock_latency(series, past.as_of_ms, appended_ms)
        events = [StreamEvent("forecast", series.symbol, series.interval, past.encoded, (origin,))]
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
        series = self.series.get(key)
        if series is None and len(self.series) < self.bounds.series:
            series = self.series[key] = MarketSeries(*key)
        return series

    def _clock_latency(self, series: MarketSeries, as_of_ms: int, appended_ms: int) -> None:
        at = _at_close(series.candles, as_of_ms)
        if at is not None:
            self.latencies_ms.append(max(appended_ms - series.candles[at].appended_ms, 0))

    def _settle(self, series: MarketSeries) -> list[StreamEvent]:
        """Score the forecasts whose awaited candles have arrived."""
        events: list[StreamEvent] = []
        for as_of_ms in list(series.open_forecasts):
            at = _at_close(series.candles, as_of_ms)
            past = series.forecasts[as_of_ms]
            while at is not None and past.awaited and at + past.awaited[0] < len(series.candles):
                step, *later = past.awaited
                past.awaited = tuple(later)
                events.append(self._score(series, past, step, series.candles[at + step]))
            if not past.awaited:
                del series.open_forecasts[as_of_ms]
        return events

    def _score(
        self, series: MarketSeries, past: KeptForecast, step: int, candle: KeptCandle
    ) -> StreamEvent:
        forecast = series.open_forecasts[past.as_of_ms]
        horizon = next(other for other in forecast.horizons if other.step == step)
        settled = score(forecast, horizon, candle.close, candle.close_ms)
        outcome = {
            "step": step,
            "close_ms": candle.close_ms,
            "close": candle.close,
            "inside": dict(settled.inside),
        }
        past.outcomes = (*past.outcomes, orjson.dumps(outcome))
        kept = _kept(settled)
        series.scores.setdefault(step, deque(maxlen=self.bounds.scores)).append(kept)
        self.pooled.setdefault(step, deque(maxlen=self.bounds.pooled_scores)).append(kept)
        origins = (past.origin, candle.origin)
        return StreamEvent("score", series.symbol, series.interval, settled.encode(), origins)


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
