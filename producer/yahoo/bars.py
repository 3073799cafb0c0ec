"""Bars of a chart on the grid of its sessions, and which of them are closed. Pure.

A bar is a row as Yahoo gave it: it may still be forming, may lack prices, and its end is known
only from its session. All times are UTC epoch milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from producer.source import CorporateAction
from producer.yahoo.calendars import Calendar
from producer.yahoo.chart import REQUESTED_AS, Chart, Row
from producer.yahoo.sessions import (
    Session,
    cell_of,
    daily_end_ms,
    days_end_ms,
    intraday_end_ms,
)
from shared.candles import DAY_MS, INTERVALS_MS, midnight_ms

GRACE_MS: Final = 15_000
"""Time after a bar's end in which Yahoo still changes it."""

QUIET_MS: Final = 120_000
"""Time after a bar's end from which it is closed though the market time never passed it, since
nothing has traded; a bar without prices by then stays without."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row on the grid; prices and volume may be NaN."""

    open_ms: int  # of the candle it may become
    end_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float

    @property
    def is_blank(self) -> bool:
        """True when a price is missing: Yahoo fills such bars later, or never."""
        return any(math.isnan(price) for price in (self.open, self.high, self.low, self.close))


@dataclass(frozen=True)
class Response:
    """One symbol's bars over a span, with what tells whether they are closed."""

    bars: Sequence[Bar]  # on the grid, in order; the last may still be forming
    actions: Sequence[CorporateAction] = ()
    market_ms: int = 0  # time of the newest trade
    sessions: Sequence[Session] = ()  # newest first
    calendar: Calendar | None = None  # of the exchange; None when it has none
    hours: Calendar | None = None  # the calendar, or the chart's sessions; None: always open
    received_ms: int = 0  # when the bars were as they are here

    def is_closed(self, bar: Bar) -> bool:
        """True when a bar was final by the time of this response."""
        return is_closed(bar.end_ms, self.market_ms, self.received_ms)


def is_closed(end_ms: int, market_ms: int, now_ms: int) -> bool:
    """Return whether a bar that ends at ``end_ms`` will not change by trading any more.

    Args:
        end_ms: the bar's end.
        market_ms: time of the symbol's newest trade.
        now_ms: the current time.
    """
    if now_ms < end_ms + GRACE_MS:
        return False
    return market_ms >= end_ms or now_ms >= end_ms + QUIET_MS


def closed_after(response: Response, newest_ms: int | None) -> list[Bar]:
    """Return the closed bars with prices that opened after ``newest_ms``, in order.

    A blank bar holds back the ones after it until it is filled or ``QUIET_MS`` past its end;
    so a bar that Yahoo fills late is neither lost nor published out of order.
    """
    closed: list[Bar] = []
    after_ms = -1 if newest_ms is None else newest_ms
    for bar in sorted(response.bars, key=lambda bar: bar.open_ms):
        if bar.open_ms <= after_ms:
            continue
        if not response.is_closed(bar):
            break
        if bar.is_blank:
            if response.received_ms < bar.end_ms + QUIET_MS:
                break
            continue
        after_ms = bar.open_ms
        closed.append(bar)
    return closed


def response_of(chart: Chart, interval: str, calendar: Calendar | None) -> Response:
    """Return the bars of a chart, by its exchange's calendar if that covers its newest session.

    Args:
        chart: of ``30m`` with the rows of ``15m``.
        interval: of the bars.
        calendar: of the chart's exchange, None when it has none.
    """
    known = calendar if calendar is not None and calendar.covers(chart.today.start_ms) else None
    return Response(
        bars=bars_of(chart, interval, known),
        actions=chart.actions,
        market_ms=chart.market_ms,
        sessions=_sessions(chart, known),
        calendar=known,
        hours=known or (None if chart.today.is_round_the_clock else _hours(chart)),
    )


def _hours(chart: Chart) -> Calendar:
    sessions = sorted({*chart.sessions, chart.today}, key=lambda session: session.start_ms)
    return Calendar({_day(session.start_ms, chart): session for session in sessions})


def _day(at_ms: int, chart: Chart) -> date:
    return datetime.fromtimestamp(at_ms / 1000, chart.zone).date()


def bars_of(chart: Chart, interval: str, calendar: Calendar | None) -> tuple[Bar, ...]:
    """Return the rows of a chart that lie on an interval's grid, as bars in order."""
    if INTERVALS_MS[interval] >= DAY_MS:
        return _daily_bars(chart, interval, calendar)
    sessions = _sessions(chart, calendar)
    step_ms = INTERVALS_MS[interval]
    row_ms = INTERVALS_MS[REQUESTED_AS.get(interval, interval)]
    bars = [
        _bar(row, row.at_ms, end_ms)
        for row in chart.rows
        if (end_ms := intraday_end_ms(row.at_ms, row_ms, sessions)) is not None
    ]
    return tuple(bars if row_ms == step_ms else _merged(bars, step_ms, sessions))


def _sessions(chart: Chart, calendar: Calendar | None) -> tuple[Session, ...]:
    """Return the sessions of a chart, newest first, with the lunch breaks of its calendar."""
    newest_first = sorted(
        {*chart.sessions, chart.today}, key=lambda session: session.start_ms, reverse=True
    )
    if calendar is None:
        return tuple(newest_first)
    return tuple(_with_break(session, calendar, chart) for session in newest_first)


def _with_break(session: Session, calendar: Calendar, chart: Chart) -> Session:
    known = calendar.session(_day(session.start_ms, chart))
    if known is None or known.break_start_ms is None:
        return session
    return Session(session.start_ms, session.end_ms, known.break_start_ms, known.break_end_ms)


def _daily_bars(chart: Chart, interval: str, calendar: Calendar | None) -> tuple[Bar, ...]:
    days = INTERVALS_MS[interval] // DAY_MS
    bars: list[Bar] = []
    for row in chart.rows:
        # the running day is stamped with its last trade, another with its opening
        day = _day(row.at_ms, chart)
        if days == 1:
            end_ms = _day_end_ms(day, chart, calendar)
        else:
            end_ms = days_end_ms(day, days, chart.zone)
        bars.append(_bar(row, midnight_ms(day), end_ms))
    return tuple(bars)


def _day_end_ms(day: date, chart: Chart, calendar: Calendar | None) -> int:
    is_today = day == _day(chart.today.start_ms, chart)
    known = None if calendar is None or is_today else calendar.session(day)
    return known.end_ms if known is not None else daily_end_ms(day, chart.today, chart.zone)


def _bar(row: Row, open_ms: int, end_ms: int) -> Bar:
    return Bar(open_ms, end_ms, row.open, row.high, row.low, row.close, row.volume)


def _merged(bars: Sequence[Bar], step_ms: int, sessions: Sequence[Session]) -> list[Bar]:
    """Return bars joined into the cells of a coarser grid; blank ones only where all are."""
    cells: dict[tuple[int, int], list[Bar]] = {}
    for bar in bars:
        cell = cell_of(bar.open_ms, step_ms, sessions)
        if cell is not None:
            cells.setdefault(cell, []).append(bar)
    return [_joined(cell, parts) for cell, parts in cells.items()]


def _joined(cell: tuple[int, int], parts: Sequence[Bar]) -> Bar:
    filled = [bar for bar in parts if not bar.is_blank] or parts[:1]
    return Bar(
        *cell,
        filled[0].open,
        max(bar.high for bar in filled),
        min(bar.low for bar in filled),
        filled[-1].close,
        sum(bar.volume for bar in filled),
    )
