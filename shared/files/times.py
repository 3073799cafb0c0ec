"""Times of a table's rows to opening times: zones, clocks, and the dates of daily candles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from shared.candles import DAY_MS, INTERVALS_MS
from shared.files.arrow import (
    Column,
    codes_of,
    filled,
    is_text,
    mask,
    matches,
    pa,
    pc,
    valid,
    whole,
)  # fmt: skip
from shared.files.dates import NONE_MS, Dates, clocks
from shared.files.epochs import Counts, Epochs, packed_dates, read_numbers, rounded
from shared.files.series import HistoryError, Mask, Numbers
from shared.intervals import Steps, length_in_words
from shared.messages import END_MS, FIRST_MS, TIME_EXPECTED, short, unit_hint

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_ISO: Final = re.compile(r"\d{4}-\d\d-\d\d.*:")


class Moments(NamedTuple):
    """Times of rows, n of them; ``NONE_MS`` where there is none."""

    wall_ms: Numbers  # (n,), what a clock shows where they were written
    offset_ms: Numbers  # (n,), of that clock from UTC
    zoned: Mask  # (n,), whether the offset is known
    epoch: bool = False  # whether they are counted from 1970 UTC, which says nothing of the market


@dataclass(frozen=True)
class TimeOptions:
    """What the user says about times."""

    date_format: str | None = None
    zone: ZoneInfo | None = None  # of times without one, and of the dates of those with one


class Times:
    """Reads the times of one table part by part; what it finds out of the first holds for all."""

    def __init__(
        self, name: str, column: str, interval: str, options: TimeOptions, *, in_ms: bool = False
    ) -> None:
        """Begin without having seen a time.

        Args:
            name: of the table, for errors.
            column: as the file has it, for errors.
            interval: of the candles.
            options: what the user says.
            in_ms: whether the column's name says that it is milliseconds.
        """
        self._place = f"{name}: {column}"
        self._interval = interval
        self._is_daily = INTERVALS_MS[interval] >= DAY_MS
        self._options = options
        self._in_ms = in_ms
        self._dates = Dates(self._place, options.date_format)
        self._epochs = Epochs(self._place)
        self._of_day_ms: int | None = None
        self._digits = 0
        self.words: dict[str, None] = {}  # what the times were found to be, in order

    def read(self, values: Column, clock: Column | None = None) -> tuple[Numbers, Mask]:
        """Return the opening times (n,), UTC ms, and which cells (n,) have none.

        Args:
            values: times, or dates where a second column has the time of day.
            clock: that column.

        Raises:
            HistoryError: when a time may mean two, or all are of another interval.
        """
        if self._in_ms:
            return self._millis(values)
        moments = self._moments(values)
        if clock is not None:
            moments = moments._replace(wall_ms=_later(moments.wall_ms, self._clock(clock)))
        open_ms = self._daily(moments) if self._is_daily else self._instants(moments)
        bad = (open_ms < FIRST_MS) | (open_ms >= END_MS)
        return np.where(bad, 0, open_ms), bad

    def why(self, text: object) -> str:
        """Return why a cell is not a time of a candle."""
        if self._in_ms:
            number = _whole(text)
            return f"expected {TIME_EXPECTED}, got {short(repr(number))}" + unit_hint(number)
        what = "a date, or its midnight" if self._is_daily else "a date and time"
        return f"expected {what}, from 1900 to 2199, got {short(repr(text))}{self._hint(str(text))}"

    def _hint(self, text: str) -> str:
        """Return the option that mends a cell which is not a time; nothing where none does."""
        zone = self._options.zone
        if _ISO.match(text):
            if zone is None:
                return "; --timezone ZONE says of which market" if self._is_daily else ""
            return (
                "" if self._is_daily else f"; in {zone.key} this comes twice or never: with offset?"
            )
        is_known = _DATE.fullmatch(text) or not any(map(str.isdigit, text))
        if self._options.date_format is None and not is_known:
            return "; --date-format, such as %d/%m/%y, says how it is written"
        return ""

    def _millis(self, values: Column) -> tuple[Numbers, Mask]:
        self.words["UTC milliseconds"] = None
        numbers, good = read_numbers(values)
        open_ms, exact = rounded(numbers)
        bad = ~(good & exact) | (open_ms < FIRST_MS) | (open_ms >= END_MS)
        return np.where(bad, 0, open_ms), bad

    def _moments(self, values: Column) -> Moments:
        kind = values.type
        if pa.types.is_timestamp(kind):
            return self._typed(values)
        if pa.types.is_date(kind):
            days = pc.cast(pc.cast(values, pa.date32()), pa.int32())
            self.words["dates"] = None
            return _naive(np.where(valid(values), filled(days) * DAY_MS, NONE_MS))
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return self._counted(*read_numbers(values))
        if not is_text(values):
            return _naive(np.full(len(values), NONE_MS))
        return self._text(values)

    def _typed(self, values: Column) -> Moments:
        nanos = pc.cast(values, pa.timestamp("ns", values.type.tz), safe=False)
        good = valid(values)
        ticks = filled(pc.cast(nanos, pa.int64()))
        # a time beyond the nanoseconds' three centuries turns over, so the unit's own count decides
        own = filled(pc.cast(values, pa.int64()))
        per_second = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[values.type.unit]
        seconds = own // per_second
        good &= (seconds >= FIRST_MS // 1000) & (seconds < END_MS // 1000)
        good &= ticks % 1_000_000 == 0
        utc = np.where(good, ticks // 1_000_000, NONE_MS)
        if values.type.tz is None:
            self.words["without a zone"] = None
            return _naive(utc)
        self.words[f"with zone {values.type.tz}"] = None
        return _in_zone(utc, values.type.tz)

    def _text(self, values: Column) -> Moments:
        if (moments := self._iso(values)) is not None:
            self._say(moments)
            return moments
        encoded = pc.dictionary_encode(whole(values))
        text = pc.utf8_trim_whitespace(encoded.dictionary)
        digits = matches(text, r"^[+-]?[0-9]+(?:\.[0-9]*)?$")
        codes = codes_of(encoded)
        if digits.any() and self._options.date_format is None:
            numbers = pc.if_else(pa.array(digits), text, None)
            counted = self._counted(*read_numbers(numbers))
            rest = pc.if_else(pa.array(digits), None, text)
            other = _naive(np.full(len(text), NONE_MS))
            if not digits.all():
                other = Moments(*self._dates.read(rest))
            moments = Moments(
                np.where(digits, counted.wall_ms, other.wall_ms),
                np.where(digits, 0, other.offset_ms),
                np.where(digits, counted.zoned, other.zoned),
                counted.epoch,
            )
        else:
            moments = Moments(*self._dates.read(text))
        self._say(moments)
        return Moments(
            np.append(moments.wall_ms, NONE_MS)[codes],
            np.append(moments.offset_ms, 0)[codes],
            np.append(moments.zoned, False)[codes],
            moments.epoch,
        )

    def _say(self, moments: Moments) -> None:
        if not moments.epoch and (moments.wall_ms != NONE_MS).any():
            self.words["with a zone" if moments.zoned.any() else "without a zone"] = None

    def _iso(self, values: Column) -> Moments | None:
        """Return times of ISO 8601 without zone in the least time; None where one is not."""
        if self._options.date_format is not None:
            return None
        try:
            millis = filled(pc.cast(pc.cast(values, pa.timestamp("ms")), pa.int64()))
        except pa.ArrowInvalid:
            return None
        return _naive(np.where(valid(values), millis, NONE_MS))

    def _counted(self, numbers: Counts, good: Mask) -> Moments:
        """Return the moments of numbers: dates as 20240102, or epochs."""
        packed = packed_dates(numbers, good)
        if packed is not None:
            return _naive(packed)
        utc = self._epochs.read(numbers, good)
        for unit in self._epochs.units:
            self.words[f"epoch {unit}"] = None
        return Moments(utc, np.zeros(len(utc), np.int64), good, epoch=True)

    def _clock(self, clock: Column) -> Numbers:
        if pa.types.is_time(clock.type):
            nanos = filled(pc.cast(pc.cast(clock, pa.time64("ns")), pa.int64()))
            return np.where(valid(clock), nanos // 1_000_000, NONE_MS)
        text = pc.utf8_trim_whitespace(whole(pc.cast(clock, pa.string())))
        plain = pc.match_substring_regex(text, "^[0-9]+$")
        if not self._digits and mask(plain).any():
            longest = pc.max(pc.utf8_length(pc.if_else(plain, text, None))).as_py()
            self._digits = 6 if longest > 4 else 4
        return clocks(pc.fill_null(text, "?"), digits=self._digits)

    def _instants(self, moments: Moments) -> Numbers:
        open_ms = moments.wall_ms - moments.offset_ms
        zone = self._options.zone
        naive = ~moments.zoned
        if zone is not None and naive.any():
            times = pd.DatetimeIndex(moments.wall_ms[naive].astype("datetime64[ms]"))
            known = times.tz_localize(zone, ambiguous="NaT", nonexistent="NaT").tz_convert(None)
            localized = known.to_numpy().astype("datetime64[ms]").astype(np.int64)
            open_ms = open_ms.copy()
            open_ms[naive] = localized
        return np.where(moments.wall_ms == NONE_MS, NONE_MS, open_ms)

    def _daily(self, moments: Moments) -> Numbers:
        zone = self._options.zone
        if zone is not None and moments.zoned.any():
            utc = np.where(moments.wall_ms == NONE_MS, NONE_MS, moments.wall_ms - moments.offset_ms)
            there = _in_zone(utc, zone).wall_ms
            moments = Moments(
                np.where(moments.zoned, there, moments.wall_ms), moments.offset_ms, moments.zoned
            )
        wall = moments.wall_ms
        present = wall != NONE_MS
        of_day = np.where(present, wall % DAY_MS, 0)
        if self._of_day_ms is None and present.any():
            in_utc = bool(moments.zoned.all() and not moments.offset_ms.any())
            self._of_day_ms = self._usual_time(wall[present], in_utc=in_utc, epoch=moments.epoch)
        fits = (of_day == 0) | (of_day == self._of_day_ms)
        return np.where(present & fits, wall - of_day, NONE_MS)

    def _usual_time(self, wall: Numbers, *, in_utc: bool, epoch: bool) -> int:
        """Return the time of day that dates are written with; raises ``HistoryError``.

        An evening in UTC may be the midnight of the next day further east.
        """
        of_day = wall % DAY_MS
        usual = int(of_day[0])
        is_doubtful = usual and (epoch or (in_utc and usual >= DAY_MS // 2))
        if (of_day == usual).all() and not is_doubtful:
            return usual
        if (of_day != 0).mean() <= 0.5:
            return 0
        steps = Steps.of([np.unique(wall)])
        other = steps.interval()
        shown = f"{usual // 3_600_000:02d}:{usual // 60_000 % 60:02d}"
        if other and INTERVALS_MS[other] < DAY_MS:
            raise HistoryError(
                f"{self._place}: expected dates ({self._interval}), got times of which most are "
                f"{length_in_words(steps.usual_ms)} apart: --interval {other}"
            )
        raise HistoryError(
            f"{self._place}: expected the midnights of dates ({self._interval}), got the time "
            f"{shown}{' UTC' if in_utc else ''}: --timezone ZONE, such as America/New_York, says "
            "where it is midnight or which day it is"
        )


def _in_zone(utc_ms: Numbers, zone: str | ZoneInfo) -> Moments:
    present = utc_ms != NONE_MS
    times = pd.DatetimeIndex(np.where(present, utc_ms, 0).astype("datetime64[ms]"), tz="UTC")
    local = times.tz_convert(zone).tz_localize(None)
    wall = local.to_numpy().astype("datetime64[ms]").astype(np.int64)
    offset = np.where(present, wall - utc_ms, 0)
    return Moments(np.where(present, wall, NONE_MS), offset, np.ones(len(wall), np.bool_))


def _naive(wall_ms: Numbers) -> Moments:
    return Moments(wall_ms, np.zeros(len(wall_ms), np.int64), np.zeros(len(wall_ms), np.bool_))


def _later(wall_ms: Numbers, of_day_ms: Numbers) -> Numbers:
    return np.where((wall_ms == NONE_MS) | (of_day_ms == NONE_MS), NONE_MS, wall_ms + of_day_ms)


def _whole(value: object) -> object:
    try:
        return int(str(value))
    except ValueError:
        return value
