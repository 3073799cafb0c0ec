"""Yahoo's limits: how far back it has candles, and how long a span one request may cover. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shared.candles import DAY_MS, INTERVALS_MS

Span = tuple[int, int]
"""Opening times ``[from_ms, to_ms)``, UTC epoch milliseconds."""


@dataclass(frozen=True)
class Limits:
    """Limits of one interval, in days."""

    back: int | None  # from now; None: as far as its data goes
    at_once: int  # in one request


_MINUTES: Final = Limits(back=59, at_once=30)
_HOURS: Final = Limits(back=729, at_once=365)
_DAYS: Final = Limits(back=None, at_once=3650)

LIMITS: Final[dict[str, Limits]] = {
    "1m": Limits(back=29, at_once=7),
    "2m": _MINUTES,
    "5m": _MINUTES,
    "15m": _MINUTES,
    "30m": _MINUTES,
    "90m": Limits(back=59, at_once=59),
    "60m": _HOURS,
    "1h": _HOURS,
    "1d": _DAYS,
    "5d": _DAYS,
    "1wk": _DAYS,
}
"""Limits by interval, a day short of Yahoo's own (30, 60 and 730 days), counted to the second."""

_MAX_REQUESTS: Final = 5


def oldest_ms(interval: str, now_ms: int) -> int:
    """Return the earliest opening time of which Yahoo still has candles."""
    back = LIMITS[interval].back
    return 0 if back is None else now_ms - back * DAY_MS


def window_days(interval: str, candles: int) -> int:
    """Return a number of days that hold so many candles, of any market.

    It assumes 4 hours on 5 days a week, four closed days at the start, and a twelfth of holidays.
    """
    length = INTERVALS_MS[interval]
    if length >= 5 * DAY_MS:
        return candles * length // DAY_MS
    trading_days = candles if length == DAY_MS else -(-candles * length // (DAY_MS // 6))
    return trading_days * 8 // 5 + 4


def first_ms(interval: str, candles: int, now_ms: int) -> int:
    """Return the start of a span that holds the newest ``candles`` of a symbol."""
    return max(now_ms - window_days(interval, candles) * DAY_MS, oldest_ms(interval, now_ms), 0)


def from_session_ms(open_ms: int, interval: str) -> int:
    """Return the start of a span that holds the row of the candle that opens at ``open_ms``.

    A day's row is stamped with its session, which may begin before the candle's midnight UTC.
    """
    length = INTERVALS_MS[interval]
    return open_ms - length if length >= DAY_MS else open_ms


def chunks_back(from_ms: int, to_ms: int, interval: str, candles: int) -> Iterator[Span]:
    """Yield spans from ``to_ms`` backwards to ``from_ms``, each within one request's limit.

    The first is likely to hold so many candles; there are at most five.
    """
    most_ms = LIMITS[interval].at_once * DAY_MS
    length_ms = min(window_days(interval, candles) * DAY_MS, most_ms)
    for _ in range(_MAX_REQUESTS):
        if from_ms >= to_ms:
            return
        start_ms = max(to_ms - length_ms, from_ms)
        yield start_ms, to_ms
        to_ms, length_ms = start_ms, most_ms


def chunks(from_ms: int, to_ms: int, interval: str) -> Iterator[Span]:
    """Yield spans that cover ``[from_ms, to_ms)`` in order, each within one request's limit."""
    most_ms = LIMITS[interval].at_once * DAY_MS
    while from_ms < to_ms:
        end_ms = min(from_ms + most_ms, to_ms)
        yield from_ms, end_ms
        from_ms = end_ms


def why_impossible(interval: str, from_ms: int, to_ms: int, now_ms: int) -> str | None:
    """Return why Yahoo cannot give a range, with its limits; None when it can."""
    if from_ms >= to_ms:
        return "the range must end after its start"
    if from_ms >= now_ms:
        return "the range must begin in the past"
    limits = LIMITS[interval]
    if limits.back is not None and from_ms < oldest_ms(interval, now_ms):
        return (
            f"Yahoo has {interval} candles of the last {limits.back} days, {limits.at_once} days "
            f"a request; the range begins {(now_ms - from_ms) // DAY_MS} days ago"
        )
    return None
