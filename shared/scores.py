"""Scores of forecasts: error, pinball loss, PIT and coverage of each horizon. Pure.

Errors and losses are of log returns from the last close, so that symbols of any price can be
pooled. The baseline is "no change": its error is ``ln(close / last_close)``.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from shared.candles import Millis, Symbol
from shared.forecasts import Forecast, Horizon
from shared.messages import Message

INTERVALS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"50": ("0.25", "0.75"), "80": ("0.1", "0.9"), "90": ("0.05", "0.95")}
)
"""Central intervals: nominal per cent -> levels of the two ends."""

KOLMOGOROV_5_PERCENT: Final = 1.358
"""Kolmogorov and Smirnov's statistic exceeds this over the root of n in 5 % of samples."""

DRIFT_LEVELS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Levels at which the transforms are compared with the uniform distribution."""

ROUNDING: Final = 1e-9
"""Rounding error of a transform that equals a level."""


class Score(Message):
    """One horizon of a forecast against the candle that it forecast."""

    forecast_id: str
    symbol: Symbol
    interval: str
    as_of_ms: Millis  # close of the last candle that the forecast used, UTC
    step: int  # candles ahead, from 1
    close_ms: Millis  # close of the candle forecast, UTC
    model_version: str
    close: float  # of the candle forecast, quote currency
    predicted_close: float  # median, quote currency
    error: float  # ln(close / predicted_close)
    baseline_error: float  # ln(close / last_close): the error of "no change"
    pinball: float  # mean over the levels, of log returns
    pit: float  # probability integral transform: forecast probability of a lower close
    inside: dict[str, bool]  # nominal per cent of a central interval -> close inside it


def score(forecast: Forecast, horizon: Horizon, close: float, close_ms: int) -> Score:
    """Return the score of a horizon whose candle closed at ``close``."""
    quantiles = horizon.quantiles
    levels = [float(level) for level in quantiles]
    outcome = math.log(close / forecast.last_close)
    returns = [math.log(price / forecast.last_close) for price in quantiles.values()]
    return Score.trusted(
        forecast_id=forecast.id,
        symbol=forecast.symbol,
        interval=forecast.interval,
        as_of_ms=forecast.as_of_ms,
        step=horizon.step,
        close_ms=close_ms,
        model_version=forecast.model_version,
        close=close,
        predicted_close=horizon.predicted_close,
        error=math.log(close / horizon.predicted_close),
        baseline_error=outcome,
        pinball=pinball(outcome, returns, levels),
        pit=pit(outcome, returns, levels),
        inside={
            percent: quantiles[low] <= close <= quantiles[high]
            for percent, (low, high) in INTERVALS.items()
            if low in quantiles and high in quantiles
        },
    )


def pinball(outcome: float, quantiles: Sequence[float], levels: Sequence[float]) -> float:
    """Return the mean pinball (quantile) loss over the levels.

    ``(y - q)·level`` above the quantile, ``(q - y)·(1 - level)`` below; Koenker and Bassett,
    "Regression quantiles" (1978).
    """
    total = 0.0
    for level, quantile in zip(levels, quantiles, strict=True):
        error = outcome - quantile
        total += max(level * error, (level - 1) * error)
    return total / len(levels)


def pit(outcome: float, quantiles: Sequence[float], levels: Sequence[float]) -> float:
    """Return the probability integral transform: the forecast probability of a lower outcome.

    Linear between the quantiles. Beyond the outer ones, about which the forecast says nothing,
    it is the middle of what is left. Dawid, "The prequential approach" (1984).
    """
    at = bisect_left(quantiles, outcome)
    if at == 0:
        return levels[0] / 2
    if at == len(quantiles):
        return (1 + levels[-1]) / 2
    low, high = quantiles[at - 1], quantiles[at]
    share = (outcome - low) / (high - low)
    return levels[at - 1] + share * (levels[at] - levels[at - 1])


class Scored(Protocol):
    """Fields of a score that a summary reads."""

    @property
    def step(self) -> int: ...
    @property
    def error(self) -> float: ...
    @property
    def baseline_error(self) -> float: ...
    @property
    def pinball(self) -> float: ...
    @property
    def pit(self) -> float: ...
    @property
    def inside(self) -> Mapping[str, bool]: ...


@dataclass(frozen=True)
class Drift:
    """How far outcomes lie from where the forecasts' distributions put them."""

    magnitude: float  # 0 to 1: the greatest gap between levels and the share of outcomes below
    threshold: float  # what a calibrated forecast would exceed in 5 % of such samples


@dataclass(frozen=True)
class Summary:
    """Means over the scores of one step."""

    step: int
    count: int
    mean_absolute_error: float  # of log returns
    baseline_mean_absolute_error: float  # of "no change"
    skill: float | None  # 1 - error / baseline's; None where the price never moved
    pinball: float
    coverage: dict[str, float]  # nominal per cent -> share of outcomes inside
    drift: Drift


def summarise(scores: Sequence[Scored]) -> Summary:
    """Return the summary of scores of one step; there must be one at least."""
    count = len(scores)
    error = sum(abs(score.error) for score in scores) / count
    baseline = sum(abs(score.baseline_error) for score in scores) / count
    percents = scores[-1].inside
    return Summary(
        step=scores[-1].step,
        count=count,
        mean_absolute_error=error,
        baseline_mean_absolute_error=baseline,
        skill=1 - error / baseline if baseline > 0 else None,
        pinball=sum(score.pinball for score in scores) / count,
        coverage={
            percent: sum(score.inside.get(percent, False) for score in scores) / count
            for percent in percents
        },
        drift=drift([score.pit for score in scores], scores[-1].step),
    )


def drift(transforms: Sequence[float], step: int) -> Drift:
    """Return the drift of probability integral transforms; there must be one at least.

    The statistic of Kolmogorov and Smirnov against the uniform distribution, taken at the ends
    of the central intervals and the median: between quantiles a forecast says nothing. Forecasts
    of ``step`` candles overlap, so only one in ``step`` counts as independent in the threshold.
    """
    count = len(transforms)
    gap = max(
        abs(sum(value <= level + ROUNDING for value in transforms) / count - level)
        for level in DRIFT_LEVELS
    )
    return Drift(gap, KOLMOGOROV_5_PERCENT / math.sqrt(max(count / step, 1.0)))
