"""Trades into bars, one symbol at a time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from producer.yahoo.bars import Bar, Session, cell_of

LATE_MS: Final = 3_000
"""How long after a bar's end its last ticks are waited for."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A quote of the live stream."""

    symbol: str
    at_ms: int  # of the trade, UTC
    price: float
    day_volume: int  # traded since the session began; 0 when not told


@dataclass(slots=True)
class _Forming:
    start_ms: int
    end_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: int


class TickBars:
    """The forming bar of one symbol.

    A bar's volume is how much the day's volume rose during it. Only a bar that was listened to
    from its start to its end is given: of any other the polls know more.
    """

    def __init__(self, step_ms: int) -> None:
        """Take the length of a bar."""
        self._step_ms = step_ms
        self._forming: _Forming | None = None
        self._day_volume = 0
        self._heard_from_ms: int | None = None

    def listen(self, now_ms: int) -> None:
        """Begin to listen, for the first time or after a break: what forms is incomplete."""
        self._heard_from_ms = now_ms
        self._forming = None
        self._day_volume = 0

    def tick(self, tick: Tick, sessions: Sequence[Session]) -> Bar | None:
        """Take a tick; return the bar that it ends, if it is the first of the next one."""
        cell = cell_of(tick.at_ms, self._step_ms, sessions)
        rise = self._rise(tick.day_volume)
        if cell is None:
            return None
        forming = self._forming
        if forming is not None and cell[0] < forming.start_ms:
            return None  # late, of a bar that was given
        ended = None
        if forming is None or cell[0] > forming.start_ms:
            ended = self._taken()
            self._forming = _Forming(*cell, *(tick.price,) * 4, volume=rise)
            return ended
        forming.high = max(forming.high, tick.price)
        forming.low = min(forming.low, tick.price)
        forming.close = tick.price
        forming.volume += rise
        return None

    def ended(self, now_ms: int) -> Bar | None:
        """Return the bar that time has ended, once."""
        if self._forming is None or now_ms < self._forming.end_ms + LATE_MS:
            return None
        return self._taken()

    def _taken(self) -> Bar | None:
        one, self._forming = self._forming, None
        if one is None or self._heard_from_ms is None or one.start_ms < self._heard_from_ms:
            return None
        return Bar(
            one.start_ms, one.end_ms, one.open, one.high, one.low, one.close, float(one.volume)
        )

    def _rise(self, day_volume: int) -> int:
        """Return by how much the day's volume rose; a reset, or the first one, is no rise."""
        before, after = self._day_volume, day_volume or self._day_volume
        self._day_volume = after
        return max(after - before, 0) if before else 0
