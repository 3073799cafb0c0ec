"""Times and trading sessions of New York around Thanksgiving 2026."""

from __future__ import annotations

from datetime import date, datetime, time
from zoneinfo import ZoneInfo

from local.yahoo.market import Listing, new_york

NEW_YORK = ZoneInfo("America/New_York")
HALF_DAY = date(2026, 11, 27)  # after Thanksgiving
HOLIDAY = date(2026, 11, 26)


def at(day: date, hour: int, minute: int = 0, second: int = 0) -> int:
    """Return a time of New York in UTC epoch milliseconds."""
    moment = datetime.combine(day, time(hour, minute, second), NEW_YORK)
    return int(moment.timestamp()) * 1000


def day_of(at_ms: int) -> date:
    """Return the date in New York."""
    return datetime.fromtimestamp(at_ms / 1000, NEW_YORK).date()


def hour_of(at_ms: int) -> int:
    """Return the hour in New York."""
    return datetime.fromtimestamp(at_ms / 1000, NEW_YORK).hour


def nyse(symbol: str, last: date, *, price: float = 100.0, days: int = 20) -> Listing:
    """Return a share of the NYSE, whose calendar has a holiday and a half day."""
    listing = new_york(symbol, last, price=price, days=days, half=frozenset({HALF_DAY}))
    listing.sessions = [(start, end) for start, end in listing.sessions if day_of(start) != HOLIDAY]
    return listing
