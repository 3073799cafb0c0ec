"""Trading sessions, and the grid of candles that each one cuts. Pure.

All times are UTC epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final

from shared.candles import DAY_MS

ROUND_THE_CLOCK_MS: Final = DAY_MS - 10 * 60_000
"""Shortest session of a market that never closes: Yahoo ends its day at 23:59."""


@dataclass(frozen=True, slots=True)
class Session:
    """Regular trading hours of one day, [start_ms, end_ms), perhaps with a lunch break."""

    start_ms: int
    end_ms: int
    break_start_ms: int | None = None
    break_end_ms: int | None = None

    @property
    def is_round_the_clock(self) -> bool:
        """True when the market never closes."""
        return self.end_ms - self.start_ms >= ROUND_THE_CLOCK_MS

    @property
    def trading_end_ms(self) -> int:
        """The end, or a day after the start for a market that never closes.

        A day on which the clocks change is 23 or 25 hours long; the next session's start cuts
        or extends none of its candles, since those of an hour and less begin on its grid.
        """
        if self.is_round_the_clock:
            return max(self.end_ms, self.start_ms + DAY_MS)
        return self.end_ms


def cell_of(at_ms: int, step_ms: int, sessions: Sequence[Session]) -> tuple[int, int] | None:
    """Return the grid cell ``[start, end)`` that holds a moment, None outside the sessions.

    The grid begins with the session, and again after its lunch break. The break or the
    session's end cuts the last cell short: the NYSE's last hourly bar is half an hour.
    """
    for session in sessions:
        if not session.start_ms <= at_ms < session.trading_end_ms:
            continue
        first, last = session.start_ms, session.trading_end_ms
        if session.break_start_ms is not None and session.break_end_ms is not None:
            if at_ms >= session.break_end_ms:
                first = session.break_end_ms
            elif at_ms < session.break_start_ms:
                last = session.break_start_ms
        start = first + (at_ms - first) // step_ms * step_ms
        return start, min(start + step_ms, last)
    return None


def intraday_end_ms(start_ms: int, step_ms: int, sessions: Sequence[Session]) -> int | None:
    """Return when an intraday bar ends, or None when it is off its session's grid.

    Yahoo also appends a row stamped with the last trade's second, which is off the grid.
    """
    cell = cell_of(start_ms, step_ms, sessions)
    if cell is not None and cell[0] == start_ms:
        return cell[1]
    # some exchanges' rows run on through the lunch break
    unbroken = [
        Session(session.start_ms, session.end_ms) for session in sessions if session.break_start_ms
    ]
    cell = cell_of(start_ms, step_ms, unbroken)
    return cell[1] if cell is not None and cell[0] == start_ms else None


def daily_end_ms(day: date, today: Session, zone: tzinfo) -> int:
    """Return when the bar of a trading day ends, given the newest session.

    For the newest session's own day that is its real end, half days included. For another day
    it is the same clock time in the exchange's zone: right but for a half day of a market
    without a calendar.
    """
    start = datetime.fromtimestamp(today.start_ms / 1000, zone)
    if day == start.date():
        return today.trading_end_ms
    end = datetime.fromtimestamp(today.trading_end_ms / 1000, zone)
    end_day = day + (end.date() - start.date())
    clock = time(end.hour, end.minute, end.second)
    return int(datetime.combine(end_day, clock, zone).timestamp() * 1000)


def days_end_ms(day: date, days: int, zone: tzinfo) -> int:
    """Return the local midnight that ends a bar of several days, such as a week."""
    end = datetime.combine(day + timedelta(days=days), time(0), zone)
    return int(end.timestamp() * 1000)
