"""Parses a response of Yahoo's chart endpoint: rows, sessions, splits and dividends. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo

from producer.source import ActionKind, CorporateAction
from producer.yahoo.errors import ErrorKind, PollError
from producer.yahoo.sessions import Session
from shared.candles import INTERVALS_MS

REQUESTED_AS: Final = {"30m": "15m"}
"""Interval to request instead: Yahoo returns hourly bars for 30m, so yfinance joins 15m ones."""

_PRICES: Final = ("open", "high", "low", "close")

_VOID: Final = "Data doesn't exist for startDate"
"""Start of Yahoo's error for a span without rows; its code is "Bad Request"."""


@dataclass(frozen=True)
class Row:
    """One row of a response; a missing value is NaN."""

    at_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True)
class Chart:
    """A parsed response: its rows, and what tells their meaning."""

    rows: tuple[Row, ...]
    market_ms: int  # time of the newest trade, UTC; 0 when missing
    today: Session  # the newest session, which may be still to come
    sessions: tuple[Session, ...]  # those that the rows lie in, of intervals below a day
    actions: tuple[CorporateAction, ...]  # in order of time
    exchange: str  # Yahoo's code, such as NMS
    zone: ZoneInfo


def is_void(document: Any) -> bool:
    """True when Yahoo knows the symbol but has no row of the span: before its first trade, say."""
    error = document["chart"].get("error")
    return bool(error) and str(error.get("description")).startswith(_VOID)


def row_count(interval: str, bars: int | None) -> int | None:
    """Return the number of rows that make so many bars of an interval."""
    if bars is None:
        return None
    return bars * (INTERVALS_MS[interval] // INTERVALS_MS[REQUESTED_AS.get(interval, interval)])


def parse(document: Any, newest: int | None = None) -> Chart:
    """Return the chart in a decoded response.

    Args:
        document: the response's JSON.
        newest: rows to read, from its end; all if None. A row costs some microseconds.

    Raises:
        PollError: when the response reports an error.
        ValueError, LookupError, TypeError: when the document has another shape.
    """
    result = document["chart"]["result"]
    error = document["chart"].get("error")
    if error:
        unknown = error.get("code") == "Not Found"
        kind = ErrorKind.UNKNOWN_SYMBOL if unknown else ErrorKind.NO_DATA
        raise PollError(kind, str(error.get("description"))[:300])
    if not result:
        raise PollError(ErrorKind.NO_DATA, "Yahoo's response holds no result")
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
    newest_rows = slice(-newest if newest else None, None)
    prices = [[_number(value) for value in column[newest_rows]] for column in columns[:4]]
    volumes = [float(value or 0) for value in columns[4][newest_rows]]
    rows = [
        Row(int(stamp) * 1000, *values)
        for stamp, *values in zip(stamps[newest_rows], *prices, volumes, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: row.at_ms))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _sessions(periods: Any) -> tuple[Session, ...]:
    if isinstance(periods, Mapping):  # with hours before and after the regular ones
        periods = periods.get("regular") or ()
    return tuple(_session(period) for day in periods for period in day)


def _session(period: Mapping[str, Any]) -> Session:
    return Session(int(period["start"]) * 1000, int(period["end"]) * 1000)


def _actions(events: Mapping[str, Any]) -> tuple[CorporateAction, ...]:
    splits = [
        CorporateAction(ActionKind.SPLIT, int(split["date"]) * 1000, _ratio(split))
        for split in (events.get("splits") or {}).values()
    ]
    dividends = [
        CorporateAction(
            ActionKind.DIVIDEND, int(event["date"]) * 1000, f"{float(event['amount']):g}"
        )
        for event in (events.get("dividends") or {}).values()
    ]
    return tuple(sorted([*splits, *dividends], key=lambda action: action.at_ms))


def _ratio(split: Mapping[str, Any]) -> str:
    return f"{float(split['numerator']):g}:{float(split['denominator']):g}"
