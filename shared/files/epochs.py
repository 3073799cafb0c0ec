"""Times counted from 1970: their unit by their size, and dates that are written as numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS
from shared.files.arrow import Column, filled, is_text, mask, matches, pa, pc, valid
from shared.files.dates import NONE_MS
from shared.files.series import HistoryError, Mask, Numbers
from shared.messages import END_MS, FIRST_MS

UNITS: Final = ("seconds", "milliseconds", "microseconds", "nanoseconds")
"""Units of epochs, the coarsest first."""

_PER_SECOND: Final = (1, 1000, 1_000_000, 1_000_000_000)
_USUAL: Final = 0.9
"""Share of the cells that must agree on what digits mean."""

Counts = NDArray[np.generic]
"""Numbers as a file has them: int64, or float64 where there are fractions."""


_NUMBER: Final = r"^[+-]?[0-9]+(?:\.[0-9]*)?$"
_MOST: Final = 9e18
"""Larger than the nanoseconds of the year 2200, less than 64 bits hold."""


class Epochs:
    """Tells the unit of times counted from 1970 by their size, also where it changes."""

    def __init__(self, place: str) -> None:
        """Begin without having seen a number; the place is file and column, for errors."""
        self._place = place
        self._last: tuple[float, int] | None = None  # number and unit of the last row read
        self.units: dict[str, None] = {}

    def read(self, numbers: Counts, good: Mask) -> Numbers:
        """Return the times (n,) in UTC ms of numbers (n,), ``NONE_MS`` where there is none."""
        sizes = _sizes(numbers, good)
        present = np.flatnonzero(sizes >= 0)
        if not len(present):
            return np.full(len(numbers), NONE_MS)
        self._settle(numbers, sizes, present)
        open_ms = np.full(len(numbers), NONE_MS)
        for number, unit in enumerate(UNITS):
            chosen = sizes == number
            if chosen.any():
                self.units[unit] = None
                open_ms[chosen] = _to_ms(numbers[chosen], number)
        self._last = (float(numbers[present[-1]]), int(sizes[present[-1]]))
        return open_ms

    def _settle(self, numbers: Counts, sizes: Numbers, present: Numbers) -> None:
        """Let numbers near 1970 have the unit of their neighbours, whose size says what it is."""
        values = numbers[present].astype(np.float64)
        units = sizes[present]
        before = self._last is not None
        if self._last is not None:
            values, units = np.r_[self._last[0], values], np.r_[self._last[1], units]
        if (units == units[0]).all():
            return
        largest = int(units.max())
        seconds = values / np.array(_PER_SECOND, float)[units]
        uniform = values / _PER_SECOND[largest]
        edges = np.flatnonzero(np.diff(units))
        jumps = np.abs(np.diff(seconds))[edges].sum()
        if np.abs(np.diff(uniform))[edges].sum() >= jumps:
            return
        if before and units[0] != largest:
            raise HistoryError(
                f"{self._place}: expected epochs whose size tells their unit, got some near 1970: "
                f"--columns open_ms=NAME says that they are milliseconds"
            )
        sizes[present] = largest


def _sizes(numbers: Counts, good: Mask) -> Numbers:
    """Return the unit (n,) of each number by its size, as a position in ``UNITS``; or -1."""
    sizes = np.full(len(numbers), -1)
    for number in reversed(range(len(UNITS))):
        per_second = _PER_SECOND[number]
        first, end = FIRST_MS // 1000 * per_second, END_MS // 1000 * per_second
        sizes[np.greater_equal(numbers, first) & np.less(numbers, end)] = number
    return np.where(good, sizes, -1)


def _to_ms(numbers: Counts, unit: int) -> Numbers:
    if numbers.dtype.kind == "f":
        millis, whole = rounded(numbers.astype(np.float64) * (1000 / _PER_SECOND[unit]))
        return np.where(whole, millis, NONE_MS)
    if unit == 0:
        return numbers.astype(np.int64) * 1000
    divisor = _PER_SECOND[unit] // 1000
    counted = numbers.astype(np.int64)
    return np.where(counted % divisor == 0, counted // divisor, NONE_MS)


def packed_dates(numbers: Counts, good: Mask) -> Numbers | None:
    """Return the wall clocks of numbers such as 20240102 or 202401021530; None for others."""
    if numbers.dtype.kind == "f":
        whole = numbers[good]
        if not len(whole) or not np.equal(whole, np.floor(whole)).all():
            return None
    counted = np.where(good, numbers, 0).astype(np.int64)
    for tail in (1, 10_000, 1_000_000):
        days, clock = np.divmod(counted, tail)
        year, month, day = days // 10_000, days // 100 % 100, days % 100
        clock = clock if tail > 10_000 else clock * 100
        hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
        valid = good & (year >= 1900) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1)
        valid &= (day <= 31) & (hour < 24) & (minute < 60) & (second < 60)
        if good.any() and valid.sum() >= _USUAL * good.sum():
            months = (np.where(valid, year, 1970) - 1970) * 12 + np.where(valid, month, 1) - 1
            firsts = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
            lengths = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
            valid &= day <= lengths - firsts
            wall = (firsts + day - 1) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000
            return np.where(valid, wall, NONE_MS)
    return None


def read_numbers(values: Column) -> tuple[Counts, Mask]:
    """Return numbers (n,), whole ones as int64, and which cells (n,) have one."""
    if is_text(values):
        values = pc.utf8_trim_whitespace(values)
    elif not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    for kind, pattern in ((pa.int64(), r"^-?[0-9]{1,18}$"), (pa.float64(), _NUMBER)):
        chosen = values
        if is_text(values):
            some = pc.match_substring_regex(values, _NUMBER)
            if kind == pa.int64() and mask(some).sum() > matches(values, pattern).sum():
                continue
            chosen = pc.if_else(some, values, None)
        try:
            numbers = pc.cast(chosen, kind)
        except pa.ArrowInvalid:  # fractions, or more than 64 bits hold
            continue
        break
    found = filled(numbers)
    good = valid(numbers) & np.isfinite(found) & (np.abs(found) < _MOST)
    found = np.where(good, found, 0)
    if found.dtype.kind == "f" and (found == np.floor(found)).all():
        found = found.astype(np.int64)
    return found, good


def rounded(numbers: Counts) -> tuple[Numbers, Mask]:
    """Return numbers (n,) as whole ones, and which are so but for rounding."""
    if numbers.dtype.kind != "f":
        return numbers.astype(np.int64), np.ones(len(numbers), np.bool_)
    values = numbers.astype(np.float64)
    whole = np.rint(values)
    return whole.astype(np.int64), np.abs(values - whole) < 0.01
