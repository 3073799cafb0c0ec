"""Intervals on the calendar: the close of a candle, months, and whether times step by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS, INTERVALS_MS, midnight_ms

MONTH: Final = "1mo"
"""The one interval whose length varies."""

NEAR: Final = 0.5
"""Share of the interval below which two candles are too near: daylight saving takes an hour."""

FAR: Final = 1.5
"""Multiple of the interval from which on two candles have others missing between them."""

FEWEST_STEPS: Final = 3
"""Fewest steps that can tell of a longer interval: two candles may have a weekend between them."""

ALIKE: Final = 0.15
"""Share by which lengths may differ that count as one: months do, and days of another season."""

_MONTH: Final = (28 * DAY_MS, 31 * DAY_MS)


def close_ms_of(open_ms: NDArray[np.int64], interval: str) -> NDArray[np.int64]:
    """Return the end of candles that open at ``open_ms`` (n,): of a month its own length later."""
    if interval != MONTH:
        return open_ms + INTERVALS_MS[interval]
    months = open_ms.astype("datetime64[ms]").astype("datetime64[M]")
    days = (months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")
    lengths: NDArray[np.int64] = days.astype(np.int64) * DAY_MS
    return open_ms + lengths


def closes_of(
    open_ms: NDArray[np.int64],
    close_ms: NDArray[np.int64] | None,
    interval: str,
    at: slice = slice(None),
) -> NDArray[np.int64]:
    """Return the ends (k,) of the candles ``at``: as given, or by the interval where none are."""
    return close_ms_of(open_ms[at], interval) if close_ms is None else close_ms[at]


def shortest_step_ms(interval: str) -> int:
    """Return the time below which two candles are nearer than their interval allows."""
    return int(NEAR * (_MONTH[0] if interval == MONTH else INTERVALS_MS[interval]))


def later_month_ms(close_ms: int, months: int) -> int:
    """Return the time that lies as far from its month's end as ``close_ms``, some months later."""
    last = datetime.fromtimestamp((close_ms - 1) / 1000, UTC).date()
    number = last.year * 12 + last.month  # of the month after, from 0
    return close_ms + _month_ms(number + months) - _month_ms(number)


def _month_ms(number: int) -> int:
    return midnight_ms(datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).date())


@dataclass(frozen=True)
class Steps:
    """The times from one candle to the next of some symbols, by length."""

    lengths: NDArray[np.int64]  # (m,), ms, rising
    counts: NDArray[np.int64]  # (m,)

    @classmethod
    def of(cls, times: Iterable[NDArray[np.int64]]) -> Steps:
        """Return the steps between the opening times of each symbol, which rise."""
        counted = [np.unique(np.diff(open_ms), return_counts=True) for open_ms in times]
        if not counted:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        lengths, places = np.unique(
            np.concatenate([found for found, _ in counted]), return_inverse=True
        )
        counts = np.bincount(
            places, np.concatenate([count for _, count in counted]), minlength=len(lengths)
        )
        return cls(lengths, counts.astype(np.int64))

    @property
    def total(self) -> int:
        """The number of steps."""
        return int(self.counts.sum())

    @property
    def usual_ms(self) -> int:
        """The most frequent length; 0 without steps."""
        return int(self.lengths[self.counts.argmax()]) if self.total else 0

    def interval(self) -> str | None:
        """Return the interval that most steps have, or None where it is not one of ours."""
        length = self.usual_ms
        if _MONTH[0] - DAY_MS <= length <= _MONTH[1] + 2 * DAY_MS:  # to a first trading day
            return MONTH
        names = [name for name, ms in INTERVALS_MS.items() if ms == length]
        return names[-1] if names else None

    def contradict(self, interval: str) -> bool:
        """Return True when these are the steps of another interval.

        They are if most are far shorter; or if one longer step is the rule and none at all is as
        long as the interval. Missing candles, nights, weekends and short sessions do neither.
        """
        shortest = shortest_step_ms(interval)
        too_near = self.counts[self.lengths < shortest].sum()
        if too_near > self.total / 2:
            return True
        fitting = (self.lengths >= shortest) & (self.lengths < FAR * INTERVALS_MS[interval])
        alike = np.abs(self.lengths - self.usual_ms) <= ALIKE * self.usual_ms
        rules = self.total >= FEWEST_STEPS and self.counts[alike].sum() > self.total / 2
        return bool(rules and not self.counts[fitting].any())


def length_in_words(length_ms: int) -> str:
    """Return a length as people say it: 1d, 7d, 90m, 3.6 s."""
    for unit, ms in (("d", DAY_MS), ("h", 3_600_000), ("m", 60_000)):
        if length_ms >= ms and length_ms % ms == 0:
            return f"{length_ms // ms}{unit}"
    for unit, ms in (("days", DAY_MS), ("hours", 3_600_000), ("minutes", 60_000), ("s", 1000)):
        if length_ms >= ms:
            return f"{length_ms / ms:.4g} {unit}"
    return f"{length_ms} ms"
