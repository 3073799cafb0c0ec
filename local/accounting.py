"""Matches candles with their forecasts and scores: missing ones, latency, coverage. No I/O."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from shared.candles import Candle
from shared.forecasts import Forecast
from shared.score_messages import HorizonScore, Scores

REMEMBERED_IDS: Final = 50_000
"""Most forecasts whose repeats are known; after a crash a worker repeats what was in flight."""

MOST_WAITING: Final = 100_000
"""Most candles that wait for their forecast before the reader lets the forecasts catch up."""

MOST_EARLY: Final = 100_000
"""Most forecasts, and most scores, that wait for their candle: those of others never get one."""

_FINE_MS: Final = 10_000
_COARSE_MS: Final = 100


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the append of a candle to the append of its forecast; None of nothing."""

    p50: int | None
    p95: int | None
    p99: int | None


@dataclass(frozen=True)
class Coverage:
    """Shares of closes within the central intervals, by nominal per cent; empty without scores."""

    raw: dict[str, float]  # of the model's intervals
    calibrated: dict[str, float]  # of the published ones


@dataclass(frozen=True)
class Summary:
    """The result of a run."""

    candles_in: int  # valid candles in the topic, repeats among them
    forecasts_out: int  # distinct forecasts
    dead_letters: int
    missing_forecasts: int  # candles past the warm-up that have none
    latency_ms: Latency
    scores_out: int  # distinct scored horizons, without those scored again for a correction
    missing_scores: int  # horizons whose candle is here and that have none
    coverage: Coverage


@dataclass(slots=True)
class ModelScores:
    """How good the forecasts of a model were, so far."""

    first_ms: int  # close of the first candle that it forecast after, UTC
    last_ms: int
    horizons: int = 0  # settled
    pinball: float = 0.0  # sums of losses: of the calibrated quantiles,
    raw_pinball: float = 0.0  # of the model's own,
    baseline_pinball: float = 0.0  # of no model's

    @property
    def skill(self) -> float:
        """Share of the loss without a model that the published quantiles save."""
        return 1 - self.pinball / self.baseline_pinball if self.baseline_pinball else 0.0

    @property
    def raw_skill(self) -> float:
        """The same of the model's own quantiles."""
        return 1 - self.raw_pinball / self.baseline_pinball if self.baseline_pinball else 0.0

    def add(self, horizon: HorizonScore) -> None:
        """Count a horizon that is settled."""
        self.first_ms = min(self.first_ms, horizon.as_of_ms)
        self.last_ms = max(self.last_ms, horizon.as_of_ms)
        self.horizons += 1
        self.pinball += horizon.pinball
        self.raw_pinball += horizon.raw_pinball
        self.baseline_pinball += horizon.baseline_pinball


class LatencyCounts:
    """Counts of latencies, exact to the millisecond up to 10 s and to 0.1 s beyond."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, latency_ms: int) -> None:
        """Count one latency."""
        if latency_ms > _FINE_MS:
            latency_ms = round(latency_ms / _COARSE_MS) * _COARSE_MS
        self._counts[latency_ms] += 1

    def quantile(self, level: float) -> int | None:
        """Return the smallest latency that at least ``level`` of all do not exceed."""
        needed = level * self._counts.total()
        reached = 0
        for latency_ms, count in sorted(self._counts.items()):
            reached += count
            if reached >= needed:
                return latency_ms
        return None


@dataclass(slots=True)
class _Series:
    """What is remembered of one symbol and interval."""

    candles: int = 0  # distinct ones, in order
    last_open_ms: int = -1
    last_close_ms: int = -1


_K = TypeVar("_K")
_V = TypeVar("_V")
_Key = tuple[str, str, int]  # symbol, interval, close of the candle


class Accounting:
    """Matches forecasts with the candles that they come from.

    The n-th and each later distinct candle of a symbol and interval owes one forecast, n being
    the candles that the model needs, and a score for each horizon whose forecast was owed so many
    candles before. Messages come in order within a partition, but a forecast or a score may be
    read before its candle, since they lie in different topics. Memory grows with the number of
    series and of forecasts and scores that are missing, not with the length of the run.
    """

    def __init__(self, window_length: int, horizons: Sequence[int] = ()) -> None:
        """Take the model's candles in a window, and its horizons in candles ahead."""
        self._window_length = window_length
        self._horizons = tuple(horizons)
        self._unscored: dict[_Key, set[int]] = {}  # steps that a candle owes scores of
        self._early_scores: OrderedDict[_Key, set[int]] = OrderedDict()  # read before their candle
        self._score_ids: OrderedDict[str, None] = OrderedDict()
        self._inside: Counter[str] = Counter()
        self._raw_inside: Counter[str] = Counter()
        self._intervals: Counter[str] = Counter()
        self.scores = 0  # distinct horizons
        self.models: dict[str, ModelScores] = {}  # by version
        self._series: dict[tuple[str, str], _Series] = {}
        self._waiting: dict[_Key, int] = {}  # owed -> append of the candle
        # read before its candle -> append of the forecast
        self._early: OrderedDict[_Key, int] = OrderedDict()
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._latency = LatencyCounts()
        self.candles = 0  # valid ones
        self.forecasts = 0  # distinct ones
        self.repeated_candles = 0  # no newer than their predecessor: owe nothing
        self.repeated_forecasts = 0  # same id as before
        self.dead_letters = 0

    def candle(self, candle: Candle, append_ms: int) -> None:
        """Take a candle from its topic, appended there at ``append_ms``."""
        self.candles += 1
        series = self._series.setdefault((candle.symbol, candle.interval), _Series())
        if candle.open_ms <= series.last_open_ms:
            self.repeated_candles += 1
            return
        series.candles += 1
        series.last_open_ms = candle.open_ms
        series.last_close_ms = candle.close_ms
        key = (candle.symbol, candle.interval, candle.close_ms)
        forecast_append_ms = self._early.pop(key, None)
        if series.candles < self._window_length:
            return
        self._owe_scores(key, series.candles - self._window_length)
        if forecast_append_ms is None:
            self._waiting[key] = append_ms
        else:
            self._latency.add(forecast_append_ms - append_ms)

    def forecast(self, forecast: Forecast, append_ms: int) -> None:
        """Take a forecast from its topic, appended there at ``append_ms``."""
        if forecast.id in self._ids:
            self.repeated_forecasts += 1
            return
        _keep(self._ids, forecast.id, None, REMEMBERED_IDS)
        self.forecasts += 1
        key = (forecast.symbol, forecast.interval, forecast.as_of_ms)
        candle_append_ms = self._waiting.pop(key, None)
        if candle_append_ms is not None:
            self._latency.add(append_ms - candle_append_ms)
            return
        series = self._series.get(key[:2])
        if series is None or forecast.as_of_ms > series.last_close_ms:
            _keep(self._early, key, append_ms, MOST_EARLY)

    def _owe_scores(self, key: _Key, forecasts_before: int) -> None:
        due = {step for step in self._horizons if step <= forecasts_before}
        due -= self._early_scores.pop(key, set())
        if due:
            self._unscored[key] = due

    def score(self, scores: Scores) -> None:
        """Take the scores of a candle from their topic."""
        if scores.corrected or scores.id in self._score_ids:
            return
        _keep(self._score_ids, scores.id, None, REMEMBERED_IDS)
        steps = {horizon.step for horizon in scores.horizons}
        self.scores += len(steps)
        for horizon in scores.horizons:
            as_of_ms = horizon.as_of_ms
            new = ModelScores(as_of_ms, as_of_ms)
            self.models.setdefault(horizon.model_version, new).add(horizon)
            self._intervals.update(horizon.inside.keys())
            self._inside.update(name for name, held in horizon.inside.items() if held)
            self._raw_inside.update(name for name, held in horizon.raw_inside.items() if held)
        key = (scores.symbol, scores.interval, scores.close_ms)
        owed = self._unscored.get(key)
        if owed is None:
            series = self._series.get(key[:2])
            if series is None or scores.close_ms > series.last_close_ms:
                _keep(self._early_scores, key, steps, MOST_EARLY)
            return
        owed -= steps
        if not owed:
            del self._unscored[key]

    def dead_letter(self) -> None:
        """Take a message from the dead-letter topic."""
        self.dead_letters += 1

    @property
    def missing(self) -> int:
        """Candles that owe a forecast and have none yet."""
        return len(self._waiting)

    @property
    def missing_scores(self) -> int:
        """Horizons that are due and have no score yet."""
        return sum(map(len, self._unscored.values()))

    @property
    def is_ahead(self) -> bool:
        """True when so many candles wait that forecasts should be read first."""
        return len(self._waiting) > MOST_WAITING and not self._early

    def summary(self) -> Summary:
        """Return the account as it stands."""
        latency = Latency(*(self._latency.quantile(level) for level in (0.5, 0.95, 0.99)))
        return Summary(
            self.candles,
            self.forecasts,
            self.dead_letters,
            self.missing,
            latency,
            self.scores,
            self.missing_scores,
            Coverage(self._shares(self._raw_inside), self._shares(self._inside)),
        )

    def _shares(self, inside: Counter[str]) -> dict[str, float]:
        return {
            name: round(inside[name] / count, 4) for name, count in sorted(self._intervals.items())
        }


def _keep(kept: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> None:
    """Keep a value; beyond ``most`` of them the oldest gives way."""
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)
