"""The calendars of exchanges, by exchange-calendars; Yahoo's names for them."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date
from threading import Lock
from typing import Any, Final

from producer.closed import Session

log = logging.getLogger(__name__)

CALENDARS: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("NMS", "NGM", "NCM", "NIM", "NYQ", "NYS", "ASE", "PCX", "BTS", "CXI", "SNP", "DJI", "WCB"),
        "XNYS",
    ),
    **{"TOR": "XTSE", "VAN": "XTSE", "NEO": "XTSE", "MEX": "XMEX", "SAO": "BVMF", "BUE": "XBUE"},
    **{"SGO": "XSGO", "LSE": "XLON", "IOB": "XLON", "FGI": "XLON", "ISE": "XDUB", "PAR": "XPAR"},
    **{"AMS": "XAMS", "BRU": "XBRU", "LIS": "XLIS", "GER": "XETR", "FRA": "XFRA", "DUS": "XDUS"},
    **{"HAM": "XHAM", "MUN": "XETR", "STU": "XSTU", "BER": "XETR", "MIL": "XMIL", "MCE": "XMAD"},
    **{"EBS": "XSWX", "VIE": "XWBO", "STO": "XSTO", "CPH": "XCSE", "HEL": "XHEL", "OSL": "XOSL"},
    **{"ICE": "XICE", "WSE": "XWAR", "PRA": "XPRA", "BUD": "XBUD", "ATH": "ASEX", "IST": "XIST"},
    **{"TLV": "XTAE", "SAU": "XSAU", "JNB": "XJSE", "BSE": "XBOM", "NSI": "XBOM", "HKG": "XHKG"},
    **{"SHH": "XSHG", "SHZ": "XSHG", "JPX": "XTKS", "OSA": "XTKS", "KSC": "XKRX", "KOE": "XKRX"},
    **{"TAI": "XTAI", "TWO": "XTAI", "SES": "XSES", "KLS": "XKLS", "JKT": "XIDX", "SET": "XBKK"},
    **{"ASX": "XASX", "NZE": "XNZE"},
}
"""Name in exchange-calendars of each exchange that Yahoo names so; others have no calendar."""


class ExchangeCalendar:
    """The sessions of one exchange over some twenty years, and a year ahead."""

    def __init__(self, sessions: dict[date, Session]) -> None:
        """Take the sessions by trading date, in order."""
        self._by_day = sessions
        self._sessions = list(sessions.values())
        self._ends = [one.end_ms for one in self._sessions]

    def session(self, day: date) -> Session | None:
        return self._by_day.get(day)

    def sessions(self, from_ms: int, to_ms: int) -> Sequence[Session]:
        """Return the sessions that overlap ``[from_ms, to_ms)``, in order."""
        first = bisect_left(self._ends, from_ms + 1)
        found: list[Session] = []
        for one in self._sessions[first:]:
            if one.start_ms >= to_ms:
                break
            found.append(one)
        return found

    def knows(self, at_ms: int) -> bool:
        """Whether a moment lies within the dates that the calendar covers."""
        return bool(self._ends) and self._sessions[0].start_ms <= at_ms < self._ends[-1]


class Calendars:
    """Makes each calendar once; safe to use from several threads, and slow at first use."""

    def __init__(self) -> None:
        self._made: dict[str, ExchangeCalendar | None] = {}
        self._lock = Lock()

    def of(self, exchange: str) -> ExchangeCalendar | None:
        """Return the calendar of an exchange by Yahoo's name, None when there is none."""
        name = CALENDARS.get(exchange)
        if name is None:
            return None
        with self._lock:
            if name not in self._made:
                self._made[name] = _made(name)
            return self._made[name]


def _made(name: str) -> ExchangeCalendar | None:
    # a second to import, which crypto and FX do without
    import exchange_calendars  # noqa: PLC0415

    try:
        schedule: Any = exchange_calendars.get_calendar(name).schedule
    except exchange_calendars.errors.CalendarError as error:
        log.warning("calendar %s cannot be made: %s", name, error)
        return None
    columns = ("open", "close", "break_start", "break_end")
    rows = zip(schedule.index, *(schedule[column] for column in columns), strict=True)
    return ExchangeCalendar(
        {day.date(): Session(*(_ms(stamp) for stamp in stamps)) for day, *stamps in rows}  # type: ignore[arg-type]
    )


def _ms(stamp: Any) -> int | None:
    return None if stamp != stamp else int(stamp.timestamp()) * 1000  # noqa: PLR0124 -- NaT
