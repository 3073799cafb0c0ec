"""Closed, new, in order: which of a source's bars are candles to publish. Pure.

A bar is a row as a source gave it: it may still be forming, may hold no prices, and its end is
known only from its session. All times are UTC epoch milliseconds; the current time is an
argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final

from shared.candles import DAY_MS

GRACE_MS: Final = 15_000
"""Yahoo still changes a candle for some seconds after its end."""

QUIET_MS: Final = 120_000
"""A candle this far past its end is closed though the market time never passed it, for then
nothing has traded since; and a bar still without prices has none to come."""

ROUND_THE_CLOCK_MS: Final = DAY_MS - 10 * 60_000
"""Yahoo ends the day of a market that never closes at 23:59."""

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Session:
    """Regular trading hours of one day, [start_ms, end_ms), perhaps with a lunch break."""

    start_ms: int
    end_ms: int
    break_start_ms: int | None = None
    break_end_ms: int | None = None

    @property
    def is_round_the_clock(self) -> bool:
        """Whether the market never closes."""
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


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a source; prices and volume may be NaN."""

    open_ms: int  # of the candle it may become
    end_ms: int  # when it ends
    open: float
    high: float
    low: float
    close: float
    volume: float

    @property
    def is_blank(self) -> bool:
        """Whether a price is missing: Yahoo fills such bars later, or never."""
        return any(math.isnan(price) for price in (self.open, self.high, self.low, self.close))


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

    Yahoo also appends a row stamped with the last trade's second, which is no bar of the grid.
    """
    cell = cell_of(start_ms, step_ms, sessions)
    if cell is not None and cell[0] == start_ms:
        return cell[1]
    # a source whose grid runs on through the lunch break
    whole = [Session(one.start_ms, one.end_ms) for one in sessions if one.break_start_ms]
    cell = cell_of(start_ms, step_ms, whole)
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


def midnight_ms(day: date) -> int:
    """Return a date's midnight UTC, the opening time of its daily candle."""
    return (day.toordinal() - _EPOCH_DAY) * DAY_MS


def is_closed(end_ms: int, market_ms: int, now_ms: int) -> bool:
    """Return whether a bar that ends at ``end_ms`` will not change by trading any more.

    Args:
        end_ms: the bar's end.
        market_ms: time of the source's newest trade of the symbol.
        now_ms: the current time.
    """
    if now_ms < end_ms + GRACE_MS:
        return False
    return market_ms >= end_ms or now_ms >= end_ms + QUIET_MS


def closed_new(bars: Sequence[Bar], after_ms: int | None, market_ms: int, now_ms: int) -> list[Bar]:
    """Return the bars to publish: closed, opened after ``after_ms``, with prices, in order.

    A blank bar holds back the ones after it until it is filled or ``QUIET_MS`` past its end;
    so a bar that Yahoo fills late is neither lost nor published out of order.
    """
    ready: list[Bar] = []
    newest = -1 if after_ms is None else after_ms
    for bar in sorted(bars, key=lambda bar: bar.open_ms):
        if bar.open_ms <= newest:
            continue
        if not is_closed(bar.end_ms, market_ms, now_ms):
            break
        if bar.is_blank:
            if now_ms < bar.end_ms + QUIET_MS:
                break
            continue
        newest = bar.open_ms
        ready.append(bar)
    return ready
