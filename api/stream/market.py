"""Candles, forecasts and scores of each symbol and interval, in memory and bounded; no I/O.

All come from topics, in any order between these: outcomes wait for their forecast. A score of a
corrected candle takes the place of the one before.

What is kept by the hundred thousand are arrays, or structs that Python's collector does not
follow, with bytes and numbers in them and no cycles: to walk those of 200 symbols took it an
eighth of a second, and held up everybody.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import orjson

from api.forecast.calibrated import Learned
from api.stream.candle_row import CANDLE_BYTES, CandleRow, KeptCandle
from api.stream.cursors import Origin
from shared.candles import INTERVALS_MS, Candle
from shared.feature_drift import FeatureDrift, Reference
from shared.forecasts import MAX_HORIZONS, Forecast
from shared.score_messages import Correction, Scores
from shared.scores import ScoreTable, Summary, row_of, summarise

Key = tuple[str, str]
"""Symbol and interval."""


@dataclass(frozen=True)
class MarketBounds:
    """How many of each are kept in memory, and in how many bytes, about."""

    size: int = 176 << 20  # of all series
    series: int = 20_000
    candles: int = 2_048  # of each series: the longest window that a worker keeps
    forecasts: int = 150  # of each series
    scores: int = 100  # newest of each series and step, which its summary is of
    record: int = 250  # of each series and step
    pooled_scores: int = 2_000  # of each interval and step, over all series
    pooled_steps: int = 256  # intervals and steps
    latencies: int = 500


SERIES_BYTES: Final = 1_350
FORECAST_BYTES: Final = 420
OUTCOME_BYTES: Final = 180
CORRECTION_BYTES: Final = 200
"""What each takes in memory, about; a forecast beside its JSON."""

TRIMMED: Final = 0.9
"""What a series keeps of its share when it is trimmed."""


class StreamEvent(msgspec.Struct, frozen=True, gc=False):
    """News for the clients of the event stream."""

    kind: str  # candle, forecast or score
    symbol: str
    interval: str
    data: bytes  # JSON
    origin: Origin  # the message that it is of


class KeptOutcome(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one step of a forecast."""

    forecast_id: str
    step: int
    encoded: bytes  # ``StepOutcome`` in JSON


class KeptForecast(msgspec.Struct, frozen=True, gc=False):
    """A forecast of the topic."""

    id: str
    as_of_ms: int
    encoded: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        return FORECAST_BYTES + len(self.encoded)


class KeptCorrection(msgspec.Struct, frozen=True, gc=False):
    """How a step of a series is corrected now."""

    encoded: bytes  # ``Correction`` in JSON
    close_ms: int  # of the newest candle that it has learned from

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        return CORRECTION_BYTES + len(self.encoded)


class KeptDrift(msgspec.Struct, frozen=True, gc=False):
    """How far a series is from what the model says, as ``shared.drift.Drift``."""

    evidence: float
    drifting: int
    shift: float
    spread: float


@dataclass
class MarketSeries:
    """Candles, forecasts and scores of one symbol and interval."""

    symbol: str
    interval: str
    candles: CandleRow = field(default_factory=CandleRow)
    forecasts: dict[int, KeptForecast] = field(default_factory=dict)  # by as_of_ms
    outcomes: dict[int, tuple[KeptOutcome, ...]] = field(default_factory=dict)  # by as_of_ms
    scores: dict[int, ScoreTable] = field(default_factory=dict)  # by step
    corrections: dict[int, KeptCorrection] = field(default_factory=dict)  # by step
    drift: KeptDrift | None = None
    drift_ms: int = 0  # close of the candle that it is as of
    forecast_bytes: int = 0
    counted: int = 0  # its size in the market's

    @property
    def latest(self) -> KeptForecast | None:
        """The forecast made at the newest candle."""
        return self.forecasts[max(self.forecasts)] if self.forecasts else None

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        return (
            SERIES_BYTES
            + self.candle_bytes
            + self.forecast_bytes
            + self.score_bytes
            + sum(kept.size for kept in self.corrections.values())
        )

    @property
    def candle_bytes(self) -> int:
        return len(self.candles) * CANDLE_BYTES

    @property
    def score_bytes(self) -> int:
        return sum(table.size for table in self.scores.values())

    def past(self, as_of_ms: int) -> dict[str, Any]:
        """Return the forecast of a candle with its outcomes, as ``PastForecast`` has it."""
        kept = self.forecasts[as_of_ms]
        outcomes = [
            orjson.Fragment(outcome.encoded)
            for outcome in self.outcomes.get(as_of_ms, ())
            if outcome.forecast_id == kept.id
        ]
        return {"forecast": orjson.Fragment(kept.encoded), "outcomes": outcomes}

    def put(self, kept: KeptForecast, most: int) -> None:
        """Keep a forecast, in the place of one of the same candle."""
        known = self.forecasts.pop(kept.as_of_ms, None)
        self.forecast_bytes += kept.size - (known.size if known else 0)
        self.forecasts[kept.as_of_ms] = kept
        while len(self.forecasts) > most:
            self.drop(min(self.forecasts))

    def put_outcome(self, as_of_ms: int, outcome: KeptOutcome, most: int) -> bool:
        """Keep the outcome of a step, in the place of that known before.

        Returns whether that changed anything.
        """
        known = self.outcomes.get(as_of_ms, ())
        if outcome in known:
            return False
        kept = [other for other in known if other.step != outcome.step]
        self.outcomes[as_of_ms] = tuple(sorted([*kept, outcome], key=_step_of))
        self.forecast_bytes += (len(kept) + 1 - len(known)) * OUTCOME_BYTES
        while len(self.outcomes) > most:
            self.drop(min(self.outcomes))
        return True

    def drop(self, as_of_ms: int) -> None:
        """Forget the forecast of a candle and its outcomes."""
        kept = self.forecasts.pop(as_of_ms, None)
        outcomes = self.outcomes.pop(as_of_ms, ())
        self.forecast_bytes -= (kept.size if kept else 0) + len(outcomes) * OUTCOME_BYTES

    def trim(self, most_bytes: int) -> None:
        """Forget the oldest of whatever takes most, until the rest is within the bytes."""
        while self.size > most_bytes:
            largest = max(self.candle_bytes, self.forecast_bytes, self.score_bytes)
            oldest = min((*self.forecasts, *self.outcomes), default=0)
            if self.score_bytes == largest and self.scores:
                longest = max(self.scores, key=lambda step: len(self.scores[step]))
                self.scores[longest].halve()
                if not len(self.scores[longest]):
                    del self.scores[longest]
            elif self.forecast_bytes == largest and len(self.forecasts) > 1:
                self.drop(oldest)
            elif len(self.candles) > 1:
                self.candles.drop_oldest()
            elif self.outcomes:
                self.drop(oldest)
            else:
                return


class Market:
    """Every series of the topics, within bounds.

    A series takes no more than its share of the bytes once all of these are taken. The one that
    has been silent for longest goes when there are too many, or shares too small for one message.
    """

    def __init__(
        self,
        bounds: MarketBounds | None = None,
        forgotten: Callable[[], object] = int,
        references: Callable[[], Mapping[str, Reference]] = dict,
    ) -> None:
        """Make an empty market.

        Args:
            bounds: of what is kept.
            forgotten: called for each series that had to go.
            references: returns the models served, by version, that know the features of their
                training.
        """
        self.bounds = bounds or MarketBounds()
        self.series: OrderedDict[Key, MarketSeries] = OrderedDict()  # silent longest first
        self.size = 0  # bytes of all series, about
        self._turns: deque[Key] = deque()  # series to be trimmed, where there is no room
        self._forgotten = forgotten
        self.pooled: dict[tuple[str, int], ScoreTable] = {}  # by interval and step
        self.features = FeatureDrift(references)
        self.latencies_ms: deque[int] = deque(maxlen=self.bounds.latencies)
        self.newest_made_ms: int | None = None

    def clear(self) -> None:
        """Forget all, as when the topics were recreated."""
        self.series.clear()
        self.size = 0
        self.pooled.clear()
        self.features.clear()
        self.latencies_ms.clear()
        self.newest_made_ms = None

    def add_candle(self, candle: Candle, appended_ms: int, origin: Origin) -> StreamEvent | None:
        """Add a candle in its place by time; return the news, None for a repeat."""
        kept = KeptCandle(
            candle.open_ms, candle.close_ms, candle.open, candle.high, candle.low, candle.close,
            candle.volume, appended_ms,
        )  # fmt: skip
        with self._growing((candle.symbol, candle.interval)) as series:
            if not series.candles.put(kept, self.bounds.candles):
                return None
            data = {"symbol": series.symbol, "interval": series.interval, **kept.as_json()}
            encoded = _exact(orjson.dumps(data))
            return StreamEvent("candle", series.symbol, series.interval, encoded, origin)

    def add_forecast(
        self, forecast: Forecast, appended_ms: int, origin: Origin
    ) -> StreamEvent | None:
        """Add a forecast, or replace that of a candle since corrected; return the news."""
        with self._growing((forecast.symbol, forecast.interval)) as series:
            known = series.forecasts.get(forecast.as_of_ms)
            if known is not None and known.id == forecast.id:
                return None
            kept = KeptForecast(forecast.id, forecast.as_of_ms, _exact(forecast.encode()))
            series.put(kept, self.bounds.forecasts)
            if forecast.feature_bins is not None:
                bins = forecast.feature_bins
                self.features.note(forecast.interval, forecast.model_version, bins)
            self.newest_made_ms = max(self.newest_made_ms or 0, forecast.made_at_ms)
            self._clock_latency(series, kept.as_of_ms, appended_ms)
            return StreamEvent("forecast", series.symbol, series.interval, kept.encoded, origin)

    def add_scores(self, scores: Scores, origin: Origin) -> StreamEvent | None:
        """Add what a candle has settled; return the news, None for a repeat."""
        with self._growing((scores.symbol, scores.interval)) as series:
            is_new = False
            for score in scores.horizons:
                if score.step not in series.scores and len(series.scores) >= MAX_HORIZONS:
                    continue
                row = row_of(score)
                table = series.scores.setdefault(score.step, ScoreTable())
                if table.put(row, self.bounds.record):
                    self._pool(scores.interval, score.step, row)
                came = {
                    "step": score.step,
                    "close_ms": scores.close_ms,
                    "close": scores.close,
                    "inside": score.inside,
                }
                outcome = KeptOutcome(score.forecast_id, score.step, _exact(orjson.dumps(came)))
                is_new |= series.put_outcome(score.as_of_ms, outcome, self.bounds.forecasts)
                known = series.corrections.get(score.step)
                if score.correction and (known is None or known.close_ms <= scores.close_ms):
                    encoded = _exact(score.correction.encode())
                    series.corrections[score.step] = KeptCorrection(encoded, scores.close_ms)
            if scores.drift is not None and scores.close_ms >= series.drift_ms:
                series.drift = KeptDrift(**scores.drift.model_dump())
                series.drift_ms = scores.close_ms
            if not is_new:
                return None
            data = _exact(scores.encode())
            return StreamEvent("score", series.symbol, series.interval, data, origin)

    def summaries(self, series: MarketSeries) -> list[Summary]:
        """Return the summary of each step of a series that has scores."""
        most = self.bounds.scores
        return [
            summarise(table.newest(most), step) for step, table in sorted(series.scores.items())
        ]

    def overall(self, *, first: bool = False) -> dict[str, list[Summary]]:
        """Return the summary of each step over all series of an interval, by interval.

        ``first`` leaves out all but the first step of each interval.
        """
        found: dict[str, list[Summary]] = {}
        for (interval, step), table in sorted(self.pooled.items(), key=_length_of):
            if first and interval in found:
                continue
            rows = table.newest(self.bounds.pooled_scores)
            found.setdefault(interval, []).append(summarise(rows, step))
        return found

    def learned(self, symbol: str, interval: str) -> Learned | None:
        """Return how a series is corrected now; None for one that has learned nothing."""
        series = self.series.get((symbol, interval))
        if series is None or not series.corrections:
            return None
        return Learned(
            {
                step: Correction.model_validate_json(kept.encoded)
                for step, kept in series.corrections.items()
            },
            max(kept.close_ms for kept in series.corrections.values()),
        )

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
        self.series.move_to_end(key)
        try:
            yield series
        finally:
            self._count(series)
            self._keep_bounds()

    def _count(self, series: MarketSeries) -> None:
        self.size -= series.counted
        series.counted = series.size
        self.size += series.counted

    def _keep_bounds(self) -> None:
        """Trim series to their share in turn; only where that is too little forget any.

        They are trimmed somewhat below it, so that the next is not due before there is as much
        news: a message causes one look at another series in the mean, whatever their number.
        """
        while len(self.series) > self.bounds.series:
            self._forget()
        looks = 0
        while self.size > self.bounds.size and len(self.series) > 1:
            if looks > len(self.series):
                self._forget()
                continue
            if not self._turns:
                self._turns.extend(self.series)
            series = self.series.get(self._turns.popleft())
            looks += 1
            most = int(TRIMMED * self.bounds.size / len(self.series))
            if series is not None and series.counted > most:
                series.trim(most)
                self._count(series)

    def _forget(self) -> None:
        _, silent = self.series.popitem(last=False)
        self.size -= silent.counted
        self._forgotten()

    def _clock_latency(self, series: MarketSeries, as_of_ms: int, appended_ms: int) -> None:
        candle = series.candles.closed_at(as_of_ms)
        if candle is not None:
            self.latencies_ms.append(max(appended_ms - candle.appended_ms, 0))

    def _pool(self, interval: str, step: int, row: tuple[Any, ...]) -> None:
        key = interval, step
        if key in self.pooled or len(self.pooled) < self.bounds.pooled_steps:
            self.pooled.setdefault(key, ScoreTable()).append(row, self.bounds.pooled_scores)


def _exact(encoded: bytes) -> bytes:
    """Return a copy that takes its own length: an encoder's result holds on to its buffer."""
    return bytes(memoryview(encoded))


def _step_of(outcome: KeptOutcome) -> int:
    return outcome.step


def _length_of(pooled: tuple[tuple[str, int], ScoreTable]) -> tuple[int, int]:
    (interval, step), _ = pooled
    return INTERVALS_MS[interval], step


def quantile(values: Iterable[int], level: float) -> float | None:
    """Return the value below which a share of the values lies; None for no values."""
    ordered = sorted(values)
    return float(ordered[min(int(level * len(ordered)), len(ordered) - 1)]) if ordered else None
