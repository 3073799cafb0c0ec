"""Text to dates and times of day: every form that can mean one moment alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from shared.files.arrow import Array, codes_of, mask, pa, pc
from shared.files.series import HistoryError, Mask, Numbers

NONE_MS: Final = int(np.iinfo(np.int64).min)
"""Stands for a time that could not be read."""

_ZONE: Final = r"(?:UTC|GMT)?\s?[+-][0-9]{2}(?::?[0-9]{2})?|[Zz]|UTC|GMT"
_CLOCK: Final = (
    r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?(?:\s?[AaPp][Mm])?"
    r"|[0-9]{1,2}[- ][AaPp][Mm]"
)
_TEXT: Final = rf"^(?P<date>.*?)(?:(?:[T,]|\s)+(?P<clock>{_CLOCK})(?:\s?(?P<zone>{_ZONE}))?)?$"
_PACKED: Final = r"^(?P<date>[0-9]{8})[T ](?P<clock>[0-9]{6}|[0-9]{4})(?P<zone>Z)?$"
_OF_DAY: Final = (
    r"^(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})"
    r"(?:[.,](?P<fraction>[0-9]{1,9}))?)?)?[- ]?(?:(?P<half>[AaPp])[Mm])?$"
)
_OFFSET: Final = r"(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?$"
_NUMERIC: Final = r"^(?P<a>[0-9]{1,2})[-/. ](?P<b>[0-9]{1,2})[-/. ](?P<year>[0-9]{4})$"
_FORMATS: Final = (
    (r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}$", "%Y-%m-%d"),
    (r"^[0-9]{4}-[0-9]{2}$", "%Y-%m"),
    (r"^[0-9]{8}$", "%Y%m%d"),
    (r"^[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}$", "%Y/%m/%d"),
    (r"^[0-9]{4}\.[0-9]{1,2}\.[0-9]{1,2}$", "%Y.%m.%d"),
    (r"^[0-9]{1,2}-[A-Za-z]{3}-[0-9]{4}$", "%d-%b-%Y"),
    (r"^[0-9]{1,2} [A-Za-z]{3} [0-9]{4}$", "%d %b %Y"),
    (r"^[0-9]{1,2} [A-Za-z]{4,} [0-9]{4}$", "%d %B %Y"),
    (r"^[A-Za-z]{3} [0-9]{1,2}, ?[0-9]{4}$", "%b %d, %Y"),
    (r"^[A-Za-z]{4,} [0-9]{1,2}, ?[0-9]{4}$", "%B %d, %Y"),
    (r"^[A-Za-z]{3} [0-9]{1,2} [0-9]{4}$", "%b %d %Y"),
    (r"^[0-9]{4}-[A-Za-z]{3}-[0-9]{1,2}$", "%Y-%b-%d"),
)
"""Dates that can mean one day alone, and how they are read."""


class Dates:
    """Reads the texts of one time column; finds out once whether the day or the month is first."""

    def __init__(self, place: str, date_format: str | None = None) -> None:
        """Begin without knowing the order.

        Args:
            place: file and column, for errors.
            date_format: of dates or of dates and times, as ``strptime`` has it; None to find out.
        """
        self._place = place
        self._format = date_format
        self._day_first: bool | None = None

    def read(self, text: Array) -> tuple[Numbers, Numbers, Mask]:
        """Return the wall clocks (n,), offsets from UTC (n,) and which cells have one, in ms.

        Raises:
            HistoryError: when a date may mean two days, or dates have two orders.
        """
        if self._format is not None:
            return self._by_format(text)
        packed = pc.extract_regex(text, _PACKED)
        parts = pc.extract_regex(text, _TEXT)
        fields = [
            pc.coalesce(pc.struct_field(packed, name), pc.struct_field(parts, name))
            for name in ("date", "clock", "zone")
        ]
        wall = self._days(pc.utf8_trim_whitespace(fields[0]))
        of_day = clocks(fields[1])
        wall = np.where((wall == NONE_MS) | (of_day == NONE_MS), NONE_MS, wall + of_day)
        offset, zoned = _offsets(fields[2])
        return wall, offset, zoned

    def _by_format(self, text: Array) -> tuple[Numbers, Numbers, Mask]:
        wall = np.full(len(text), NONE_MS)
        series = pd.Series(text.to_pylist(), dtype=object)
        form = str(self._format)
        tails = ("",) if "%H" in form or "%I" in form else ("", " %H:%M:%S", " %H:%M")
        for tail in tails:
            missing = wall == NONE_MS
            if missing.any():
                wall[missing] = _parsed(series[missing], form + tail)
        return wall, np.zeros(len(text), np.int64), np.full(len(text), "%z" in form)

    def _days(self, text: Array) -> Numbers:
        """Return the midnights of dates (n,)."""
        encoded = text.dictionary_encode()
        dates = encoded.dictionary
        days = np.full(len(dates) + 1, NONE_MS)  # the last for no text at all
        for pattern, form in _FORMATS:
            fits = mask(pc.match_substring_regex(dates, pattern))
            if fits.any():
                days[:-1][fits] = _midnights(dates.filter(pa.array(fits)), form)
        numeric = pc.extract_regex(dates, _NUMERIC)
        if numeric.null_count < len(dates):
            self._add_numeric(numeric, days)
        of_rows: Numbers = days[codes_of(encoded)]
        return of_rows

    def _add_numeric(self, numeric: Array, days: Numbers) -> None:
        fits = mask(pc.is_valid(numeric))
        a, b, year = (
            pc.cast(pc.struct_field(numeric, name), pa.int64()).filter(pa.array(fits)).to_numpy()
            for name in ("a", "b", "year")
        )
        if self._day_first is None:
            self._day_first = self._order(a, b, year)
        day, month = (a, b) if self._day_first else (b, a)
        text = [f"{y:04d}-{m:02d}-{d:02d}" for y, m, d in zip(year, month, day, strict=True)]
        days[:-1][fits] = _midnights(pa.array(text, pa.string()), "%Y-%m-%d")

    def _order(self, a: Numbers, b: Numbers, year: Numbers) -> bool:
        proofs = {True: a > 12, False: b > 12}
        examples = {
            day_first: f"{a[at]:02d}/{b[at]:02d}/{year[at]}"
            for day_first, found in proofs.items()
            for at in np.flatnonzero(found)[:1]
        }
        if len(examples) == 1:
            return next(iter(examples))
        options = "--date-format %d/%m/%Y or --date-format %m/%d/%Y, with the file's own marks,"
        if examples:
            raise HistoryError(
                f"{self._place}: expected one order of day and month, got "
                f"{' and '.join(examples.values())}: {options} says which it is"
            )
        example = f"{a[0]:02d}/{b[0]:02d}/{year[0]}"
        raise HistoryError(
            f"{self._place}: expected a date that can mean one day, got {example} and no date with "
            f"a day above 12: {options} says which it is"
        )


def clocks(text: Array, *, digits: int = 0) -> Numbers:
    """Return times of day (n,) in ms; no text is midnight.

    Args:
        text: such as ``9:30``, ``16:00:00.5``, ``09:30 PM``, ``093000``.
        digits: of a time without colons, 4 or 6, where zeros before it may be missing.
    """
    encoded = text.dictionary_encode()
    values = encoded.dictionary
    if digits:
        values = pc.utf8_lpad(values, digits, "0")
    values = pc.replace_substring_regex(values, r"^([0-9]{2})([0-9]{2})([0-9]{2})?$", r"\1:\2:\3")
    values = pc.replace_substring_regex(values, ":$", "")
    parts = pc.extract_regex(values, _OF_DAY)
    hour, minute, second = (_number(parts, name) for name in ("hour", "minute", "second"))
    fraction = pc.struct_field(parts, "fraction")
    millis = pc.utf8_rpad(pc.fill_null(fraction, ""), 9, "0")
    nanos = pc.cast(pc.if_else(_empty(millis), "0", millis), pa.int64()).to_numpy()
    half = pc.fill_null(pc.utf8_lower(pc.struct_field(parts, "half")), "")
    is_half = mask(pc.not_equal(half, ""))
    afternoon = mask(pc.equal(half, "p"))
    good = mask(pc.is_valid(parts)) & (minute < 60) & (second < 60) & (nanos % 1_000_000 == 0)
    good &= np.where(is_half, (hour >= 1) & (hour <= 12), hour < 24)
    hour = np.where(is_half, hour % 12 + 12 * afternoon, hour)
    of_day = ((hour * 60 + minute) * 60 + second) * 1000 + nanos // 1_000_000
    of_day = np.where(mask(_empty(values)), 0, np.where(good, of_day, NONE_MS))
    of_day = np.append(of_day, 0)
    return np.asarray(of_day[codes_of(encoded)], np.int64)


def _offsets(zone: Array) -> tuple[Numbers, Mask]:
    encoded = zone.dictionary_encode()
    parts = pc.extract_regex(encoded.dictionary, _OFFSET)
    hours, minutes = _number(parts, "hours"), _number(parts, "minutes")
    east = np.where(mask(pc.equal(pc.fill_null(pc.struct_field(parts, "sign"), "+"), "-")), -1, 1)
    offsets = np.append(east * (hours * 60 + minutes) * 60_000, 0)
    present = mask(pc.not_equal(pc.fill_null(zone, ""), ""))
    return np.asarray(offsets[codes_of(encoded)], np.int64), present


def _number(parts: Array, name: str) -> Numbers:
    text = pc.fill_null(pc.struct_field(parts, name), "0")
    return np.asarray(pc.cast(pc.if_else(_empty(text), "0", text), pa.int64()).to_numpy())


def _empty(text: Array) -> Array:
    return pc.equal(text, "")


def _midnights(text: Array, form: str) -> Numbers:
    return _parsed(pd.Series(text.to_pylist(), dtype=object), form)


def _parsed(series: pd.Series[str], form: str) -> Numbers:
    """Return wall clocks, those of times with a zone in UTC, in ms, by a format."""
    utc = "%z" in form
    times = pd.to_datetime(series, format=form, errors="coerce", utc=utc)
    if utc:
        times = times.dt.tz_localize(None)
    nanos = times.to_numpy().astype("datetime64[ns]").astype(np.int64)
    whole = (nanos != NONE_MS) & (nanos % 1_000_000 == 0)
    return np.where(whole, nanos // 1_000_000, NONE_MS)
