"""Client of Yahoo's chart endpoint through yfinance: one symbol, one response, one error type."""

from __future__ import annotations

import logging
import sqlite3
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

from producer.yahoo.bars import Response, response_of
from producer.yahoo.calendars import Calendars
from producer.yahoo.chart import REQUESTED_AS, is_void, parse, row_count
from producer.yahoo.errors import ErrorKind, PollError
from producer.yahoo.ranges import Span

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
"""Time-out of one HTTP request."""

CHART_URL: Final = "https://query2.finance.yahoo.com/v8/finance/chart/"


class Yahoo:
    """Requests charts; safe to use from several threads, which share one session.

    The request goes through yfinance's ``YfData``, which knows how to talk to Yahoo: cookie,
    crumb, consent and a browser's TLS. Its ``Ticker.history`` would turn the response into a
    table at a cost of 20 ms of CPU, drops the last minute of markets that never close and the
    rows that Yahoo has yet to fill, and sends two requests for a symbol that it does not know.
    yfinance keeps its settings and caches in the process, so make one client a process.
    """

    def __init__(
        self,
        cache_dir: Path,
        proxy: str | None = None,
        ca_bundle: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Prepare a session; the first request connects.

        Args:
            cache_dir: folder where yfinance keeps its cookie.
            proxy: URL of a proxy on the way to Yahoo.
            ca_bundle: PEM file of the authorities to trust instead of the usual ones.
            timeout_s: of one request.
        """
        self._timeout_s = timeout_s
        self._calendars = Calendars()
        set_cache: Any = yfinance.set_tz_cache_location
        set_cache(str(cache_dir))
        # curl_cffi declares a bool, and takes a path as its documentation says
        verify: Any = True if ca_bundle is None else str(ca_bundle)
        session: curl.Session[Any] = curl.Session(impersonate="chrome", proxy=proxy, verify=verify)
        make: Any = YfData
        self._data: Any = make(session=session)

    def poll(self, symbol: str, interval: str, span: Span, newest: int | None = None) -> Response:
        """Return the bars that open within a span. Takes seconds.

        Args:
            symbol: as Yahoo spells it.
            interval: of the bars.
            span: of their opening times.
            newest: bars to read, from the chart's end; all if None.

        Raises:
            PollError: of whatever kind; nothing else.
        """
        try:
            document = self._document(symbol, REQUESTED_AS.get(interval, interval), span)
            if is_void(document):
                return Response(bars=())
            chart = parse(document, row_count(interval, newest))
            return response_of(chart, interval, self._calendars.of(chart.exchange))
        except PollError:
            raise
        except Exception as error:
            detail = str(error).partition(". See https://curl.se")[0]
            raise PollError(_kind(error), f"{type(error).__name__}: {detail}"[:300]) from error

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


def _kind(error: Exception) -> ErrorKind:
    return next((kind for types, kind in _KINDS if isinstance(error, types)), ErrorKind.OTHER)


_KINDS: Final = (
    (YFRateLimitError, ErrorKind.RATE_LIMITED),
    (Timeout, ErrorKind.TIMEOUT),
    (RequestException, ErrorKind.NETWORK),
    ((sqlite3.Error, peewee.PeeweeException), ErrorKind.CACHE),
    # errors of parsing a response that is not JSON, or not of the known shape
    ((ValueError, LookupError, TypeError, AttributeError), ErrorKind.MALFORMED),
)
"""Kinds by exception, in order: a time-out is a network error too."""
