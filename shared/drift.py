"""Drift of a series: a sequential test of whether its outcomes still fall as the model says. Pure.

An outcome falls into one of the Q + 1 bins between a forecast's quantiles. While the model is
right the bins' probabilities are known whatever its distribution is, so for each alternative (moves
larger or smaller than forecast, a shift up or down) the ratio of two probabilities of the bin is an
e-value: its mean is 1. Their Shiryaev-Roberts statistics ``R = (1 + R)·ratio``, averaged, are an
e-detector (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change
detection", 2023): without drift the mean less the number of candles is a martingale, so that an
alarm at ``THRESHOLD`` comes after that many candles on average at the earliest. That is proved, and
holds for any true model; how soon a drift is noticed depends on its size.

Only horizons that do not overlap count: of the model's first step, every ``step``-th one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import Annotated, Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from shared.messages import Message
from shared.sums import added

Floats = NDArray[np.float64]

THRESHOLD: Final = 10_000.0
"""Evidence at which a series drifts: at most one false alarm in so many candles."""

ENOUGH: Final = 100.0
"""Evidence below which a drift is over, and the test begins again; without one it is about 20."""

MOST: Final = 100 * THRESHOLD
"""Bound of the evidence, so that a drift that is over ends."""

ALTERNATIVES: Final = ((0.0, 0.5), (0.0, 0.7), (0.0, 1.4), (0.0, 2.0), (-0.5, 1.0), (0.5, 1.0))
"""Shift of the outcome and factor of its deviation, in the forecast's deviations."""

MEMORY: Final = 0.98
"""Weight of the past in shift and spread: they look back some 50 candles."""

_SHIFT, _SQUARE, _SINCE = range(len(ALTERNATIVES), len(ALTERNATIVES) + 3)

WIDTH: Final = len(ALTERNATIVES) + 3
"""Numbers in the state of a series."""


class Report(TypedDict):
    """The fields of ``Drift`` as they are written."""

    evidence: float
    drifting: int
    shift: float
    spread: float


class Drift(Message):
    """How far a series' outcomes are from what the model says, calibration left aside."""

    evidence: Annotated[float, Field(ge=0)]  # for a drift; about the candles so far without one
    drifting: Annotated[int, Field(ge=0)]  # candles since the evidence reached 10,000; 0 without
    shift: float  # mean of the newest 50 outcomes or so, in the forecast's deviations; 0 is right
    spread: Annotated[float, Field(ge=0)]  # size of their moves over that forecast; 1 is right


@dataclass(frozen=True)
class Bins:
    """What each bin between a model's quantiles says for drift."""

    levels: tuple[float, ...]

    @cached_property
    def ratio(self) -> Floats:
        """E-values, (J, Q + 1): the bin's probability if drifted over that if not."""
        normal = NormalDist()
        ends = [normal.inv_cdf(level) for level in self.levels]
        expected = np.diff([0.0, *self.levels, 1.0])
        drifted = [
            np.diff([0.0, *(normal.cdf((end - shift) / factor) for end in ends), 1.0])
            for shift, factor in ALTERNATIVES
        ]
        ratio: Floats = np.stack(drifted) / expected
        return ratio

    @cached_property
    def moments(self) -> Floats:
        """Mean and mean square of a standard normal number within each bin, (2, Q + 1)."""
        normal = NormalDist()
        ends = np.array([normal.inv_cdf(level) for level in self.levels])
        density = np.array([normal.pdf(end) for end in ends])
        expected = np.diff([0.0, *self.levels, 1.0])
        first = -np.diff([0.0, *density, 0.0]) / expected
        second = 1.0 - np.diff([0.0, *(ends * density), 0.0]) / expected
        return np.stack([first, second])


@lru_cache(maxsize=64)
def bins_of(levels: tuple[float, ...]) -> Bins:
    """Return the bins of a model's levels."""
    return Bins(levels)


def start() -> NDArray[np.float32]:
    """Return the state of a series without outcomes."""
    state = np.zeros(WIDTH, dtype=np.float32)
    state[_SQUARE] = 1.0
    return state


def after(
    levels: tuple[float, ...], state: NDArray[Any], outcome: Floats, raw: NDArray[Any]
) -> NDArray[np.float32]:
    """Return states after an outcome each, bit for bit the same alone or among others.

    Args:
        levels: the model's, Q of them.
        state: (N, ``WIDTH``).
        outcome: log returns, (N,).
        raw: the model's quantiles of them, (N, Q); one without spread says nothing.
    """
    bins = bins_of(levels)
    raw = raw.astype(np.float64)
    usable = np.isfinite(outcome) & np.isfinite(raw[:, 0] + raw[:, -1])
    usable &= (raw[:, -1] > raw[:, 0]) | (len(levels) == 1)
    at = (raw < outcome[:, None]).sum(axis=1)
    before = state.astype(np.float64)
    moved = before.copy()
    count = len(ALTERNATIVES)
    moved[:, :count] = np.minimum((1.0 + before[:, :count]) * bins.ratio[:, at].T, MOST)
    held = before[:, _SHIFT : _SQUARE + 1]
    moved[:, _SHIFT : _SQUARE + 1] = MEMORY * held + (1 - MEMORY) * bins.moments[:, at].T
    evidence = _evidence(moved)
    drifts = before[:, _SINCE] > 0
    moved[:, _SINCE] = np.where(drifts | (evidence >= THRESHOLD), before[:, _SINCE] + 1, 0.0)
    over = drifts & (evidence < ENOUGH)
    moved[over, :count] = 0.0
    moved[over, _SINCE] = 0.0
    return np.where(usable[:, None], moved, before).astype(np.float32)


def drifts(state: NDArray[Any]) -> bool:
    """Tell whether a series of a state, (``WIDTH``,), drifts."""
    return bool(state[_SINCE] > 0)


def report(state: NDArray[Any]) -> Report:
    """Return what a series' state, (``WIDTH``,), says."""
    values: Sequence[float] = state.tolist()
    shift, square = values[_SHIFT], values[_SQUARE]
    return {
        "evidence": sum(values[: len(ALTERNATIVES)]) / len(ALTERNATIVES),
        "drifting": int(values[_SINCE]),
        "shift": shift,
        "spread": float(np.sqrt(max(square - shift * shift, 0.0))),
    }


def _evidence(state: Floats) -> Floats:
    """Return the mean of the statistics, (N,)."""
    count = len(ALTERNATIVES)
    mean: Floats = added(state[:, :count]) / count
    return mean
