"""What an answer of Yahoo's chart endpoint says, as bars, sessions and actions. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

from producer.source import Action, ActionKind
from producer.yahoo.bars import (
    Bar,
    Session,
    cell_of,
    daily_end_ms,
    days_end_ms,
    intraday_end_ms,
    midnight_ms,
)
from producer.yahoo.errors import ErrorKind, PollError
from shared.candles import DAY_MS, INTERVALS_MS

ASKED_AS: Final = {"30m": "15m"}
"""Yahoo answers 30m with hourly bars, so these are made of shorter ones, as yfinance does."""

_PRICES: Final = ("open", "high", "low", "close")

_VOID: Final = "Data doesn't exist for startDate"
"""How Yahoo says that it has no row of a span, with code "Bad Request"."""


class Calendar(Protocol):
    """The sessions of an exchange, as far as they are known ahead."""

    def session(self, day: date) -> Session | None:
        """Return the session of a trading date, None on a holiday or beyond what is known."""
        ...

    def sessions(self, from_ms: int, to_ms: int) -> Sequence[Session]:
        """Return the sessions that overlap a span, in order."""
        ...


@dataclass(frozen=True)
class Row:
    """One row as it came; what is missing is NaN."""

    at_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True)
class Chart:
    """One answer: rows with everything that tells what they mean."""

    rows: tuple[Row, ...]
    market_ms: int  # time of the newest trade, UTC; 0 when not told
    today: Session  # the newest session, which may be still to come
    sessions: tuple[Session, ...]  # those that the rows lie in, of intervals below a day
    actions: tuple[Action, ...]  # in order of time
    exchange: str  # in Yahoo's letters, such as NMS
    zone: ZoneInfo

    @property
    def is_round_the_clock(self) -> bool:
        """Whether the market never closes."""
        return self.today.is_round_the_clock


@dataclass(frozen=True)
class Bars:
    """The rows that are bars of an interval's grid, in order, and how many are none."""

    bars: tuple[Bar, ...]
    off_grid: int


def is_void(document: Any) -> bool:
    """Whether Yahoo knows the symbol and has nothing of the span: before its first trade, say."""
    error = document["chart"].get("error")
    return bool(error) and str(error.get("description")).startswith(_VOID)


def rows_read(interval: str, bars: int | None) -> int | None:
    """Return of how many rows so many bars of an interval are made."""
    if bars is None:
        return None
    return bars * (INTERVALS_MS[interval] // INTERVALS_MS[ASKED_AS.get(interval, interval)])


def parse(document: Any, newest: int | None = None) -> Chart:
    """Return the chart in a decoded answer.

    Args:
        document: as Yahoo sent it.
        newest: rows to read, from its end; all if None. A row costs some microseconds.

    Raises:
        PollError: when Yahoo says that there is none.
        ValueError, LookupError, TypeError: when the document is not of the known shape.
    """
    result = document["chart"]["result"]
    error = document["chart"].get("error")
    if error:
        unknown = error.get("code") == "Not Found"
        kind = ErrorKind.UNKNOWN_SYMBOL if unknown else ErrorKind.NO_DATA
        raise PollError(kind, str(error.get("description"))[:300])
    if not result:
        raise PollError(ErrorKind.NO_DATA, "Yahoo's answer holds no result")
    return _chart(result[0], newest)


def _chart(result: Mapping[str, Any], newest: int | None) -> Chart:
    meta = result["meta"]
    return Chart(
        rows=_rows(result, newest),
        market_ms=int(meta.get("regularMarketTime") or 0) * 1000,
        today=_session(meta["currentTradingPeriod"]["regular"]),
        sessions=_sessions(meta.get("tradingPeriods") or ()),
        actions=_actions(result.get("events") or {}),
        exchange=str(meta.get("exchangeName", "")),
        zone=ZoneInfo(meta["exchangeTimezoneName"]),
    )


def _rows(result: Mapping[str, Any], newest: int | None) -> tuple[Row, ...]:
    stamps = result.get("timestamp") or ()
    if not stamps:
        return ()
    quote = result["indicators"]["quote"][0]
    columns = [quote[name] for name in (*_PRICES, "volume")]
    if any(len(column) != len(stamps) for column in columns):
        raise ValueError(f"expected {len(stamps)} values in each column of the quote")
    read = slice(-newest if newest else None, None)
    prices = [[_number(value) for value in column[read]] for column in columns[:4]]
    volumes = [float(value or 0) for value in columns[4][read]]
    made = [
        Row(int(stamp) * 1000, *values)
        for stamp, *values in zip(stamps[read], *prices, volumes, strict=True)
    ]
    return tuple(sorted(made, key=lambda row: row.at_ms))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _sessions(periods: Any) -> tuple[Session, ...]:
    if isinstance(periods, Mapping):  # with hours before and after the regular ones
        periods = periods.get("regular") or ()
    return tuple(_session(one) for day in periods for one in day)


def _session(period: Mapping[str, Any]) -> Session:
    return Session(int(period["start"]) * 1000, int(period["end"]) * 1000)


def _actions(events: Mapping[str, Any]) -> tuple[Action, ...]:
    splits = [
        Action(ActionKind.SPLIT, int(one["date"]) * 1000, _ratio(one))
        for one in (events.get("splits") or {}).values()
    ]
    dividends = [
        Action(ActionKind.DIVIDEND, int(one["date"]) * 1000, f"{float(one['amount']):g}")
        for one in (events.get("dividends") or {}).values()
    ]
    return tuple(sorted([*splits, *dividends], key=lambda one: one.at_ms))


def _ratio(split: Mapping[str, Any]) -> str:
    return f"{float(split['numerator']):g}:{float(split['denominator']):g}"


def bars_of(chart: Chart, interval: str, calendar: Calendar | None) -> Bars:
    """Return the bars of an interval's grid.

    Args:
        chart: as it came; of ``30m`` with the rows of ``15m``.
        interval: of the bars.
        calendar: of the chart's exchange, None when it has none.
    """
    if INTERVALS_MS[interval] >= DAY_MS:
        return _days(chart, interval, calendar)
    sessions = known_sessions(chart, calendar)
    step_ms = INTERVALS_MS[interval]
    asked_ms = INTERVALS_MS[ASKED_AS.get(interval, interval)]
    bars: list[Bar] = []
    for row in chart.rows:
        end_ms = intraday_end_ms(row.at_ms, asked_ms, sessions)
        if end_ms is not None:
            bars.append(_bar(row, row.at_ms, end_ms))
    off_grid = len(chart.rows) - len(bars)
    if asked_ms != step_ms:
        bars = _merged(bars, step_ms, sessions)
    return Bars(tuple(bars), off_grid)


def known_sessions(chart: Chart, calendar: Calendar | None) -> tuple[Session, ...]:
    """Return the sessions of a chart, newest first, with the lunch breaks of its calendar."""
    newest_first = sorted(
        {*chart.sessions, chart.today}, key=lambda one: one.start_ms, reverse=True
    )
    if calendar is None:
        return tuple(newest_first)
    return tuple(_with_break(one, calendar, chart.zone) for one in newest_first)


def _with_break(session: Session, calendar: Calendar, zone: ZoneInfo) -> Session:
    known = calendar.session(datetime.fromtimestamp(session.start_ms / 1000, zone).date())
    if known is None or known.break_start_ms is None:
        return session
    return Session(session.start_ms, session.end_ms, known.break_start_ms, known.break_end_ms)


def _days(chart: Chart, interval: str, calendar: Calendar | None) -> Bars:
    days = INTERVALS_MS[interval] // DAY_MS
    bars: list[Bar] = []
    for row in chart.rows:
        # the running day is stamped with its last trade, another with its opening
        day = datetime.fromtimestamp(row.at_ms / 1000, chart.zone).date()
        if days == 1:
            end_ms = _day_end_ms(day, chart, calendar)
        else:
            end_ms = days_end_ms(day, days, chart.zone)
        bars.append(_bar(row, midnight_ms(day), end_ms))
    return Bars(tuple(bars), 0)


def _day_end_ms(day: date, chart: Chart, calendar: Calendar | None) -> int:
    is_today = day == datetime.fromtimestamp(chart.today.start_ms / 1000, chart.zone).date()
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
    filled = [one for one in parts if not one.is_blank] or parts[:1]
    return Bar(
        *cell,
        filled[0].open,
        max(one.high for one in filled),
        min(one.low for one in filled),
        filled[-1].close,
        sum(one.volume for one in filled),
    )
