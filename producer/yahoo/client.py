"""Yahoo's candles through yfinance: one symbol, one answer, one kind of error."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
import peewee
import yfinance
from curl_cffi import requests as curl
from curl_cffi.requests.exceptions import RequestException, Timeout
from yfinance.data import YfData
from yfinance.exceptions import YFRateLimitError

from producer.source import Action
from producer.yahoo.bars import Bar, Session
from producer.yahoo.calendars import Calendars, ExchangeCalendar
from producer.yahoo.chart import (
    ASKED_AS,
    Bars,
    Calendar,
    Chart,
    bars_of,
    is_void,
    known_sessions,
    parse,
    rows_read,
)
from producer.yahoo.errors import ErrorKind, PollError
from producer.yahoo.ranges import Span

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
"""For one HTTP request."""

CHART_URL: Final = "https://query2.finance.yahoo.com/v8/finance/chart/"


@dataclass(frozen=True)
class Answer:
    """What Yahoo says of one symbol over a span."""

    bars: Sequence[Bar]  # on the grid, in order; the last may still be forming
    actions: Sequence[Action] = ()
    market_ms: int = 0  # time of the newest trade, UTC
    off_grid: int = 0  # rows that are no bar of the grid
    sessions: Sequence[Session] = ()  # newest first
    calendar: Calendar | None = None  # of the exchange; None when it has none
    hours: Calendar | None = None  # the calendar, or what the answer tells; None: always open


class Yahoo:
    """Asks Yahoo; safe to use from several threads, which share one session.

    The request goes through yfinance's ``YfData``, which knows how Yahoo wants to be asked:
    cookie, crumb, consent and a browser's TLS. Its ``Ticker.history`` would turn the answer into
    a table at a cost of 20 ms of CPU, drops the last minute of markets that never close and the
    rows that Yahoo has yet to fill, and asks twice for a symbol that it does not know.
    yfinance keeps its settings and caches in the process, so there is one of these in it.
    """

    def __init__(
        self,
        cache_dir: Path,
        proxy: str | None = None,
        ca_bundle: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Take where yfinance may keep its cookie, and the way to Yahoo."""
        self._timeout_s = timeout_s
        self._calendars = Calendars()
        set_cache: Any = yfinance.set_tz_cache_location
        set_cache(str(cache_dir))
        # curl_cffi declares a bool, and takes a path as its documentation says
        verify: Any = True if ca_bundle is None else str(ca_bundle)
        session: curl.Session[Any] = curl.Session(impersonate="chrome", proxy=proxy, verify=verify)
        make: Any = YfData
        self._data: Any = make(session=session)

    def poll(self, symbol: str, interval: str, span: Span, newest: int | None = None) -> Answer:
        """Return the bars that open within a span. Takes seconds.

        Args:
            symbol: as Yahoo spells it.
            interval: of the bars.
            span: of their opening times.
            newest: rows to read, from the answer's end; all if None.

        Raises:
            PollError: of whatever kind; nothing else.
        """
        try:
            document = self._document(symbol, ASKED_AS.get(interval, interval), span)
            if is_void(document):
                return Answer(bars=())
            chart = parse(document, rows_read(interval, newest))
            return answer_of(chart, interval, self._calendars.of(chart.exchange))
        except PollError:
            raise
        except Exception as error:
            told = str(error).partition(". See https://curl.se")[0]
            raise PollError(_kind(error), f"{type(error).__name__}: {told}"[:300]) from error

    def _document(self, symbol: str, interval: str, span: Span) -> Any:
        response = self._data.get(
            CHART_URL + quote(symbol),
            params={
                "period1": span[0] // 1000,
                "period2": -(-span[1] // 1000),
                "interval": interval,
                "includePrePost": False,
                "events": "div,splits",
            },
            timeout=self._timeout_s,
        )
        status = int(response.status_code)
        if status >= 500:
            raise PollError(ErrorKind.SERVER_ERROR, f"HTTP {status}")
        if status in {401, 403}:
            raise PollError(ErrorKind.REFUSED, f"HTTP {status}: {response.text[:100]!r}")
        return orjson.loads(response.content)


def answer_of(chart: Chart, interval: str, calendar: ExchangeCalendar | None) -> Answer:
    """Return what a chart says of an interval, by the calendar of its exchange if there is one."""
    known = calendar if calendar is not None and calendar.knows(chart.today.start_ms) else None
    found: Bars = bars_of(chart, interval, known)
    return Answer(
        bars=found.bars,
        actions=chart.actions,
        market_ms=chart.market_ms,
        off_grid=found.off_grid,
        sessions=known_sessions(chart, known),
        calendar=known,
        hours=known or (None if chart.is_round_the_clock else _told_hours(chart)),
    )


def _told_hours(chart: Chart) -> Calendar:
    told = sorted({*chart.sessions, chart.today}, key=lambda one: one.start_ms)
    return ExchangeCalendar(
        {datetime.fromtimestamp(one.start_ms / 1000, chart.zone).date(): one for one in told}
    )


def _kind(error: Exception) -> ErrorKind:
    return next((kind for types, kind in _KINDS if isinstance(error, types)), ErrorKind.OTHER)


_KINDS: Final = (
    (YFRateLimitError, ErrorKind.RATE_LIMITED),
    (Timeout, ErrorKind.TIMEOUT),
    (RequestException, ErrorKind.NETWORK),
    ((sqlite3.Error, peewee.PeeweeException), ErrorKind.CACHE),
    # what parsing an answer raises that is not JSON, or not of the known shape
    ((ValueError, LookupError, TypeError, AttributeError), ErrorKind.MALFORMED),
)
"""In order: a time-out is a network error too, and a broken connection an ``OSError``."""
