"""Yahoo's candles by the real yfinance client: one symbol, one answer, one kind of error."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yfinance
from curl_cffi import requests as curl
from curl_cffi.requests.exceptions import HTTPError, RequestException, Timeout
from yfinance.data import YfData
from yfinance.exceptions import (
    YFDataException,
    YFPricesMissingError,
    YFRateLimitError,
    YFTzMissingError,
)

from producer.closed import (
    Bar,
    Session,
    daily_end_ms,
    days_end_ms,
    intraday_end_ms,
    midnight_ms,
)
from shared.candles import DAY_MS, INTERVALS_MS

TIMEOUT_S: Final = 10.0
"""For one HTTP request."""

_COLUMNS: Final = ["Open", "High", "Low", "Close", "Volume"]


class ErrorKind(StrEnum):
    """Why a symbol could not be polled; a value of the metric's ``outcome``."""

    RATE_LIMITED = "rate_limited"
    UNKNOWN_SYMBOL = "unknown_symbol"
    NO_DATA = "no_data"
    TIMEOUT = "timeout"
    NETWORK = "network"
    MALFORMED = "malformed"
    OTHER = "other"


class PollError(Exception):
    """A poll of one symbol that gave nothing."""

    def __init__(self, kind: ErrorKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """What Yahoo says of one symbol."""

    bars: list[Bar]  # on the grid; the last may still be forming
    market_ms: int  # time of the newest trade, UTC
    off_grid: int  # rows that are no bar of the grid


class Yahoo:
    """Asks Yahoo; safe to use from several threads, which share one session.

    yfinance keeps its settings and caches in the process, so there is one of these in it.
    """

    def __init__(
        self,
        cache_dir: Path,
        proxy: str | None = None,
        ca_bundle: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._timeout_s = timeout_s
        # raise what went wrong, rather than log that the symbol is "possibly delisted"
        yfinance.config.debug.hide_exceptions = False
        set_cache: Any = yfinance.set_tz_cache_location
        set_cache(str(cache_dir))
        # curl_cffi declares a bool, and takes a path as its documentation says
        verify: Any = True if ca_bundle is None else str(ca_bundle)
        self._session: curl.Session[Any] = curl.Session(
            impersonate="chrome", proxy=proxy, verify=verify
        )

    def poll(self, symbol: str, interval: str, period: str) -> Answer:
        """Return the bars of the newest ``period`` (such as ``5d``). Takes seconds.

        Raises:
            PollError: of whatever kind; nothing else.
        """
        try:
            return self._poll(symbol, interval, period)
        except Exception as error:
            # yfinance keeps answers of its first request by symbol, bad ones too
            forget: Any = YfData.cache_get.cache_clear
            forget()
            raise _classified(error) from error

    def _poll(self, symbol: str, interval: str, period: str) -> Answer:
        make: Any = yfinance.Ticker
        ticker = make(symbol, session=self._session)
        frame: pd.DataFrame = ticker.history(
            period=period,
            interval=interval,
            auto_adjust=False,
            actions=True,
            prepost=False,
            repair=False,
            timeout=self._timeout_s,
        )
        return answer(frame, ticker.history_metadata, interval)


def answer(frame: pd.DataFrame, metadata: Any, interval: str) -> Answer:
    """Return what yfinance's table and metadata say, in our terms.

    Args:
        frame: as ``Ticker.history`` gives it, its index in the exchange's zone.
        metadata: as ``Ticker.history_metadata`` gives it; lacking keys raise ``KeyError``.
        interval: that was asked for.
    """
    step_ms = INTERVALS_MS[interval]
    intraday = step_ms < DAY_MS
    today = _session(metadata["currentTradingPeriod"]["regular"])
    sessions = [today, *(_sessions(metadata["tradingPeriods"]) if intraday else ())]
    bars: list[Bar] = []
    for stamp, values in zip(frame.index, frame[_COLUMNS].itertuples(index=False), strict=True):
        if intraday:
            open_ms = _ms(stamp)
            end_ms = intraday_end_ms(open_ms, step_ms, sessions)
        else:
            day: date = stamp.date()
            open_ms = midnight_ms(day)
            end_ms = (
                daily_end_ms(day, today, stamp.tzinfo)
                if step_ms == DAY_MS
                else days_end_ms(day, step_ms // DAY_MS, stamp.tzinfo)
            )
        if end_ms is not None:
            bars.append(Bar(open_ms, end_ms, *(float(value) for value in values)))
    market = metadata.get("regularMarketTime")
    return Answer(bars, _ms(market) if market is not None else 0, len(frame) - len(bars))


def _sessions(periods: pd.DataFrame) -> list[Session]:
    return [_session(row) for row in periods[["start", "end"]].to_dict("records")]


def _session(period: Any) -> Session:
    return Session(_ms(period["start"]), _ms(period["end"]))


def _ms(stamp: Any) -> int:
    return int(stamp.timestamp()) * 1000


def _classified(error: Exception) -> PollError:
    return PollError(_kind(error), f"{type(error).__name__}: {error}"[:300])


def _kind(error: Exception) -> ErrorKind:
    if isinstance(error, YFPricesMissingError):
        return ErrorKind.UNKNOWN_SYMBOL if error.yahoo_reason else ErrorKind.NO_DATA
    if isinstance(error, HTTPError) and getattr(error.response, "status_code", None) == 404:
        return ErrorKind.UNKNOWN_SYMBOL
    return next((kind for types, kind in _KINDS if isinstance(error, types)), ErrorKind.OTHER)


_KINDS: Final = (
    (YFRateLimitError, ErrorKind.RATE_LIMITED),
    (YFTzMissingError, ErrorKind.UNKNOWN_SYMBOL),
    (Timeout, ErrorKind.TIMEOUT),
    (RequestException, ErrorKind.NETWORK),
    # what parsing an answer raises that is not JSON, or not of the known shape
    ((YFDataException, ValueError, LookupError, TypeError, AttributeError), ErrorKind.MALFORMED),
)
"""In order: a time-out is a network error too, and a broken connection an ``OSError``."""
