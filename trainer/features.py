"""The network's inputs: each feature is one torch function of candles, registered by name.

A feature reads series over a window, ``(B, T)`` in float64, and returns its values at the newest L
candles, ``(B, L)``. Four verbs lead from a series to those values: ``newest``, ``ago``, ``mean``
and ``highest``. A feature knows nothing after its candle, no scale of price or volume, and is
finite for any valid candles: flat ones, and markets whose volume is always 0, included.

The functions become part of the ONNX graph, so only torch operations that it can express are
allowed, and no Python decision that depends on a tensor's values.

To add a feature, write a function like these, here or in a file of your own, and name it::

    python -m trainer fit --features default,my_features.py:vwap-gap --data ... --out ...
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from shared.candles import MAX_CANDLES
from trainer.registry import (
    FEATURES,
    LONG,
    MIN_VARIANCE,
    MONTH,
    Candles,
    Feature,
    check,
    extract,
    feature,
    range_variance,
    reach,
    resolve,
    window_length,
)

__all__ = [
    "FEATURES",
    "MIN_VARIANCE",
    "Candles",
    "Feature",
    "check",
    "extract",
    "feature",
    "range_variance",
    "reach",
    "resolve",
    "window_length",
]

DAY_MS: Final = 86_400_000
WEEK: Final = 5  # trading days, as in Corsi (2009)

QUIET_SHARE: Final = 0.01
"""Floor of a shorter mean, as a share of the month's: a candle without a range counts as a tenth
as volatile as usual, since its logarithm would otherwise be unbounded."""

QUIET_MOVES: Final = 0.2
"""Floor of the mean absolute return over the mean range volatility; about 0.8 in real markets."""

QUIET_VOLUME: Final = 0.02
"""Floor of a candle's turnover, as a share of its month's mean."""

QUIET_EVENTS: Final = 0.05
"""Floor of the largest variance around a quarter's event, as a share of the mean of 120."""

GAP_RATIO: Final = 1.5
"""Candles whose openings lie this many usual spacings apart have a gap between them."""

YEARS: Final = 480
"""Most candles of the long level: two years of days, as far as they say more than 120 do."""

SLOT_DAYS: Final = 28
"""How far back the same time of day is looked for, as far as the window reaches: of a week alone
its mean would be noise."""

SLOTS: Final = 20
"""Sessions of four weeks."""

SLOT_SPANS: Final = ((1, 1), (1, 5), (1, 10), (0, 0), (-4, 0), (-21, 0))
"""First and last candle of each span, counted from a like time of day: after it, and up to it."""

LEAST_VOLATILITY: Final = math.sqrt(MIN_VARIANCE)

MOST_SPREAD: Final = 10.0
"""Most that a root mean square counts over its mean; 1.3 in usual markets."""

MOST_SHOCK: Final = 4.0
"""Most that a candle's volatility counts in its autocorrelation, over the mean."""

LEAST_SWING: Final = 0.1
"""Deviation that is added to the volatility's own, as a share of its mean."""

TINY: Final = 1e-30
"""Floor of a divisor that is 0 only where the dividend is 0 too; the graph holds it in 32 bits."""


@feature(lookback=2)
def log_return(candles: Candles) -> Tensor:
    """Log return ln(c_t / c_{t-1})."""
    return candles.newest(candles.returns)


@feature(lookback=MONTH + 1)
def scaled_gap(candles: Candles) -> Tensor:
    """Overnight gap ln(o_t / c_{t-1}) over the root of the mean range variance of 22 candles."""
    return candles.newest(candles.gaps) / torch.sqrt(candles.month)


@feature(lookback=MONTH + 1)
def scaled_return(candles: Candles) -> Tensor:
    """Log return over the root of the mean range variance of 22 candles."""
    return candles.newest(candles.returns) / torch.sqrt(candles.month)


@feature(lookback=20)
def sma_ratio(candles: Candles) -> Tensor:
    """Close over its simple moving average of 20 candles, minus 1."""
    return candles.newest(candles.close) / candles.mean(candles.close, 20) - 1.0


@feature(lookback=15)
def rsi(candles: Candles) -> Tensor:
    """Relative strength index of 14 candles, 0 to 100; 50 when nothing has moved.

    Wilder (1978), "New Concepts in Technical Trading Systems", with simple averages (Cutler):
    Wilder's own smoothing would reach beyond any window. Gains are half of the way travelled plus
    the net change.
    """
    changes = candles.close[:, 1:] - candles.close[:, :-1]
    travelled = candles.mean(changes.abs(), 14)
    return 50.0 + 50.0 * candles.mean(changes, 14) / travelled.clamp_min(TINY)


@feature(lookback=MONTH + 1, log=0.5)
def range_volatility_1(candles: Candles) -> Tensor:
    """Log of the range volatility of this candle: the daily term of Corsi's HAR.

    Corsi (2009), "A Simple Approximate Long-Memory Model of Realized Volatility", Journal of
    Financial Econometrics 7.
    """
    return torch.maximum(candles.newest(candles.variance), QUIET_SHARE * candles.month)


@feature(lookback=MONTH + 1, log=0.5)
def range_volatility_5(candles: Candles) -> Tensor:
    """Log root of the mean range variance of 5 candles: HAR's weekly term."""
    return torch.maximum(candles.mean(candles.variance, WEEK), QUIET_SHARE * candles.month)


@feature(lookback=MONTH + 1, log=0.5)
def range_volatility_22(candles: Candles) -> Tensor:
    """Log root of the mean range variance of 22 candles: HAR's monthly term."""
    return candles.month


@feature(lookback=LONG + 1, log=0.5)
def range_volatility_120(candles: Candles) -> Tensor:
    """Log root of the mean range variance of 120 candles: the level to return to."""
    return candles.level


@feature(lookback=LONG + 1, log=1.0)
def return_range_ratio(candles: Candles) -> Tensor:
    """Log of the mean absolute return over the mean range volatility, of 120 candles.

    What ranges understate, as in an index whose opening price is stale.
    """
    moves = candles.mean(candles.returns.abs(), LONG)
    volatility = candles.mean(torch.sqrt(candles.variance), LONG)
    return (moves / volatility.clamp_min(math.sqrt(MIN_VARIANCE))).clamp_min(QUIET_MOVES)


@feature(lookback=LONG + 1, log=0.5, reach=YEARS + 1)
def range_volatility_480(candles: Candles) -> Tensor:
    """Log root of the mean range variance of the newest 480 candles, or of all if fewer."""
    newest = candles.all_variance[:, -YEARS:]
    mean = newest.mean(dim=1, keepdim=True).to(torch.float64)
    return mean.clamp_min(MIN_VARIANCE)


@feature(lookback=LONG + 1, log=1.0, reach=YEARS + 1)
def move_ratio_1(candles: Candles) -> Tensor:
    """Log of the mean absolute return over the mean range volatility, of the newest 480 candles."""
    return _move_ratio(candles, 1)


@feature(lookback=LONG + 1, log=1.0, reach=YEARS + 5)
def move_ratio_5(candles: Candles) -> Tensor:
    """Log of the mean absolute move over 5 candles in units of root 5 range volatilities, of 480.

    Against ``move-ratio-1`` it says whether a market runs on or comes back: the variance ratio of
    Lo and MacKinlay (1988), "Stock Market Prices Do Not Follow Random Walks", without squares.
    """
    return _move_ratio(candles, 5)


@feature(lookback=LONG + 1, log=1.0, reach=YEARS + 10)
def move_ratio_10(candles: Candles) -> Tensor:
    """Log of the mean absolute move over 10 candles in units of root 10 range volatilities."""
    return _move_ratio(candles, 10)


@feature(lookback=LONG + 1, reach=YEARS + 1)
def drift_480(candles: Candles) -> Tensor:
    """Sum of the newest 480 log returns over root 480 mean range volatilities, of fewer if fewer.

    Some standard deviations of what chance alone would add up to: a fund that decays, bonds that
    rise day by day.
    """
    count = _known_moves(candles, 1).sum()
    mean = _mean_of_moves(candles, 1, lambda moves: moves)
    return (mean * torch.sqrt(count) / _mean_volatility(candles)).to(torch.float64)


@feature(lookback=LONG + 1, reach=YEARS + 1)
def still_share(candles: Candles) -> Tensor:
    """Share of the newest 480 candles whose close is the one before: coarse or rare prices."""
    return _mean_of_moves(candles, 1, lambda moves: (moves == 0).to(torch.float32)).to(
        torch.float64
    )


@feature(lookback=LONG + 1, log=1.0, reach=YEARS + 1)
def volatility_spread(candles: Candles) -> Tensor:
    """Log of the root mean range variance over the mean range volatility, of 480 candles.

    0 where all candles are alike; large where a few of them make most of the variance.
    """
    level = torch.sqrt(_year_volatility(candles).square().mean(dim=1, keepdim=True))
    mean = _mean_volatility(candles)
    return (level.clamp_min(LEAST_VOLATILITY) / mean).clamp(1.0, MOST_SPREAD).to(torch.float64)


@feature(lookback=LONG + 1, reach=YEARS + 1)
def volatility_memory_1(candles: Candles) -> Tensor:
    """Autocorrelation of the range volatility from one candle to the next, of 480 candles."""
    return _memory(candles, 1)


@feature(lookback=LONG + 1, reach=YEARS + 1)
def volatility_memory_10(candles: Candles) -> Tensor:
    """Autocorrelation of the range volatility over 10 candles, of 480 candles."""
    return _memory(candles, 10)


@feature(lookback=131, log=0.5)
def quarter_volatility_1(candles: Candles) -> Tensor:
    """Log root of the largest range variance 61 to 64 candles ago, or 122 to 129 if less.

    Reports come some 63 trading days apart, so what follows the newest candle had its like then:
    whether one may be due at the next candle.
    """
    return _quarter(candles, (61, 64), (122, 129))


@feature(lookback=131, log=0.5)
def quarter_volatility_5(candles: Candles) -> Tensor:
    """Log root of the largest range variance 57 to 64 candles ago, or 114 to 129 if less."""
    return _quarter(candles, (57, 64), (114, 129))


@feature(lookback=131, log=0.5)
def quarter_volatility_10(candles: Candles) -> Tensor:
    """Log root of the largest range variance 49 to 64 candles ago, or 114 to 129 if less."""
    return _quarter(candles, (49, 64), (114, 129))


@feature(lookback=MONTH, log=1.0)
def log_volume(candles: Candles) -> Tensor:
    """Log of the turnover (close x volume) over its mean of 22 candles; 0 without volume."""
    turnover = candles.close * candles.volume
    newest, mean = candles.newest(turnover), candles.mean(turnover, MONTH)
    # not "+ TINY" on both: the exporter's optimiser drops the addition of so small a number
    return (newest.clamp_min(TINY) / mean.clamp_min(TINY)).clamp_min(QUIET_VOLUME)


@feature(lookback=LONG + 1, log=0.5, reach=MAX_CANDLES)
def slot_ahead_1(candles: Candles) -> Tensor:
    """Log root of the mean variance of 1 candle after this time of day, in four weeks."""
    return _slot(candles, (1, 1))


@feature(lookback=LONG + 1, log=0.5, reach=MAX_CANDLES)
def slot_ahead_5(candles: Candles) -> Tensor:
    """Log root of the mean variance of 5 candles after this time of day, in four weeks."""
    return _slot(candles, (1, 5))


@feature(lookback=LONG + 1, log=0.5, reach=MAX_CANDLES)
def slot_ahead_10(candles: Candles) -> Tensor:
    """Log root of the mean variance of 10 candles after this time of day, in four weeks."""
    return _slot(candles, (1, 10))


@feature(lookback=LONG + 1, log=0.5, reach=MAX_CANDLES)
def slot_before_1(candles: Candles) -> Tensor:
    """Log root of the mean variance of the candle at this time of day, in four weeks."""
    return _slot(candles, (0, 0))


@feature(lookback=LONG + 1, log=0.5, reach=MAX_CANDLES)
def slot_before_5(candles: Candles) -> Tensor:
    """Log root of the mean variance of 5 candles up to this time of day, in four weeks."""
    return _slot(candles, (-4, 0))


@feature(lookback=LONG + 1, log=0.5, reach=MAX_CANDLES)
def slot_before_22(candles: Candles) -> Tensor:
    """Log root of the mean variance of 22 candles up to this time of day, in four weeks."""
    return _slot(candles, (-21, 0))


@feature(lookback=LONG + 1, reach=MAX_CANDLES)
def slots_known(candles: Candles) -> Tensor:
    """How often this time of day came in four weeks, of 20 times; 0 to 1."""
    count = candles.shared("same", _same_time).sum(dim=1, keepdim=True)
    return (count / SLOTS).clamp_max(1.0).to(torch.float64)


@feature(lookback=MONTH + 1, log=1.0)
def interval(candles: Candles) -> Tensor:
    """Log of the candles' interval in days: the shortest time between openings of 22."""
    return _shortest(candles) / DAY_MS


@feature(lookback=LONG + 1, log=1.0)
def usual_gap(candles: Candles) -> Tensor:
    """Log of the mean time between openings of 120 candles over the shortest of 22.

    0 where a market never closes; some 0.4 for daily candles of one that rests on weekends.
    """
    return candles.mean(candles.shared("spacing", _spacing), LONG) / _shortest(candles)


@feature(lookback=1)
def time_of_day_sin(candles: Candles) -> Tensor:
    """Sine of the opening's time of day: 2 pi times the share of the UTC day that is over."""
    return torch.sin(2 * math.pi * _time_of_day(candles))


@feature(lookback=1)
def time_of_day_cos(candles: Candles) -> Tensor:
    """Cosine of the opening's time of day: 2 pi times the share of the UTC day that is over."""
    return torch.cos(2 * math.pi * _time_of_day(candles))


@feature(lookback=1)
def day_of_week_sin(candles: Candles) -> Tensor:
    """Sine of the opening's day of week (UTC): 2 pi times days since Monday over 7."""
    return torch.sin(2 * math.pi / 7 * _day_of_week(candles))


@feature(lookback=1)
def day_of_week_cos(candles: Candles) -> Tensor:
    """Cosine of the opening's day of week (UTC): 2 pi times days since Monday over 7."""
    return torch.cos(2 * math.pi / 7 * _day_of_week(candles))


@feature(lookback=MONTH + 1, log=1.0)
def gap_length(candles: Candles) -> Tensor:
    """Log of the time since the candle before opened over the shortest such time of 22 candles.

    0 within a session or a week of daily candles, above 0 after a night, a weekend or a halt.
    """
    return candles.newest(candles.shared("spacing", _spacing)) / _shortest(candles)


@feature(lookback=2 * MONTH)
def candles_since_gap(candles: Candles) -> Tensor:
    """Candles since the last gap in time, as a share of 22; 1 when there was none among 22.

    A gap is a spacing of at least 1.5 times the shortest of 22 candles.
    """
    spacing = _spacing(candles)
    shortest = -functional.max_pool1d(functional.pad(-spacing, (MONTH - 1, 0)), MONTH, stride=1)
    place = torch.arange(candles.length, dtype=torch.float64)
    gaps = torch.where(spacing >= GAP_RATIO * shortest, place, torch.zeros_like(spacing))
    since = candles.newest(place.expand_as(spacing)) - candles.highest(gaps, 0, MONTH - 1)
    return since.clamp_max(MONTH) / MONTH


def _quarter(candles: Candles, newer: tuple[int, int], older: tuple[int, int]) -> Tensor:
    event = torch.minimum(
        candles.highest(candles.variance, *newer), candles.highest(candles.variance, *older)
    )
    return torch.maximum(event, QUIET_EVENTS * candles.level)


def _year_volatility(candles: Candles) -> Tensor:
    """Return the range volatilities of the newest 480 candles, (B, up to 480), float32."""
    return candles.shared("volatility", lambda some: torch.sqrt(some.all_variance[:, -YEARS:]))


def _mean_volatility(candles: Candles) -> Tensor:
    mean = _year_volatility(candles).mean(dim=1, keepdim=True)
    return mean.clamp_min(LEAST_VOLATILITY)


def _move_ratio(candles: Candles, span: int) -> Tensor:
    moves = _mean_of_moves(candles, span, torch.abs)
    unit = math.sqrt(span) * _mean_volatility(candles)
    return (moves / unit).clamp_min(QUIET_MOVES).to(torch.float64)


def _mean_of_moves(candles: Candles, span: int, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of a function of the newest 480 moves, (B, 1), of fewer if there are fewer.

    What is summed is as long as the window or 480, a multiple of ``TILE``: sums of rows of other
    lengths would depend on a window's place in its batch.
    """
    moves, known = candles.newest_moves(span, YEARS), _known_moves(candles, span)
    return (value(moves) * known).sum(dim=1, keepdim=True) / known.sum()


def _known_moves(candles: Candles, span: int) -> Tensor:
    """Return 1 for each of the newest 480 moves that the window holds, else 0, (1, up to 480)."""
    ones = torch.ones_like(candles.all_variance[:1, span:])
    return functional.pad(ones, (span, 0))[:, -YEARS:]


def _memory(candles: Candles, lag: int) -> Tensor:
    """Return the autocorrelation of the volatility, (B, 1); 0 where it does not move.

    Capped, so that it is not that of a few shocks.
    """
    mean = _mean_volatility(candles)
    capped = torch.minimum(_year_volatility(candles), MOST_SHOCK * mean)
    apart = capped - capped.mean(dim=1, keepdim=True)
    variance = apart.square().mean(dim=1, keepdim=True) + (LEAST_SWING * mean).square()
    earlier = functional.pad(apart[:, :-lag], (lag, 0))
    together = (apart * earlier).mean(dim=1, keepdim=True)
    return (together / variance).to(torch.float64)


def _slot(candles: Candles, span: tuple[int, int]) -> Tensor:
    """Return the mean variance of a span around like times of day, (B, 1)."""
    at = SLOT_SPANS.index(span)
    return candles.shared("slots", _slot_means)[:, at : at + 1]


def _slot_means(candles: Candles) -> Tensor:
    """Return the mean variance of every span of ``SLOT_SPANS``, (B, spans).

    Candles are weighted by how many like times of day they lie in the span of; a span that is not
    over yet counts by what is known of it. At least a share of the level; the level itself where
    no like time is in the window. The kernels lay each span around each time, all at once.
    """
    first, last = min(low for low, _ in SLOT_SPANS), max(high for _, high in SLOT_SPANS)
    offsets = torch.arange(last, first - 1, -1)
    kernels = torch.stack([(offsets >= low) & (offsets <= high) for low, high in SLOT_SPANS])
    weights = functional.conv1d(
        functional.pad(candles.shared("same", _same_time), (last, -first))[:, None],
        kernels[:, None].to(torch.float32),
    )  # (B, spans, W)
    variance = candles.all_variance
    sums = weights @ torch.stack([variance, torch.ones_like(variance)], dim=2)  # (B, spans, 2)
    level = candles.level[:, -1:]
    mean = (sums[:, :, 0] / sums[:, :, 1].clamp_min(1.0)).to(torch.float64)
    return torch.where(sums[:, :, 1] > 0, torch.maximum(mean, QUIET_SHARE * level), level)


def _same_time(candles: Candles) -> Tensor:
    """Return 1 for each candle of four weeks at the newest one's time of day, (B, W).

    Times are of opening, in UTC: where clocks are put forward, a session's slots are an hour off
    for some weeks. Daily candles have no time of day.
    """
    age = (candles.all_open_ms[:, -1:] - candles.all_open_ms).to(torch.float64) / DAY_MS
    past = (age > 0.5) & (age < SLOT_DAYS + 0.5) & (_shortest(candles)[:, -1:] < DAY_MS)
    return ((age == torch.floor(age)) & past).to(torch.float32)


def _shortest(candles: Candles) -> Tensor:
    """Return the shortest time between openings of 22 candles, ms, (B, L)."""
    return candles.shared("shortest", _least_spacing)


def _least_spacing(candles: Candles) -> Tensor:
    return -candles.highest(-candles.shared("spacing", _spacing), 0, MONTH - 1)


def _time_of_day(candles: Candles) -> Tensor:
    return (candles.newest(candles.open_ms) % DAY_MS).to(torch.float64) / DAY_MS


def _day_of_week(candles: Candles) -> Tensor:
    days = torch.div(candles.newest(candles.open_ms), DAY_MS, rounding_mode="floor")
    return ((days + 3) % 7).to(torch.float64)  # 1970-01-01 was a Thursday


def _spacing(candles: Candles) -> Tensor:
    """Return the time since the candle before opened, ms, (B, T); 1 for the first."""
    spacing = candles.open_ms[:, 1:] - candles.open_ms[:, :-1]
    return functional.pad(spacing.to(torch.float64), (1, 0)).clamp_min(1.0)
