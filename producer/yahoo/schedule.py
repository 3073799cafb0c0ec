"""Poll times by exchange hours: the next poll, and the candle to expect by now. Pure."""

from __future__ import annotations

from typing import Final

from producer.yahoo.bars import GRACE_MS
from producer.yahoo.calendars import Calendar
from producer.yahoo.sessions import Session
from shared.candles import DAY_MS, INTERVALS_MS, MINUTE_MS

HEARTBEAT_MS: Final = 60 * MINUTE_MS
"""Longest time between polls, so that a wrong calendar costs an hour and not a candle."""

AFTER_MS: Final = 5 * MINUTE_MS
"""Time after a session's end in which it is still polled, for late candles and corrections."""

AFTER_DAY_MS: Final = 30 * MINUTE_MS
"""Time after a session's end in which daily candles are polled; their close is settled later."""

_AHEAD_MS: Final = 14 * DAY_MS


def default_poll_ms(interval: str) -> int:
    """Return the default time from poll to poll: the interval, at most 5 minutes."""
    return min(INTERVALS_MS[interval], 5 * MINUTE_MS)


def next_poll_ms(now_ms: int, poll_ms: int) -> int:
    """Return the time of the next poll: a multiple of ``poll_ms``, past the grace.

    So a poll a minute comes as soon as the candles of that minute count as closed.
    """
    return ((now_ms - GRACE_MS) // poll_ms + 1) * poll_ms + GRACE_MS


def next_due_ms(now_ms: int, poll_ms: int, interval: str, calendar: Calendar | None) -> int:
    """Return the time of the next poll of a symbol.

    While the exchange is closed it is polled once in ``HEARTBEAT_MS``; without a calendar it
    counts as open.
    """
    candidate = next_poll_ms(now_ms, poll_ms)
    if calendar is None:
        return candidate
    windows = [
        _window(session, interval)
        for session in calendar.sessions(now_ms - DAY_MS, now_ms + _AHEAD_MS)
    ]
    for start_ms, end_ms in windows:
        if candidate < end_ms:
            at_ms = max(candidate, next_poll_ms(start_ms, poll_ms))
            return min(at_ms, _heartbeat_ms(now_ms, poll_ms))
    return _heartbeat_ms(now_ms, poll_ms) if windows else candidate


def _heartbeat_ms(now_ms: int, poll_ms: int) -> int:
    return next_poll_ms(now_ms + max(HEARTBEAT_MS - poll_ms, 0), poll_ms)


def _window(session: Session, interval: str) -> tuple[int, int]:
    if INTERVALS_MS[interval] >= DAY_MS:
        return session.end_ms, session.end_ms + AFTER_DAY_MS
    return session.start_ms, session.end_ms + AFTER_MS


def expected_close_ms(
    interval: str, calendar: Calendar | None, now_ms: int, newest_close_ms: int
) -> int:
    """Return the close of the newest candle that could be there by now.

    Args:
        interval: of the candles; the result is exact to one of them.
        calendar: of the exchange; None for a market that never closes, or without a calendar.
        now_ms: the current time.
        newest_close_ms: the close of the newest candle that is there, the least result.
    """
    length = INTERVALS_MS[interval]
    latest_ms = now_ms - GRACE_MS
    if calendar is None:
        return max(newest_close_ms, latest_ms // length * length)
    expected_ms = newest_close_ms
    for session in calendar.sessions(newest_close_ms, latest_ms):
        if session.end_ms <= latest_ms:
            expected_ms = max(expected_ms, session.end_ms)
        elif length < DAY_MS:
            cells = (latest_ms - session.start_ms) // length
            expected_ms = max(expected_ms, session.start_ms + cells * length)
    return expected_ms
