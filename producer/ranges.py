"""How far back Yahoo goes, and how much it gives at once. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shared.candles import DAY_MS, INTERVALS_MS

Span = tuple[int, int]
"""``[from_ms, to_ms)``, UTC epoch milliseconds."""


@dataclass(frozen=True)
class Limits:
    """What Yahoo allows for an interval, in days."""

    back: int | None  # from now; None: as far as its data goes
    at_once: int  # in one request
    first: int  # what fills a window of a symbol that has no candle yet


_MINUTES: Final = Limits(back=59, at_once=30, first=30)
_HOURS: Final = Limits(back=729, at_once=365, first=180)

LIMITS: Final[dict[str, Limits]] = {
    "1m": Limits(back=29, at_once=7, first=7),
    "2m": _MINUTES,
    "5m": _MINUTES,
    "15m": _MINUTES,
    "30m": _MINUTES,
    "90m": Limits(back=59, at_once=59, first=59),
    "60m": _HOURS,
    "1h": _HOURS,
    "1d": Limits(back=None, at_once=3650, first=725),
    "5d": Limits(back=None, at_once=3650, first=3650),
    "1wk": Limits(back=None, at_once=3650, first=3650),
}
"""A day short of Yahoo's own (30, 60 and 730 days), which it counts to the second."""


def first_ms(interval: str, now_ms: int) -> int:
    """Return where the history of a symbol without a candle begins."""
    return now_ms - LIMITS[interval].first * DAY_MS


def oldest_ms(interval: str, now_ms: int) -> int:
    """Return the earliest time that Yahoo still gives candles of."""
    back = LIMITS[interval].back
    return 0 if back is None else now_ms - back * DAY_MS


def window_days(interval: str, candles: int) -> int:
    """Return days that surely hold so many candles of a market of 4 hours on 5 days a week."""
    trading_days = -(-candles * INTERVALS_MS[interval] // (DAY_MS // 6))
    if INTERVALS_MS[interval] >= DAY_MS:
        trading_days = candles * (INTERVALS_MS[interval] // DAY_MS)
    return trading_days * 8 // 5 + 7


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
            f"Yahoo has {interval} candles of the last {limits.back} days, asked in parts of "
            f"{limits.at_once}; the range begins {(now_ms - from_ms) // DAY_MS} days ago"
        )
    return None
