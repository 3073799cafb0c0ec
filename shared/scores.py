"""Tables of scores and their summaries: skill, coverage, PIT histogram. Pure.

A score is a row of ``ROW``: 39 bytes, so that the newest of thousands of series fit into memory and
are summed up by numpy. Errors and losses are of log returns from the last close, so that symbols
of any price can be pooled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.score_messages import INTERVALS, HorizonScore

Rows = NDArray[np.void]

LOSSES: Final = (
    "error", "persistence_error", "pinball", "raw_pinball", "baseline_pinball", "pit", "raw_pit",
)  # fmt: skip
"""Columns that are fields of ``HorizonScore``."""

ROW: Final = np.dtype(
    [
        ("as_of_ms", "<i8"),
        *((name, "<f4") for name in LOSSES),
        ("known", "u1"),  # intervals that the forecast had: bits, in the order of INTERVALS
        ("inside", "u1"),  # those that held the close
        ("raw_inside", "u1"),
    ]
)
"""A scored horizon."""

BINS: Final = 10
"""Bins of a PIT histogram, of equal width."""

SURE: Final = 1.645
"""Standard normal quantile of 95 %: beyond it a difference of mean losses counts as one."""

LEAST_SURE: Final = 10
"""Fewest independent scores that a verdict is given of."""

BETTER: Final = "better than no model"
EVEN: Final = "no clear difference"
WORSE: Final = "worse than no model"
"""Verdicts on the forecast's quantiles beside those of a baseline that knows no model."""

_BITS: Final = {name: 1 << at for at, name in enumerate(INTERVALS)}


def row_of(score: HorizonScore) -> tuple[Any, ...]:
    """Return a scored horizon as a row of ``ROW``."""
    losses = [getattr(score, name) for name in LOSSES]
    masks = _mask(dict.fromkeys(score.inside, True)), _mask(score.inside), _mask(score.raw_inside)
    return score.as_of_ms, *losses, *masks


def _mask(held: Mapping[str, bool]) -> int:
    return sum(bit for name, bit in _BITS.items() if held.get(name, False))


class ScoreTable:
    """The newest scores of one step, by the candle that each forecast was made at."""

    __slots__ = ("_count", "_rows")

    def __init__(self) -> None:
        self._rows: Rows = np.empty(4, dtype=ROW)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Rows:
        """The scores, the oldest first; a view that the next ``put`` may change."""
        return self._rows[: self._count]

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        return TABLE_BYTES + self._rows.nbytes

    def put(self, row: tuple[Any, ...], most: int) -> bool:
        """Add a score, or put it in the place of one of the same candle; return whether it is new.

        One of a candle before the newest that is not here has gone, or never came: it is left out.
        """
        as_of_ms: int = row[0]
        if self._count and as_of_ms <= self._rows["as_of_ms"][self._count - 1]:
            at = int(np.searchsorted(self.rows["as_of_ms"], as_of_ms))
            if self._rows["as_of_ms"][at] == as_of_ms:
                self._rows[at] = row
            return False
        self.append(row, most)
        return True

    def append(self, row: tuple[Any, ...], most: int) -> None:
        """Add a score at the end, and let the oldest go beyond ``most``."""
        if self._count == len(self._rows) or self._count >= 2 * most:
            kept = self.rows[max(self._count - most + 1, 0) :]
            self._rows = np.empty(min(2 * len(kept) + 2, 2 * most), dtype=ROW)
            self._rows[: len(kept)] = kept
            self._count = len(kept)
        self._rows[self._count] = row
        self._count += 1

    def newest(self, most: int) -> Rows:
        """Return the newest scores, at most so many."""
        return self.rows[-most:]

    def halve(self) -> None:
        """Let the older half go."""
        self._rows = self.rows[self._count // 2 :].copy()
        self._count = len(self._rows)


TABLE_BYTES: Final = 250
"""What a table takes in memory beside its rows, about."""


@dataclass(frozen=True)
class Summary:
    """Means over the scores of one step."""

    step: int
    count: int
    mean_absolute_error: float  # of log returns
    persistence_mean_absolute_error: float  # of "no change"
    persistence_skill: float | None  # 1 - error / persistence's; None where no price moved
    pinball: float  # of the calibrated quantiles
    raw_pinball: float  # of the model's
    baseline_pinball: float  # of a baseline that knows no model
    baseline_skill: float | None  # 1 - pinball / the baseline's; None where that is 0
    against_baseline: str  # in words: what a one-sided test at 5 % of that says
    coverage: dict[str, float]  # nominal per cent -> share of outcomes inside, calibrated
    raw_coverage: dict[str, float]  # the same of the model's intervals
    pit: list[float]  # histogram of the transforms, shares of BINS bins; all alike is right
    raw_pit: list[float]  # the same by the model's quantiles


def summarise(rows: Rows, step: int) -> Summary:
    """Return the summary of scores of one step; there must be one at least."""
    mean = {name: float(rows[name].mean(dtype=np.float64)) for name in LOSSES[2:5]}
    error = float(np.abs(rows["error"]).mean(dtype=np.float64))
    persistence = float(np.abs(rows["persistence_error"]).mean(dtype=np.float64))
    base = mean["baseline_pinball"]
    return Summary(
        step=step,
        count=len(rows),
        mean_absolute_error=error,
        persistence_mean_absolute_error=persistence,
        persistence_skill=1 - error / persistence if persistence > 0 else None,
        **mean,
        baseline_skill=1 - mean["pinball"] / base if base > 0 else None,
        against_baseline=_verdict(rows, step),
        coverage=_coverage(rows, "inside"),
        raw_coverage=_coverage(rows, "raw_inside"),
        pit=_histogram(rows["pit"]),
        raw_pit=_histogram(rows["raw_pit"]),
    )


def entries(rows: Rows) -> list[dict[str, Any]]:
    """Return scores one by one, oldest first: by column, and by interval whether it held."""
    columns = {name: np.round(rows[name].astype(np.float64), 9).tolist() for name in LOSSES}
    columns = {"as_of_ms": rows["as_of_ms"].tolist(), **columns}
    found = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    masks = zip(*(rows[name].tolist() for name in ("known", "inside", "raw_inside")), strict=True)
    for entry, (known, *held) in zip(found, masks, strict=True):
        names = {name: bit for name, bit in _BITS.items() if known & bit}
        for of, mask in zip(("inside", "raw_inside"), held, strict=True):
            entry[of] = {name: mask & bit > 0 for name, bit in names.items()}
    return found


def _verdict(rows: Rows, step: int) -> str:
    """Return what the mean difference of pinball losses says; forecasts of a step overlap."""
    difference = rows["baseline_pinball"].astype(np.float64) - rows["pinball"]
    independent = len(rows) / step
    deviation = float(difference.std())
    if independent < LEAST_SURE or deviation <= 0:
        return EVEN
    ratio = float(difference.mean()) / deviation * math.sqrt(independent)
    return BETTER if ratio > SURE else WORSE if ratio < -SURE else EVEN


def _coverage(rows: Rows, column: str) -> dict[str, float]:
    """Return the share of outcomes inside each interval, over the forecasts that had it."""
    shares = {}
    for name, bit in _BITS.items():
        known = rows["known"] & bit > 0
        if known.any():
            shares[name] = float((rows[column][known] & bit > 0).mean())
    return shares


def _histogram(transforms: NDArray[np.floating[Any]]) -> list[float]:
    at = np.minimum((transforms * BINS).astype(np.int64), BINS - 1)
    shares: list[float] = (np.bincount(at, minlength=BINS) / len(transforms)).tolist()
    return shares
