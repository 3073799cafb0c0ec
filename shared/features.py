"""Candles to the network's inputs: one batched function for training, stream, API and back-test.

Every feature is a function of the window alone, free of the scales of price and volume, and finite
for any valid candles: flat ones, and markets whose volume is always 0, included. Only gathers,
element-wise steps and running sums along a window are used, so a window's numbers are the same, bit
for bit, in whatever batch it comes.

One window costs calls of numpy, not arithmetic: so all features are rows of one table, and each
step is done to as many rows at once as need it. The order of the rows is what makes that possible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GARMAN_KLASS: Final = 2 * math.log(2) - 1
"""Weight of the squared body in Garman and Klass (1980), "On the Estimation of Security Price
Volatilities from Historical Data", Journal of Business 53."""

VARIANCE_WEIGHTS: Final = np.array([1.0, -GARMAN_KLASS, 0.5])[:, None]
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


MIN_VOLATILITY: Final = math.sqrt(MIN_VARIANCE)

SLICE: Final = 64
"""Windows computed at once, so that their intermediate numbers, two megabytes, stay in cache."""


def range_variance(candles: Array) -> Array:
    """Return the range-based variance of each candle but the first.

    ``rv = ln(o_t/c_{t-1})^2 + 1/2 ln(h_t/l_t)^2 - (2 ln 2 - 1) ln(c_t/o_t)^2``: the overnight
    move and the estimator of Garman and Klass (1980) for the session.

    Args:
        candles: open, high, low, close and volume, shape (B, T, 5).

    Returns:
        Squared log returns, shape (B, T - 1), at least 0.
    """
    opened, high, low, close = (candles[:, :, i] for i in range(4))
    over = np.stack([opened[:, 1:], close[:, 1:], high[:, 1:]], axis=1)
    under = np.stack([close[:, :-1], opened[:, 1:], low[:, 1:]], axis=1)
    return _variance(np.log(over / under), VARIANCE_WEIGHTS)


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
    plan = _plan(tuple(features), sequence_length)
    if candles.shape[1] < plan.needed:
        raise ValueError(
            f"candles: expected at least {plan.needed} a window, got {candles.shape[1]}"
        )
    windows = _padded(candles[:, -plan.needed :], plan.length)
    if len(windows) <= SLICE:
        return _slice(windows, plan)
    starts = range(0, len(windows), SLICE)
    return np.concatenate([_slice(windows[i : i + SLICE], plan) for i in starts])


def _padded(candles: Array, length: int) -> Array:
    """Return candles that all features could be computed of; those asked for need no padding."""
    missing = length - candles.shape[1]
    if missing <= 0:
        return candles
    return np.concatenate([np.repeat(candles[:, :1], missing, axis=1), candles], axis=1)


def _variance(logs: Array, weights: Array, out: Array | None = None) -> Array:
    """Return the range variance (B, T) after gap, body and range (B, 3, T)."""
    squares = logs * logs
    squares *= weights
    # Never below 0: a body is within its range, and its weight is smaller.
    variance: Array = np.add.reduce(squares, axis=1, out=out)
    return variance


# A window's history: one row for each of these, as long as the window. What compares a candle with
# the one before it is 0 at the first candle.
_GAP, _BODY, _RANGE, _CLOSE, _VARIANCE, _VOLATILITY, _TURNOVER, _MOVE, _WAY, _RETURN, _CHANGE = (
    range(11)
)
_SUMMED: Final = slice(_CLOSE, _WAY + 1)
_SUMS: Final = slice(_CHANGE + 1, _CHANGE + 7)
_HISTORY: Final = _SUMS.stop


@dataclass(frozen=True)
class _Row:
    """A row of the table: what of the history it begins with, and what becomes of it."""

    of: int  # row of the history
    span: int = 0  # candles over which it is summed up
    lag: int = 0  # candles over which its difference is taken instead
    factor: float = 1.0
    floor: float = 0.0  # of divisors and floors
    share: float = 0.0  # of what is divided: a floor of its divisor
    scale: float = 1.0  # and shift, of the outcome
    shift: float = 0.0


def _mean(of: int, span: int, floor: float = 0.0, *, scale: float = 1.0) -> _Row:
    return _Row(of, span, factor=1 / span, floor=floor, scale=scale)


_QUIET: Final = _Row(_VARIANCE, MONTH, factor=QUIET_SHARE / MONTH, floor=QUIET_SHARE * MIN_VARIANCE)
_TABLE: Final[tuple[_Row, ...]] = (
    # Divided by the divisors below:
    _Row(_GAP),
    _Row(_RETURN),
    _Row(_CLOSE, share=1 / MAX_SMA_RATIO, shift=-1.0),
    # Gains are half of the way travelled plus the net change: one sum is enough.
    _Row(_CLOSE, lag=RSI_CANDLES, share=1.0, scale=50.0, shift=50.0),
    # These two as well; and from here to the variances of 120 candles, at least the floors below,
    # and in logarithms:
    _mean(_MOVE, LONG),
    _Row(_TURNOVER),
    _Row(_VARIANCE, scale=0.5),
    _mean(_VARIANCE, WEEK, scale=0.5),
    _mean(_VARIANCE, MONTH, scale=0.5),
    _mean(_VARIANCE, LONG, scale=0.5),
    _Row(_RETURN),
    # Divisors; the roots of the first two:
    _mean(_VARIANCE, MONTH, MIN_VARIANCE),
    _mean(_VARIANCE, MONTH, MIN_VARIANCE),
    _mean(_CLOSE, SMA_CANDLES, TINY),
    _Row(_WAY, RSI_CANDLES, floor=TINY),
    _mean(_VOLATILITY, LONG, MIN_VOLATILITY),
    _mean(_TURNOVER, MONTH, TINY),
    # Floors:
    _Row(_GAP, factor=0.0, floor=QUIET_MOVES),
    _Row(_GAP, factor=0.0, floor=QUIET_VOLUME),
    _QUIET,
    _QUIET,
    _Row(_GAP, factor=0.0, floor=MIN_VARIANCE),
    _Row(_GAP, factor=0.0, floor=MIN_VARIANCE),
)
_DIVIDED: Final = slice(0, 6)
_LOGARITHMS: Final = slice(4, 10)
_DIVISORS: Final = slice(11, 17)
_ROOTS: Final = slice(11, 13)
_FLOORS: Final = slice(17, 23)
_FLOORED: Final = slice(11, 23)

_OUTPUTS: Final = {
    "log-return": 10,
    "scaled-gap": 0,
    "scaled-return": 1,
    "sma-ratio": 2,
    "rsi": 3,
    "range-volatility-1": 6,
    "range-volatility-5": 7,
    "range-volatility-22": 8,
    "range-volatility-120": 9,
    "return-range-ratio": 4,
    "log-volume": 5,
}
"""The row of each feature."""


@dataclass(frozen=True)
class _Plan:
    """Where everything lies in flattened windows, histories and tables, and what it is worked with.

    Numbers have an axis of 1 for the windows: of equal shapes, numpy makes short work.
    """

    needed: int  # candles
    length: int  # candles with padding, T
    steps: int  # L
    width: int  # F
    over: NDArray[np.intp]  # (5T,), of the window; see ``_history``
    under: NDArray[np.intp]  # (4T,)
    weights: Array  # (1, 3, T), of the squares in the variance
    minuend: NDArray[np.intp]  # (23L,), of the history
    subtrahend: NDArray[np.intp]  # (23L,)
    factor: Array  # (1, 23L)
    floor: Array  # (1, 12, L)
    share: Array  # (1, 6, L)
    output: NDArray[np.intp]  # (LF,), of the table
    scale: Array  # (1, LF)
    shift: Array  # (1, LF)


@lru_cache(maxsize=64)
def _plan(features: tuple[str, ...], steps: int) -> _Plan:
    needed = window_length(features, steps)
    length = _LONGEST + steps - 1
    opened, high, low, close, volume = np.arange(5)[:, None] + 5 * np.arange(1, length)
    rows = np.array([_OUTPUTS[name] for name in features])
    sources = [_source(row, length, steps) for row in _TABLE]

    def numbers(values: list[float]) -> Array:
        return np.repeat(values, steps).reshape(1, len(values), steps)

    return _Plan(
        needed=needed,
        length=length,
        steps=steps,
        width=len(features),
        over=np.concatenate([[0], opened, [0], close, [0], high, [3], close, [4], volume]),
        under=np.concatenate([[0], close - 5, [0], opened, [0], low, [3], close - 5]),
        weights=np.repeat(VARIANCE_WEIGHTS, length, axis=1)[None],
        minuend=np.concatenate([minuend for minuend, _ in sources]),
        subtrahend=np.concatenate([subtrahend for _, subtrahend in sources]),
        factor=numbers([row.factor for row in _TABLE]).reshape(1, -1),
        floor=numbers([row.floor for row in _TABLE[_FLOORED]]),
        share=numbers([row.share for row in _TABLE[_DIVIDED]]),
        output=(rows * steps + np.arange(steps)[:, None]).ravel(),
        scale=np.tile([_TABLE[row].scale for row in rows], steps)[None],
        shift=np.tile([_TABLE[row].shift for row in rows], steps)[None],
    )


def _source(row: _Row, length: int, steps: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where in a flattened history a row begins, and what is taken off it, (L,) each."""
    lag = row.span or row.lag
    of = _SUMS.start + row.of - _SUMMED.start if row.span else row.of
    newest = of * length + np.arange(length - steps, length)
    if lag:
        return newest, newest - lag
    nothing = _BODY if row.of == _TURNOVER else _GAP  # at the first candle; -TINY and 0
    return newest, np.full(steps, nothing * length)


def _history(candles: Array, plan: _Plan) -> Array:
    """Return the history of windows (B, T, 5), flattened, shape (B, 17 T)."""
    windows, length, columns = candles.shape
    flat = candles.reshape(windows, length * columns)
    # (B, 5, T): open, close, high, close, volume, over or less
    over = flat.take(plan.over, axis=1).reshape(windows, 5, length)
    # (B, 4, T): close before, open, low, close before
    under = flat.take(plan.under, axis=1).reshape(windows, 4, length)
    history = np.empty((windows, _HISTORY, length))
    logs = history[:, :3]
    np.divide(over[:, :3], under[:, :3], out=logs)
    np.log(logs, out=logs)
    np.add(logs[:, _GAP], logs[:, _BODY], out=history[:, _RETURN])
    close = over[:, 3]
    np.subtract(close, under[:, 3], out=history[:, _CHANGE])
    np.abs(history[:, _RETURN : _CHANGE + 1], out=history[:, _MOVE : _WAY + 1])
    variance = _variance(logs, plan.weights, history[:, _VARIANCE])
    np.sqrt(variance, out=history[:, _VOLATILITY])
    history[:, _CLOSE] = close
    np.multiply(close, over[:, 4], out=history[:, _TURNOVER])
    np.add.accumulate(history[:, _SUMMED], axis=2, out=history[:, _SUMS])
    history[:, _BODY, 0] = -TINY  # taken off turnover: where nothing is traded, the ratio is 1
    return history.reshape(windows, _HISTORY * length)


def _slice(candles: Array, plan: _Plan) -> NDArray[np.float32]:
    """Return the features (B, L, F) of windows (B, T, 5)."""
    windows = len(candles)
    history = _history(candles, plan)
    flat = history.take(plan.minuend, axis=1)
    flat -= history.take(plan.subtrahend, axis=1)
    flat *= plan.factor
    table = flat.reshape(windows, len(_TABLE), plan.steps)  # (B, 23, L)
    divided, divisors, floored = table[:, _DIVIDED], table[:, _DIVISORS], table[:, _FLOORED]
    roots, logs = table[:, _ROOTS], table[:, _LOGARITHMS]
    np.maximum(floored, plan.floor, out=floored)
    np.sqrt(roots, out=roots)
    shares = divided * plan.share
    np.abs(shares, out=shares)
    np.maximum(divisors, shares, out=divisors)
    divided /= divisors
    np.maximum(logs, table[:, _FLOORS], out=logs)
    np.log(logs, out=logs)
    outputs = flat.take(plan.output, axis=1)
    outputs *= plan.scale
    outputs += plan.shift
    return outputs.astype(np.float32).reshape(windows, plan.steps, plan.width)
