"""Candles to the network's inputs: one batched function for training, stream, API and back-test.

Every feature is a function of the window alone, free of the scales of price and volume, and finite
for any valid candles: flat ones, and markets whose volume is always 0, included. Only element-wise
steps and running sums along a window are used, so a window's numbers are the same, bit for bit, in
whatever batch it comes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

TINY: Final = 1e-300
"""Keeps 0 / 0 out."""

MAX_SMA_RATIO: Final = 100.0
"""Keeps the ratio finite where a price fell so far that its old sums have swallowed it."""

RSI_CANDLES: Final = 14
SMA_CANDLES: Final = 20
MONTH: Final = 22  # trading days, as in Corsi (2009)
WEEK: Final = 5
LONG: Final = 120  # the longest memory that a window of at most 160 candles has room for


INVERSE_COUNTS: Final = np.array(
    [1 / LONG, 1 / LONG, 1 / LONG, 1 / MONTH, 1 / MONTH, 1 / WEEK, 1 / SMA_CANDLES, 1.0]
)[:, None, None]
"""Of absolute return, volatility and variance (120), variance and turnover (22), variance (5),
close (20), and the way that the close travelled, which stays a sum (14)."""

MIN_VOLATILITY: Final = math.sqrt(MIN_VARIANCE)
QUIET: Final = np.array([QUIET_MOVES, QUIET_VOLUME])[:, None, None]


def range_variance(candles: Array) -> Array:
    """Return the range-based variance of each candle but the first.

    ``rv = ln(o_t/c_{t-1})^2 + 1/2 ln(h_t/l_t)^2 - (2 ln 2 - 1) ln(c_t/o_t)^2``: the overnight
    move and the estimator of Garman and Klass (1980) for the session.

    Args:
        candles: open, high, low, close and volume, shape (B, T, 5).

    Returns:
        Squared log returns, shape (B, T - 1), at least 0.
    """
    return _variance(_logs(candles))


@dataclass(frozen=True)
class Feature:
    """One input of the network."""

    description: str
    lookback: int  # candles that its newest value needs, this one included


FEATURES: Final[Mapping[str, Feature]] = MappingProxyType(
    {
        "log-return": Feature("ln(c_t / c_{t-1})", 2),
        "scaled-gap": Feature(
            "overnight gap ln(o_t / c_{t-1}) over the root of the mean range variance of 22",
            MONTH + 1,
        ),
        "scaled-return": Feature("log return, scaled likewise", MONTH + 1),
        "sma-ratio": Feature(
            "close over its simple average of 20 candles, minus 1", SMA_CANDLES + 1
        ),
        "rsi": Feature(
            "relative strength index of 14 candles, 0 to 100 (Wilder 1978), with simple averages "
            "(Cutler): Wilder's own smoothing would reach beyond any window",
            RSI_CANDLES + 1,
        ),
        "range-volatility-1": Feature(
            "log of the range volatility of this candle: the daily term of Corsi's HAR (2009)",
            MONTH + 1,
        ),
        "range-volatility-5": Feature(
            "log root of the mean range variance of 5 candles: HAR's weekly term", MONTH + 1
        ),
        "range-volatility-22": Feature(
            "log root of the mean range variance of 22 candles: HAR's monthly term", MONTH + 1
        ),
        "range-volatility-120": Feature(
            "log root of the mean range variance of 120 candles: the level to return to", LONG + 1
        ),
        "return-range-ratio": Feature(
            "log of the mean absolute return over the mean range volatility, of 120 candles: what "
            "ranges understate, as in an index whose opening price is stale",
            LONG + 1,
        ),
        "log-volume": Feature(
            "log of the turnover (close x volume) over its mean of 22 candles; 0 without volume",
            MONTH + 1,
        ),
    }
)
"""Every feature by name, in the order of the table's rows."""

_LONGEST: Final = max(feature.lookback for feature in FEATURES.values())
_ROWS: Final = {name: row for row, name in enumerate(FEATURES)}


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
    table = _table(_padded(candles[:, -needed:], sequence_length), sequence_length)
    rows = [_ROWS[name] for name in features]
    return table[rows].transpose(1, 2, 0).astype(np.float32)


def _padded(candles: Array, steps: int) -> Array:
    """Return candles that all features could be computed of; those asked for need no padding."""
    missing = _LONGEST + steps - 1 - candles.shape[1]
    if missing <= 0:
        return candles
    return np.concatenate([np.repeat(candles[:, :1], missing, axis=1), candles], axis=1)


def _logs(candles: Array) -> Array:
    """Return gap, body and range of each candle but the first, shape (3, B, T - 1)."""
    opened, closed = candles[:, 1:, 0], candles[:, :, 3]
    ratios = np.empty((3, candles.shape[0], candles.shape[1] - 1))
    np.divide(opened, closed[:, :-1], out=ratios[0])
    np.divide(closed[:, 1:], opened, out=ratios[1])
    np.divide(candles[:, 1:, 1], candles[:, 1:, 2], out=ratios[2])
    np.log(ratios, out=ratios)
    return ratios


def _variance(logs: Array) -> Array:
    """Return the range variance, shape (B, T - 1)."""
    squares = logs * logs
    squares *= VARIANCE_WEIGHTS
    variance: Array = squares[0]
    variance += squares[1]
    variance += squares[2]
    return np.maximum(variance, 0.0, out=variance)


def _table(candles: Array, steps: int) -> Array:
    """Return all features of the newest L steps, shape (11, B, L), a row each.

    Calls of numpy are most of the time that one window takes: hence rows in stacks.
    """
    logs = _logs(candles)  # (3, B, T-1)
    variance = _variance(logs)  # (B, T-1)
    moves = logs[:2]
    moves[1] += moves[0]  # gap and return
    close = candles[:, -steps:, 3]  # (B, L)
    turnover = close * candles[:, -steps:, 4]
    means = _means(candles, variance, moves[1], steps)
    rows = np.empty((len(FEATURES), *close.shape))  # (11, B, L)
    spans = rows[5:9]  # variances of 1, 5, 22 and 120 candles
    spans[0] = variance[:, -steps:]
    spans[1] = means[5]
    np.maximum(means[3:1:-1], MIN_VARIANCE, out=spans[2:])  # 22, then 120
    np.maximum(spans[:2], spans[2] * QUIET_SHARE, out=spans[:2])
    rows[0] = moves[1, :, -steps:]
    np.divide(moves[:, :, -steps:], np.sqrt(spans[2]), out=rows[1:3])
    np.divide(close, np.maximum(means[6], close / MAX_SMA_RATIO), out=rows[3])
    rows[3] -= 1.0
    # Gains are half of the way travelled plus the net change: one sum is enough.
    net = close - candles[:, -steps - RSI_CANDLES : -RSI_CANDLES, 3]
    np.divide(net, np.maximum(means[7], np.maximum(np.abs(net), TINY)), out=rows[4])
    rows[4] *= 50.0
    rows[4] += 50.0
    np.divide(means[0], np.maximum(means[1], MIN_VOLATILITY), out=rows[9])
    # Where nothing is traded, both sides are TINY.
    np.divide(turnover + TINY, means[4] + TINY, out=rows[10])
    np.maximum(rows[9:], QUIET, out=rows[9:])
    np.log(rows[5:], out=rows[5:])
    spans *= 0.5
    return rows


def _means(candles: Array, variance: Array, returns: Array, steps: int) -> Array:
    """Return sums over past candles times ``INVERSE_COUNTS`` at the newest L steps, (8, B, L)."""
    close = candles[:, :, 3]
    series = np.empty((6, *close.shape))  # (6, B, T)
    series[:, :, 0] = 0.0  # most have no value at the first candle
    np.abs(returns, out=series[0, :, 1:])
    np.sqrt(variance, out=series[1, :, 1:])
    series[2, :, 1:] = variance
    np.multiply(close, candles[:, :, 4], out=series[3])
    series[4] = close
    np.subtract(close[:, 1:], close[:, :-1], out=series[5, :, 1:])
    np.abs(series[5], out=series[5])
    sums = np.add.accumulate(series, axis=2)
    newest = sums[:, :, -steps:]
    means = np.empty((8, *newest.shape[1:]))
    np.subtract(newest[:3], sums[:3, :, -steps - LONG : -LONG], out=means[:3])
    np.subtract(newest[2:4], sums[2:4, :, -steps - MONTH : -MONTH], out=means[3:5])
    np.subtract(newest[2], sums[2, :, -steps - WEEK : -WEEK], out=means[5])
    np.subtract(newest[4], sums[4, :, -steps - SMA_CANDLES : -SMA_CANDLES], out=means[6])
    np.subtract(newest[5], sums[5, :, -steps - RSI_CANDLES : -RSI_CANDLES], out=means[7])
    means *= INVERSE_COUNTS
    return means
