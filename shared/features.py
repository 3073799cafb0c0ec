"""Candles to the network's inputs: one batched function for training, stream, API and back-test.

Every feature is a function of the window alone, free of the scales of price and volume, and finite
for any valid candles: flat ones, and markets whose volume is always 0, included. Only gathers,
element-wise steps and running sums along a window are used, so a window's numbers are the same, bit
for bit, in whatever batch it comes.

One window costs calls of numpy, not arithmetic: so all features are rows of one table, and each
step is done to as many rows at once as need it. The order of the rows is what makes that possible.
A thread keeps its room for numbers, and the steps with all that they work on, for the next call.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
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
LONG: Final = 120  # half a year, less the weeks that a window needs for its steps
QUARTERS: Final = (64, 129)
"""Candles back: where the search for last quarter's events begins, and for those before it.

Reports come some 63 trading days apart, so what follows the newest candle had its like then."""

QUIET_EVENTS: Final = 0.05
"""Floor of the largest variance around a quarter's event, as a share of the mean of 120."""


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
    squares = np.log(over / under) ** 2
    # Never below 0: a body is within its range, and its weight is smaller.
    variance: Array = (squares * VARIANCE_WEIGHTS).sum(axis=1)
    return variance


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
        "quarter-volatility-1": Feature(
            "log root of the largest range variance 61 to 64 candles ago, or 122 to 129 if that is "
            "less: whether reports, a quarter apart, may be due at the next candle",
            QUARTERS[1] + 2,
        ),
        "quarter-volatility-5": Feature(
            "likewise 57 to 64 or 114 to 129 candles ago: due within some 5", QUARTERS[1] + 2
        ),
        "quarter-volatility-10": Feature(
            "likewise 49 to 64 or 114 to 129 candles ago: due within some 10", QUARTERS[1] + 2
        ),
        "log-volume": Feature(
            "log of the turnover (close x volume) over its mean of 22 candles; 0 without volume",
            MONTH + 1,
        ),
    }
)
"""Every feature by name, in the order of the table's rows."""

_LONGEST: Final = max(feature.lookback for feature in FEATURES.values())


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


def compute(
    candles: Array,
    features: Sequence[str],
    sequence_length: int,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the features of B windows at their newest L steps.

    Args:
        candles: open, high, low, close and volume of valid candles in order of time, shape
            (B, T, 5); only the last ``window_length(features, L)`` of T have an effect.
        features: names in ``FEATURES``, F of them.
        sequence_length: steps, L; the last one belongs to the last candle.
        out: where to put them, shape (B, L, F), instead of into a new array.

    Returns:
        Shape (B, L, F), not scaled: the network's graph does that.

    Raises:
        ValueError: for too few candles, or as ``window_length`` does.
    """
    names = tuple(features)
    if out is None:
        out = np.empty((len(candles), sequence_length, len(names)), np.float32)
    if len(candles) <= SLICE:
        _THREAD.room(names, sequence_length, len(candles)).compute(candles, out)
        return out
    for start in range(0, len(candles), SLICE):
        some = slice(start, start + SLICE)
        compute(candles[some], names, sequence_length, out[some])
    return out


def _padded(candles: Array, length: int) -> Array:
    """Return candles that all features could be computed of; those asked for need no padding."""
    missing = length - candles.shape[1]
    if missing <= 0:
        return candles
    return np.concatenate([np.repeat(candles[:, :1], missing, axis=1), candles], axis=1)


# A window's history: one row for each of these, as long as the window. What compares a candle with
# the one before it is 0 at the first candle. Logarithms take the place of what they divide by, and
# turnover that of volume. Sums run along the window.
_RANGE, _GAP, _BODY, _HIGH, _OPEN = range(5)
_CLOSE, _TURNOVER, _WAY, _MOVE, _VARIANCE, _VOLATILITY = range(5, 11)
_CHANGE, _RETURN = 11, 12
_SUMS: Final = 13
_QUARTER: Final = 19  # three rows, at the newest steps alone
_HISTORY: Final = 22

_TAKEN: Final = ("low", "before", "open", "high", "open", "close", "volume")
"""Of the candles, for the first rows."""

_SUMMED: Final = slice(_CLOSE, _VOLATILITY + 1)
_SHORT: Final = 3
"""So many of these rows are summed up over a month at most: only their newest candles count."""

_ZERO, _LESS = 0, 1
"""Two places in the first sum that it does not reach: they hold 0 and -TINY."""


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
_NO_EVENT: Final = _Row(
    _VARIANCE, LONG, factor=QUIET_EVENTS / LONG, floor=QUIET_EVENTS * MIN_VARIANCE
)
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
    _Row(_QUARTER, scale=0.5),
    _Row(_QUARTER + 1, scale=0.5),
    _Row(_QUARTER + 2, scale=0.5),
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
    _NO_EVENT,
    _NO_EVENT,
    _NO_EVENT,
)
_DIVIDED: Final = slice(0, 6)
_LOGARITHMS: Final = slice(4, 13)
_DIVISORS: Final = slice(14, 20)
_ROOTS: Final = slice(14, 16)
_FLOORS: Final = slice(20, 29)
_FLOORED: Final = slice(14, 29)

_OUTPUTS: Final = {
    "log-return": 13,
    "scaled-gap": 0,
    "scaled-return": 1,
    "sma-ratio": 2,
    "rsi": 3,
    "range-volatility-1": 6,
    "range-volatility-5": 7,
    "range-volatility-22": 8,
    "range-volatility-120": 9,
    "quarter-volatility-1": 10,
    "quarter-volatility-5": 11,
    "quarter-volatility-10": 12,
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
    taken: NDArray[np.intp]  # (7T,), of the window
    weights: Array  # (1, 3, T), of the squares in the variance
    ends: NDArray[np.intp]  # (58L,), of the history: every row's, then what is taken off them
    factor: Array  # (1, 29L)
    floor: Array  # (1, 15, L)
    share: Array  # (1, 6, L)
    output: NDArray[np.intp]  # (LF,), of the table
    scale: Array  # (1, LF)
    shift: Array  # (1, LF)


@lru_cache(maxsize=64)
def _plan(features: tuple[str, ...], steps: int) -> _Plan:
    needed = window_length(features, steps)
    length = _LONGEST + steps - 1
    rows = np.array([_OUTPUTS[name] for name in features])
    sources = [_source(row, length, steps) for row in _TABLE]

    def numbers(values: list[float]) -> Array:
        return np.repeat(values, steps).reshape(1, len(values), steps)

    return _Plan(
        needed=needed,
        length=length,
        steps=steps,
        width=len(features),
        taken=_taken(length),
        weights=np.repeat(np.roll(VARIANCE_WEIGHTS, 1, axis=0), length, axis=1)[None],
        ends=np.concatenate([of for of, _ in sources] + [off for _, off in sources]),
        factor=numbers([row.factor for row in _TABLE]).reshape(1, -1),
        floor=numbers([row.floor for row in _TABLE[_FLOORED]]),
        share=numbers([row.share for row in _TABLE[_DIVIDED]]),
        output=(rows * steps + np.arange(steps)[:, None]).ravel(),
        scale=np.tile([_TABLE[row].scale for row in rows], steps)[None],
        shift=np.tile([_TABLE[row].shift for row in rows], steps)[None],
    )


def _taken(length: int) -> NDArray[np.intp]:
    """Return where the first rows of a history lie in a flattened window, (7T,)."""
    opened, high, low, close, volume = np.arange(5)[:, None] + 5 * np.arange(length)
    named = {"open": opened, "high": high, "low": low, "close": close, "before": close - 5}
    rows = np.stack([{**named, "volume": volume}[name] for name in _TAKEN])
    rows[:_TURNOVER, 0] = close[0]  # nothing is known of the candle before: nothing has changed
    return rows.ravel()


def _source(row: _Row, length: int, steps: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where in a flattened history a row begins, and what is taken off it, (L,) each."""
    of = _SUMS + row.of - _CLOSE if row.span else row.of
    newest = of * length + np.arange(length - steps, length)
    if row.span or row.lag:
        return newest, newest - (row.span or row.lag)
    # Less than nothing is taken off turnover: where there is none at all, the ratio is 1.
    nothing = _LESS if row.of == _TURNOVER else _ZERO
    return newest, np.full(steps, _SUMS * length + nothing)


_Step = Callable[[], object]


class _Room:
    """Room for the features of B windows, and the steps to them; for one thread at a time.

    To make a view costs half as much as to work on one window, so all views are made once.
    """

    def __init__(self, features: tuple[str, ...], steps: int, windows: int) -> None:
        plan = _plan(features, steps)
        history = np.zeros((windows, _HISTORY, plan.length))
        history[:, _SUMS, _LESS] = -TINY
        flat = history.reshape(windows, -1)
        outputs = np.empty((windows, steps * plan.width))
        self._plan = plan
        self._taken = flat[:, : len(plan.taken)]
        self._outputs = outputs.reshape(windows, steps, plan.width)
        self._steps = [*_history_steps(history, plan), *_table_steps(flat, outputs, plan)]

    def compute(self, candles: Array, out: NDArray[np.float32]) -> None:
        """Put the features of windows (B, T, 5) into ``out``, shape (B, L, F)."""
        plan = self._plan
        if candles.shape[1] < plan.needed:
            raise ValueError(
                f"candles: expected at least {plan.needed} a window, got {candles.shape[1]}"
            )
        windows = _padded(candles[:, -plan.needed :], plan.length)
        windows.reshape(len(candles), -1).take(plan.taken, 1, self._taken, "clip")
        for step in self._steps:
            step()
        out[...] = self._outputs


def _history_steps(history: Array, plan: _Plan) -> list[_Step]:
    """Return the steps from the first rows to a whole history (B, 22, T)."""

    def rows(first: int, last: int) -> Array:
        return history[:, first : last + 1]

    logs, over = rows(_RANGE, _BODY), rows(_HIGH, _CLOSE)
    gap, body, close = history[:, _GAP], history[:, _BODY], history[:, _CLOSE]
    turnover, variance = history[:, _TURNOVER], history[:, _VARIANCE]
    summed, sums = history[:, _SUMMED], history[:, _SUMS:_QUARTER]
    squares = sums[:, _SHORT:]  # room that is free yet
    # What is summed up over a month, at the newest steps and as far as they look back.
    newest = slice(plan.length - plan.steps - MONTH + 1, None)
    short, short_sums = summed[:, :_SHORT, newest], sums[:, :_SHORT, newest]
    return [
        partial(np.subtract, close, gap, history[:, _CHANGE]),
        partial(np.divide, over, logs, logs),
        partial(np.log, logs, logs),
        partial(np.add, gap, body, history[:, _RETURN]),
        partial(np.abs, rows(_CHANGE, _RETURN), rows(_WAY, _MOVE)),
        partial(np.multiply, logs, logs, squares),
        partial(np.multiply, squares, plan.weights, squares),
        # Never below 0: a body is within its range, and its weight is smaller.
        partial(np.add, squares[:, 0], squares[:, 1], variance),
        partial(np.add, variance, squares[:, 2], variance),
        *_quarter_steps(variance, history[:, _QUARTER:, -plan.steps :]),
        partial(np.sqrt, variance, history[:, _VOLATILITY]),
        partial(np.multiply, close, turnover, turnover),
        partial(np.add.accumulate, short, 2, None, short_sums),
        partial(np.add.accumulate, summed[:, _SHORT:], 2, None, sums[:, _SHORT:]),
    ]


def _quarter_steps(variance: Array, quarters: Array) -> list[_Step]:
    """Return the steps from variances (B, T) to the largest of past quarters (B, 3, L)."""
    steps = quarters.shape[2]
    first = variance.shape[1] - steps - QUARTERS[1]  # what the oldest step looks back to
    runs = [variance[:, first:]]  # then the largest of 2, 4, 8 and 16 from each on
    work: list[_Step] = []
    for width in (1, 2, 4, 8):
        shorter = runs[-1]
        runs.append(np.empty((len(variance), shorter.shape[1] - width)))
        work.append(partial(np.maximum, shorter[:, :-width], shorter[:, width:], out=runs[-1]))
    _, _, four, eight, sixteen = runs
    last = slice(QUARTERS[1] - QUARTERS[0], QUARTERS[1] - QUARTERS[0] + steps)
    before = slice(0, steps)
    pairs = ((four, eight), (eight, sixteen), (sixteen, sixteen))
    return work + [
        partial(np.minimum, newer[:, last], older[:, before], out=quarters[:, row])
        for row, (newer, older) in enumerate(pairs)
    ]


def _table_steps(history: Array, outputs: Array, plan: _Plan) -> list[_Step]:
    """Return the steps from a flattened history (B, 22T) to features (B, LF)."""
    windows, size = len(history), len(_TABLE) * plan.steps
    ends = np.empty((windows, 2 * size))
    flat = np.empty((windows, size))
    table = flat.reshape(windows, len(_TABLE), plan.steps)  # (B, 29, L)
    divided, divisors, floored = table[:, _DIVIDED], table[:, _DIVISORS], table[:, _FLOORED]
    roots, logs, floors = table[:, _ROOTS], table[:, _LOGARITHMS], table[:, _FLOORS]
    shares = np.empty(divided.shape)
    return [
        # "clip", here as elsewhere, only spares the check of indices and a copy of the outcome.
        partial(history.take, plan.ends, 1, ends, "clip"),
        partial(np.subtract, ends[:, :size], ends[:, size:], flat),
        partial(np.multiply, flat, plan.factor, flat),
        partial(np.maximum, floored, plan.floor, out=floored),
        partial(np.sqrt, roots, roots),
        partial(np.multiply, divided, plan.share, shares),
        partial(np.abs, shares, shares),
        partial(np.maximum, divisors, shares, out=divisors),
        partial(np.divide, divided, divisors, divided),
        partial(np.maximum, logs, floors, out=logs),
        partial(np.log, logs, logs),
        partial(flat.take, plan.output, 1, outputs, "clip"),
        partial(np.multiply, outputs, plan.scale, outputs),
        partial(np.add, outputs, plan.shift, outputs),
    ]


class _Thread(threading.local):
    """A thread's rooms, those used last."""

    def __init__(self) -> None:
        self.room = lru_cache(maxsize=4)(_Room)


_THREAD: Final = _Thread()
