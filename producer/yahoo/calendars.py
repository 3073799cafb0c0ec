"""Trading calendars of exchanges (exchange-calendars), by Yahoo's exchange codes."""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import date
from threading import Lock
from typing import Any, Final

from producer.yahoo.sessions import Session

log = logging.getLogger(__name__)

_YAHOO_CODES: Final = {
    "XNYS": "NMS NGM NCM NIM NYQ NYS ASE PCX BTS CXI SNP DJI WCB",
    "XTSE": "TOR VAN NEO",
    "XMEX": "MEX",
    "BVMF": "SAO",
    "XBUE": "BUE",
    "XSGO": "SGO",
    "XLON": "LSE IOB FGI",
    "XDUB": "ISE",
    "XPAR": "PAR",
    "XAMS": "AMS",
    "XBRU": "BRU",
    "XLIS": "LIS",
    "XETR": "GER MUN BER",
    "XFRA": "FRA",
    "XDUS": "DUS",
    "XHAM": "HAM",
    "XSTU": "STU",
    "XMIL": "MIL",
    "XMAD": "MCE",
    "XSWX": "EBS",
    "XWBO": "VIE",
    "XSTO": "STO",
    "XCSE": "CPH",
    "XHEL": "HEL",
    "XOSL": "OSL",
    "XICE": "ICE",
    "XWAR": "WSE",
    "XPRA": "PRA",
    "XBUD": "BUD",
    "ASEX": "ATH",
    "XIST": "IST",
    "XTAE": "TLV",
    "XSAU": "SAU",
    "XJSE": "JNB",
    "XBOM": "BSE NSI",
    "XHKG": "HKG",
    "XSHG": "SHH SHZ",
    "XTKS": "JPX OSA",
    "XKRX": "KSC KOE",
    "XTAI": "TAI TWO",
    "XSES": "SES",
    "XKLS": "KLS",
    "XIDX": "JKT",
    "XBKK": "SET",
    "XASX": "ASX",
    "XNZE": "NZE",
}

CALENDARS: Final = {code: name for name, codes in _YAHOO_CODES.items() for code in codes.split()}
"""Name in exchange-calendars by Yahoo's exchange code; other exchanges have no calendar."""


class Calendar:
    """Sessions of one exchange, in memory: some twenty years of them, and a year ahead."""

    def __init__(self, sessions: dict[date, Session]) -> None:
        """Take the sessions by trading date, in order."""
        self._by_day = sessions
        self._sessions = list(sessions.values())
        self._starts = [session.start_ms for session in self._sessions]
        self._ends = [session.end_ms for session in self._sessions]

    def session(self, day: date) -> Session | None:
        """Return the session of a trading date, None on a holiday or beyond what is known."""
        return self._by_day.get(day)

    def sessions(self, from_ms: int, to_ms: int) -> Sequence[Session]:
        """Return the sessions that overlap ``[from_ms, to_ms)``, in order."""
        return self._sessions[bisect_right(self._ends, from_ms) : bisect_left(self._starts, to_ms)]

    def covers(self, at_ms: int) -> bool:
        """True when a moment lies within the dates that the calendar knows."""
        return bool(self._ends) and self._starts[0] <= at_ms < self._ends[-1]


class Calendars:
    """Makes each calendar once; safe to use from several threads, and slow at first use."""

    def __init__(self) -> None:
        self._by_name: dict[str, Calendar | None] = {}
        self._lock = Lock()

    def of(self, exchange: str) -> Calendar | None:
        """Return the calendar of an exchange by Yahoo's code, None when there is none."""
        name = CALENDARS.get(exchange)
        if name is None:
            return None
        with self._lock:
            if name not in self._by_name:
                self._by_name[name] = _calendar(name)
            return self._by_name[name]


def _calendar(name: str) -> Calendar | None:
    # a second to import, which crypto and FX do without
    import exchange_calendars  # noqa: PLC0415

    try:
        schedule: Any = exchange_calendars.get_calendar(name).schedule
    except exchange_calendars.errors.CalendarError as error:
        log.warning("calendar %s cannot be made: %s", name, error)
        return None
    columns = ("open", "close", "break_start", "break_end")
    rows = zip(schedule.index, *(schedule[column] for column in columns), strict=True)
    return Calendar(
        {day.date(): Session(*(_ms(stamp) for stamp in stamps)) for day, *stamps in rows}  # type: ignore[arg-type]
    )


def _ms(stamp: Any) -> int | None:
    return None if stamp != stamp else int(stamp.timestamp()) * 1000  # noqa: PLR0124 -- NaT
