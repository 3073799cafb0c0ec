"""Online calibration: corrects a forecast's quantiles by what the series has done since. Pure.

Each series and horizon has a multiplier for each side of the median and an offset for each level,
both in units of the forecast's own spread, so prices of any scale and markets of any volatility
are alike. A horizon that is settled moves them by the gradient of the pinball loss: conformal
quantile tracking (Angelopoulos, Candès and Tibshirani, "Conformal PID control for time series
prediction", 2023) for the offsets, scale learning for the multipliers. The gradient is taken at
what the calibration is now and not at what it was when the forecast was made (Joulani, György and
Szepesvári, "Online learning under delayed feedback", 2013), which keeps long horizons from
swinging. The median is left as it is.

A model that is right would lose by corrections that follow chance, so they are applied in full only
where they are larger than chance makes them (a shrinkage in the manner of Stein).

Beside them, of the same series and horizons, quantiles of the size of standardised moves: those
of the baseline, which knows no model.

Every step is arithmetic of single elements, so a series gets the same bits whatever else is in
the arrays: repeats after a fault are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from shared.forecasts import MEDIAN, level_name
from shared.sums import added

if TYPE_CHECKING:
    from shared.score_messages import Correction

Floats = NDArray[np.float64]
Codes = NDArray[np.int16]

SCALE_RATE: Final = (0.02, 150.0, 0.006)
"""Rate of the multipliers: at the start, horizons settled until it is halved, least."""

OFFSET_RATE: Final = (0.02, 50.0, 0.004)
"""Rate of the offsets, likewise, in spreads. Decision 44 has what others gave."""

BASELINE_RATE: Final = (0.1, 50.0, 0.01)
"""Rate of the baseline's quantiles, likewise, in standard deviations."""

SURE_SCALE: Final = 0.08
"""How far from 1 a multiplier of one ahead is applied by half; less is rather chance."""

SURE_OFFSET: Final = 0.05
"""Offset of one ahead that is applied by half, in spreads."""

MAX_SCALE: Final = 4.0
"""Largest multiplier, and the inverse of the least."""

MAX_OFFSET: Final = 1.0
"""Largest offset, in spreads: outliers and halted markets go no further."""

MAX_BASELINE: Final = 30.0
MIN_BASELINE: Final = 0.02
"""Bounds of the baseline's quantiles, in standard deviations."""

CODE: Final = 4096.0
"""Codes of a calibrated quantile in one spread; 16 bits hold 8 spreads either way."""

BASELINE_CODE: Final = 1024.0
"""Codes of a baseline's quantile in one standard deviation."""

DECAY: Final = 0.94
"""Weight of the past in the baseline's variance, as in RiskMetrics (1996)."""

MAX_CODE: Final = float(np.iinfo(np.int16).max)

_SETTLED, _LOWER, _UPPER, _OFFSETS = 0, 1, 2, 3
"""Columns of a horizon's state: horizons settled, multipliers, then offsets and the baseline's."""


@dataclass(frozen=True)
class Grid:
    """The horizons and levels of a model, and what follows from them."""

    steps: tuple[int, ...]  # candles ahead, rising; H of them
    levels: tuple[float, ...]  # rising, with the median; Q of them

    @cached_property
    def level(self) -> Floats:
        """The levels, (Q,)."""
        return np.array(self.levels)

    @cached_property
    def median(self) -> int:
        """Place of the median among the levels."""
        return self.levels.index(MEDIAN)

    @cached_property
    def ends(self) -> tuple[int, int]:
        """Places of the two levels between which half the distance is the spread."""
        nearest = [
            min(range(len(self.levels)), key=lambda at: abs(self.levels[at] - end))
            for end in (0.1, 0.9)
        ]
        return nearest[0], nearest[1]

    @cached_property
    def folded(self) -> Floats:
        """Probabilities of a move no larger than the baseline's quantiles, rising, (M,)."""
        return np.array(sorted({round(abs(2 * level - 1), 12) for level in self.levels} - {0.0}))

    @cached_property
    def fold(self) -> tuple[NDArray[np.int64], Floats]:
        """Place among ``folded`` and sign of each level, (Q,) both; the median's sign is 0."""
        rounded = [round(abs(2 * level - 1), 12) for level in self.levels]
        at = np.array([np.searchsorted(self.folded, value) if value else 0 for value in rounded])
        return at.astype(np.int64), np.sign(self.level - MEDIAN)

    @cached_property
    def side(self) -> NDArray[np.int64]:
        """Whose multiplier each level has, (Q,): 0 the lower side's, 1 the upper's."""
        return (np.arange(len(self.levels)) > self.median).astype(np.int64)

    @property
    def width(self) -> int:
        """Numbers in the state of one horizon, W."""
        return _OFFSETS + len(self.levels) + len(self.folded)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a series' state, (H, W)."""
        return len(self.steps), self.width

    @cached_property
    def roots(self) -> Floats:
        """Square roots of the steps, (H,)."""
        return np.sqrt(np.array(self.steps, dtype=np.float64))

    @cached_property
    def fourth_roots(self) -> Floats:
        """Fourth roots of the steps, (H,)."""
        return np.sqrt(self.roots)

    def start(self) -> NDArray[np.float32]:
        """Return the state of a series that has settled nothing: quantiles stay as they are."""
        state = np.zeros(self.shape, dtype=np.float32)
        state[:, _LOWER : _UPPER + 1] = 1.0
        normal = NormalDist()
        state[:, _OFFSETS + len(self.levels) :] = [
            normal.inv_cdf((1 + share) / 2) for share in self.folded.tolist()
        ]
        return state

    def carry(self, other: Grid, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return another grid's state on this one: what both have is kept, the rest begins."""
        carried = self.start()
        for row, step in enumerate(self.steps):
            if step not in other.steps:
                continue
            before = state[other.steps.index(step)]
            carried[row, :_OFFSETS] = before[:_OFFSETS]
            for at, level in enumerate(self.levels):
                if level in other.levels:
                    there = other.levels.index(level)
                    carried[row, _OFFSETS + at] = before[_OFFSETS + there]
            for at, share in enumerate(self.folded.tolist()):
                if share in other.folded:
                    there = int(np.searchsorted(other.folded, share))
                    place = _OFFSETS + len(self.levels) + at
                    carried[row, place] = before[_OFFSETS + len(other.levels) + there]
        return carried

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The levels as messages name them."""
        return tuple(level_name(level) for level in self.levels)

    @cached_property
    def _correction(self) -> bytes:
        """The JSON of a correction, with places for its numbers."""
        offsets = ",".join(f'"{name}":%b' for name in self.names)
        return f'{{"settled":%d,"lower":%b,"upper":%b,"offsets":{{{offsets}}}}}'.encode()

    def corrections(self, state: NDArray[np.float32]) -> list[bytes]:
        """Return what horizons have learned, (N, W), each as ``Correction`` in JSON.

        Numbers are written as the shortest that give the same 32 bits.
        """
        end = _OFFSETS + len(self.levels)
        numbers = orjson.dumps(
            np.ascontiguousarray(state[:, _LOWER:end]), option=orjson.OPT_SERIALIZE_NUMPY
        )
        rows = numbers[2:-2].split(b"],[")
        settled = state[:, _SETTLED].astype(np.int64).tolist()
        return [
            self._correction % (count, *row.split(b","))
            for count, row in zip(settled, rows, strict=True)
        ]

    def restored(self, learned: Mapping[int, Correction]) -> NDArray[np.float32]:
        """Return the state, (H, W), that corrections by step say, its baseline at the start.

        What they do not have stays as the model says it.
        """
        state = self.start()
        for row, step in enumerate(self.steps):
            known = learned.get(step)
            if known is None:
                continue
            state[row, :_OFFSETS] = known.settled, known.lower, known.upper
            for at, name in enumerate(self.names):
                state[row, _OFFSETS + at] = known.offsets.get(name, 0.0)
        return state


@lru_cache(maxsize=64)
def grid_of(steps: tuple[int, ...], levels: tuple[float, ...]) -> Grid:
    """Return the grid of a model's horizons and levels."""
    return Grid(steps, levels)


def calibrate(grid: Grid, state: NDArray[Any], raw: NDArray[Any]) -> Codes:
    """Return where the calibrated quantiles lie, in 4096ths of a spread from the median.

    They rise with the level, stay on their side of the median, and keep at least a quarter of
    their distance to it.

    Args:
        grid: the model's.
        state: of each series, (B, H, W).
        raw: the model's quantiles of the log return, (B, H, Q).

    Returns:
        Codes, (B, H, Q); ``quantiles`` turns them into log returns.
    """
    raw = raw.astype(np.float64)
    state = state.astype(np.float64)
    median, spread = _median_and_spread(grid, raw)
    scaled = (raw - median) / np.where(spread > 0, spread, 1.0)
    moved = _moved(grid, scaled, _applied(grid, state))
    at = grid.median
    lower = np.minimum(moved[..., :at], scaled[..., :at] / MAX_SCALE)
    upper = np.maximum(moved[..., at + 1 :], scaled[..., at + 1 :] / MAX_SCALE)
    placed = np.zeros_like(scaled)
    # outwards from the median no quantile comes before the one within it
    placed[..., :at] = np.minimum.accumulate(lower[..., ::-1], axis=-1)[..., ::-1]
    placed[..., at + 1 :] = np.maximum.accumulate(upper, axis=-1)
    codes = _within(-MAX_CODE, np.rint(placed * CODE), MAX_CODE)
    codes[np.isnan(codes)] = 0.0
    return codes.astype(np.int16)


def quantiles(grid: Grid, raw: NDArray[Any], codes: NDArray[Any]) -> Floats:
    """Return calibrated quantiles of the log return, (..., Q), rising along Q.

    A forecast without spread stays as it is.
    """
    raw = raw.astype(np.float64)
    median, spread = _median_and_spread(grid, raw)
    placed: Floats = median + spread * (codes.astype(np.float64) / CODE)
    return np.where(spread > 0, placed, raw)


def learn(
    grid: Grid,
    state: NDArray[Any],
    horizon: NDArray[np.int64],
    outcome: Floats,
    raw: NDArray[Any],
    sigma: Floats,
) -> NDArray[np.float32]:
    """Return the states of horizons after their outcomes.

    Args:
        grid: the model's.
        state: of each settled horizon, (N, W).
        horizon: its place among the grid's steps, (N,).
        outcome: log return from the forecast's last close, (N,).
        raw: the model's quantiles of it, (N, Q).
        sigma: the baseline's deviation a candle when the forecast was made, (N,).
    """
    before = state.astype(np.float64)
    raw = raw.astype(np.float64)
    median, spread = _median_and_spread(grid, raw)
    usable = (spread > 0) & np.isfinite(raw[:, :1] + raw[:, -1:]) & np.isfinite(outcome)[:, None]
    scaled = (raw - median) / np.where(usable, spread, 1.0)
    reached = (outcome[:, None] - median) / np.where(usable, spread, 1.0)
    pull = grid.level - (reached <= _moved(grid, scaled, before))  # (N, Q), minus the gradient
    at = grid.median
    settled = before[:, _SETTLED]
    after = before.copy()
    rate = np.maximum(
        _falling(SCALE_RATE, settled) / grid.fourth_roots[horizon],
        SCALE_RATE[2] / grid.roots[horizon],
    )
    weighed = pull * scaled
    for column, side in ((_LOWER, weighed[:, :at]), (_UPPER, weighed[:, at + 1 :])):
        count = side.shape[1]
        if not count:
            continue
        force = added(side) * (3 / count)  # the rates were chosen with three a side
        grown = before[:, column] * (1 + rate * force)
        after[:, column] = _within(1 / MAX_SCALE, grown, MAX_SCALE)
    rate = np.maximum(_falling(OFFSET_RATE, settled), OFFSET_RATE[2]) / grid.fourth_roots[horizon]
    end = _OFFSETS + len(grid.levels)
    moved = before[:, _OFFSETS:end] + rate[:, None] * pull
    moved[:, at] = 0.0
    after[:, _OFFSETS:end] = _within(-MAX_OFFSET, moved, MAX_OFFSET)
    after[:, _SETTLED] = settled + 1
    after = np.where(usable, after, before)
    deviation = sigma * grid.roots[horizon]
    known = (deviation > 0) & np.isfinite(outcome)
    size = np.abs(outcome) / np.where(known, deviation, 1.0)
    rate = (
        np.maximum(_falling(BASELINE_RATE, settled), BASELINE_RATE[2]) / grid.fourth_roots[horizon]
    )
    held = before[:, end:]
    moved = held + rate[:, None] * (grid.folded - (size[:, None] <= held))
    after[:, end:] = np.where(known[:, None], _within(MIN_BASELINE, moved, MAX_BASELINE), held)
    return after.astype(np.float32)


def settled(state: NDArray[Any]) -> NDArray[np.float32]:
    """Return how many horizons states, (..., W), have settled."""
    counts: NDArray[np.float32] = state[..., _SETTLED]
    return counts


def baseline_codes(grid: Grid, state: NDArray[Any]) -> Codes:
    """Return the baseline's quantiles of the size of a move, in 1024ths of a deviation, (..., M).

    Args:
        grid: the model's.
        state: of horizons, (..., W).
    """
    held = state[..., _OFFSETS + len(grid.levels) :].astype(np.float64)
    rising = np.maximum.accumulate(held, axis=-1)
    return np.rint(rising * BASELINE_CODE).astype(np.int16)


def baseline_quantiles(
    grid: Grid, codes: NDArray[Any], sigma: Floats, horizon: NDArray[np.int64]
) -> Floats:
    """Return the baseline's quantiles of the log return, (N, Q): no drift, both sides alike.

    Args:
        grid: the model's.
        codes: of ``baseline_codes``, (N, M).
        sigma: deviation a candle, (N,).
        horizon: place among the grid's steps, (N,).
    """
    at, sign = grid.fold
    if not len(grid.folded):
        return np.zeros((len(sigma), len(grid.levels)))
    size = codes.astype(np.float64)[:, at] / BASELINE_CODE  # (N, Q)
    return size * sign * (sigma * grid.roots[horizon])[:, None]


def next_variance(variance: float, log_return: float) -> float:
    """Return the baseline's variance a candle after one more: exponentially weighted."""
    return DECAY * variance + (1 - DECAY) * log_return * log_return


def first_variance(closes: Sequence[float]) -> float:
    """Return the baseline's variance a candle from a window's closes, oldest first."""
    prices = np.asarray(closes, dtype=np.float64)
    moves = np.log(prices[1:] / prices[:-1])
    return float(np.add.reduce(moves * moves)) / max(len(moves), 1)


def _median_and_spread(grid: Grid, raw: Floats) -> tuple[Floats, Floats]:
    """Return median and spread of distributions, (..., 1) both."""
    low, high = grid.ends
    at = grid.median
    return raw[..., at : at + 1], (raw[..., high : high + 1] - raw[..., low : low + 1]) / 2


def _applied(grid: Grid, state: Floats) -> Floats:
    """Return states, (..., H, W), with multipliers and offsets shrunk where they may be chance.

    Outcomes of long horizons overlap, so chance moves theirs further. A side whose multiplier is
    sure has sure offsets.
    """
    applied = state + 0.0
    steps, roots = grid.roots * grid.roots, grid.roots * grid.fourth_roots
    scale = state[..., _LOWER : _UPPER + 1]
    apart = np.maximum(scale, 1.0 / scale) - 1.0
    fourth = apart * apart * apart * apart
    sure = fourth / (fourth + SURE_SCALE**4 * steps[:, None])
    applied[..., _LOWER : _UPPER + 1] = 1.0 + (scale - 1.0) * sure
    levels = slice(_OFFSETS, _OFFSETS + len(grid.levels))
    offset = state[..., levels]
    square = offset * offset
    own = square / (square + SURE_OFFSET**2 * roots[:, None])
    applied[..., levels] = offset * np.maximum(sure[..., grid.side], own)
    return applied


def _moved(grid: Grid, scaled: Floats, state: Floats) -> Floats:
    """Return scaled quantiles, (..., Q), by the multipliers and offsets of a state, (..., W)."""
    moved: Floats = scaled * state[..., _LOWER + grid.side]
    moved += state[..., _OFFSETS : _OFFSETS + len(grid.levels)]
    return moved


def _falling(rate: tuple[float, float, float], settled: Floats) -> Floats:
    first, half, _ = rate
    return first / (1 + settled / half)


def _within(least: float, values: Floats, most: float) -> Floats:
    """Return values within bounds; NaN stays. Half as long as ``np.clip`` takes for few."""
    return np.minimum(np.maximum(values, least), most)
