"""Candles to the network's inputs: one batched function for training, stream, API and back-test.

Every feature is a function of the window alone, free of the scales of price and volume, and finite
for any valid candles: flat ones, and markets whose volume is always 0, included. Only element-wise
steps and running sums along a window are used, so a window's numbers are the same, bit for bit, in
whatever batch it comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GARMAN_KLASS: Final = 2 * math.log(2) - 1
"""Weight of the squared body in Garman and Klass (1980), "On the Estimation of Security Price
Volatilities from Historical Data", Journal of Business 53."""

VARIANCE_WEIGHTS: Final = np.array([1.0, -GARMAN_KLASS, 0.5])[:, None, None]
"""Of the squared gap, body and range."""

MIN_VARIANCE: Final = 1e-10
"""Floor of the mean range variance of a month or longer: 0.001 % a candle, below any market."""

QUIET_SHARE: Final = 0.01
"""Floor of a shorter mean, as a share of the month's: a candle without a range is called a tenth
as volatile as usual, since its logarithm would else be anything."""

QUIET_MOVES: Final = 0.2
"""Floor of the mean absolute return over the mean range volatility; about 0.8 in real markets."""

QUIET_VOLUME: Final = 0.02
"""Floor of a candle's turnover, as a share of its month's mean, for the same reason."""

VARIANCE, VOLATILITY, MOVE, TRAVEL, CLOSE, TURNOVER = range(6)
"""Series that are summed: range variance and its root, absolute log return, absolute change of the
close, close, close x volume."""

TINY: Final = 1e-300
"""Keeps 0 / 0 out."""

RSI_CANDLES: Final = 14
SMA_CANDLES: Final = 20
MONTH: Final = 22  # trading days, as in Corsi (2009)
LONG: Final = 120  # the longest memory that a window of at most 160 candles has room for


def range_variance(candles: Array) -> Array:
    """Return the range-based variance of each candle but the first.

    ``rv = ln(o_t/c_{t-1})^2 + 1/2 ln(h_t/l_t)^2 - (2 ln 2 - 1) ln(c_t/o_t)^2``: the overnight
    move and the estimator of Garman and Klass (1980) for the session.

    Args:
        candles: open, high, low, close and volume, shape (B, T, 5).

    Returns:
        Squared log returns, shape (B, T - 1), at least 0.
    """
    return _Window(candles, 1).variance


class _Window:
    """The last candles of B windows, and what several features share, each computed once.

    Calls of numpy are most of the time that a single window takes, hence the stacking.
    """

    def __init__(self, candles: Array, steps: int) -> None:
        self.candles = candles  # (B, T, 5)
        self.steps = steps  # L, the newest steps asked for

    @cached_property
    def close(self) -> Array:
        return np.ascontiguousarray(self.candles[:, :, 3])  # (B, T)

    @cached_property
    def logs(self) -> Array:
        """Overnight gap, body and range of each candle but the first, in logarithms."""
        ratios = np.empty((3, self.candles.shape[0], self.candles.shape[1] - 1))  # (3, B, T-1)
        this = self.candles[:, 1:]
        np.divide(this[:, :, 0], self.close[:, :-1], out=ratios[0])
        np.divide(self.close[:, 1:], this[:, :, 0], out=ratios[1])
        np.divide(this[:, :, 1], this[:, :, 2], out=ratios[2])
        np.log(ratios, out=ratios)
        return ratios

    @cached_property
    def log_return(self) -> Array:
        total: Array = self.logs[0] + self.logs[1]  # (B, T-1)
        return total

    @cached_property
    def variance(self) -> Array:
        squares = self.logs * self.logs  # (3, B, T-1)
        squares *= VARIANCE_WEIGHTS
        squares[0] += squares[1]
        squares[0] += squares[2]
        return np.maximum(squares[0], 0.0)  # (B, T-1)

    @cached_property
    def running_sums(self) -> Array:
        """Sums along the window of the series named below, shape (6, B, T)."""
        series = np.empty((6, *self.close.shape))
        series[:CLOSE, :, 0] = 0.0  # these four have no value at the first candle
        series[VARIANCE, :, 1:] = self.variance
        np.sqrt(self.variance, out=series[VOLATILITY, :, 1:])
        np.abs(self.log_return, out=series[MOVE, :, 1:])
        np.abs(self.close[:, 1:] - self.close[:, :-1], out=series[TRAVEL, :, 1:])
        series[CLOSE] = self.close
        np.multiply(self.close, self.candles[:, :, 4], out=series[TURNOVER])
        sums: Array = np.add.accumulate(series, axis=2)
        return sums

    @cached_property
    def month_variance(self) -> Array:
        return np.maximum(self.mean(VARIANCE, MONTH), MIN_VARIANCE)  # (B, L)

    @cached_property
    def month_volatility(self) -> Array:
        return np.sqrt(self.month_variance)  # (B, L)

    def mean(self, series: int, candles: int) -> Array:
        """Return the means of a series over ``candles`` candles, at each of the newest L steps."""
        sums = self.running_sums[series]
        means = sums[:, -self.steps :] - sums[:, -self.steps - candles : -candles]  # (B, L)
        means /= candles
        return means

    def newest(self, values: Array) -> Array:
        return values[:, -self.steps :]  # (B, L)


def _log_return(window: _Window) -> Array:
    return window.newest(window.log_return)


def _scaled_return(window: _Window) -> Array:
    return window.newest(window.log_return) / window.month_volatility


def _scaled_gap(window: _Window) -> Array:
    return window.newest(window.logs[0]) / window.month_volatility


def _range_volatility_1(window: _Window) -> Array:
    return _log_root(
        np.maximum(window.newest(window.variance), window.month_variance * QUIET_SHARE)
    )


def _range_volatility_5(window: _Window) -> Array:
    mean = window.mean(VARIANCE, 5)
    return _log_root(np.maximum(mean, window.month_variance * QUIET_SHARE))


def _range_volatility_22(window: _Window) -> Array:
    return _log_root(window.month_variance)


def _range_volatility_120(window: _Window) -> Array:
    return _log_root(np.maximum(window.mean(VARIANCE, LONG), MIN_VARIANCE))


def _log_root(variance: Array) -> Array:
    return 0.5 * np.log(variance)


def _sma_ratio(window: _Window) -> Array:
    return window.newest(window.close) / window.mean(CLOSE, SMA_CANDLES) - 1.0


def _rsi(window: _Window) -> Array:
    close = window.close
    travelled = window.mean(TRAVEL, RSI_CANDLES) * RSI_CANDLES
    before = close[:, -window.steps - RSI_CANDLES : -RSI_CANDLES]
    net = window.newest(close) - before
    # Gains are (travelled + net) / 2, so no second sum is needed.
    share = net / np.maximum(travelled, TINY)
    return 50.0 + 50.0 * np.minimum(np.maximum(share, -1.0), 1.0)


def _log_volume(window: _Window) -> Array:
    mean = window.mean(TURNOVER, MONTH)
    mean += TINY  # where nothing is traded, both sides of the ratio are this
    turnover = window.newest(window.close) * window.newest(window.candles[:, :, 4])
    turnover += TINY
    ratio = np.maximum(turnover / mean, QUIET_VOLUME)
    return np.log(ratio)


def _return_range_ratio(window: _Window) -> Array:
    volatility = np.maximum(window.mean(VOLATILITY, LONG), math.sqrt(MIN_VARIANCE))
    return np.log(np.maximum(window.mean(MOVE, LONG) / volatility, QUIET_MOVES))


@dataclass(frozen=True)
class Feature:
    """One input of the network."""

    description: str
    lookback: int  # candles that its newest value needs, this one included
    values: Callable[[_Window], Array]  # the newest L steps of B windows, shape (B, L)


FEATURES: Final[Mapping[str, Feature]] = MappingProxyType(
    {
        "log-return": Feature("ln(c_t / c_{t-1})", 2, _log_return),
        "scaled-return": Feature(
            "log return over the root of the mean range variance of 22 candles",
            MONTH + 1,
            _scaled_return,
        ),
        "scaled-gap": Feature(
            "overnight gap ln(o_t / c_{t-1}), scaled likewise", MONTH + 1, _scaled_gap
        ),
        "range-volatility-1": Feature(
            "log of the range volatility of this candle: the daily term of Corsi's HAR (2009)",
            MONTH + 1,
            _range_volatility_1,
        ),
        "range-volatility-5": Feature(
            "log root of the mean range variance of 5 candles: HAR's weekly term",
            MONTH + 1,
            _range_volatility_5,
        ),
        "range-volatility-22": Feature(
            "log root of the mean range variance of 22 candles: HAR's monthly term",
            MONTH + 1,
            _range_volatility_22,
        ),
        "range-volatility-120": Feature(
            "log root of the mean range variance of 120 candles: the level to return to",
            LONG + 1,
            _range_volatility_120,
        ),
        "sma-ratio": Feature(
            "close over its simple average of 20 candles, minus 1", SMA_CANDLES + 1, _sma_ratio
        ),
        "rsi": Feature(
            "relative strength index of 14 candles, 0 to 100 (Wilder 1978), with simple averages "
            "(Cutler): Wilder's own smoothing would reach beyond any window",
            RSI_CANDLES + 1,
            _rsi,
        ),
        "log-volume": Feature(
            "log of the turnover (close x volume) over its mean of 22 candles; 0 without volume",
            MONTH + 1,
            _log_volume,
        ),
        "return-range-ratio": Feature(
            "log of the mean absolute return over the mean range volatility, of 120 candles: what "
            "ranges understate, as in an index whose opening price is stale",
            LONG + 1,
            _return_range_ratio,
        ),
    }
)
"""Every feature by name, in the order of this table."""


def window_length(features: Sequence[str], sequence_length: int) -> int:
    """Return the candles that ``sequence_length`` steps of these features need, T.

    Raises:
        ValueError: for an unknown feature, no feature, or no step.
    """
    unknown = [name for name in features if name not in FEATURES]
    if unknown or not features:
        raise ValueError(
            f"features: expected some of {', '.join(FEATURES)}, got {unknown or 'none'}"
        )
    if sequence_length < 1:
        raise ValueError(f"sequence_length: expected at least 1, got {sequence_length}")
    return max(FEATURES[name].lookback for name in features) + sequence_length - 1


def compute(candles: Array, features: Sequence[str], sequence_length: int) -> NDArray[np.float32]:
    """Return the features of B windows at their newest L steps.

    Args:
        candles: open, high, low, close and volume of valid candles in order of time, shape
            (B, T, 5); only the last ``window_length(features, L)`` of T have an effect.
        features: names in ``FEATURES``, F of them.
        sequence_length: steps, L; the last one belongs to the last candle.

    Returns:
        Shape (B, L, F), not scaled: the network's graph does that.

    Raises:
        ValueError: for too few candles, or as ``window_length`` does.
    """
    needed = window_length(features, sequence_length)
    if candles.shape[1] < needed:
        raise ValueError(f"candles: expected at least {needed} a window, got {candles.shape[1]}")
    window = _Window(candles[:, -needed:], sequence_length)
    result = np.empty((len(candles), sequence_length, len(features)), np.float32)
    for column, name in enumerate(features):
        result[:, :, column] = FEATURES[name].values(window)
    return result
