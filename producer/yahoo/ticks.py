"""Builds bars from ticks, one symbol at a time; in memory, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from producer.yahoo.bars import Bar
from producer.yahoo.sessions import Session, cell_of

LATE_MS: Final = 3_000
"""Time after a bar's end in which its last ticks may still arrive."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A quote of the live stream."""

    symbol: str
    at_ms: int  # of the trade, UTC
    price: float
    day_volume: int  # traded since the session began; 0 when unknown


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

    A bar's volume is how much the day's volume rose during it. Only a bar whose ticks were
    received from its start to its end is returned: of any other the polls know more.
    """

    def __init__(self, step_ms: int) -> None:
        """Take the length of a bar."""
        self._step_ms = step_ms
        self._forming: _Forming | None = None
        self._day_volume = 0
        self._complete_from_ms: int | None = None

    def start(self, now_ms: int) -> None:
        """Start over, for the first time or after a break: the forming bar is incomplete."""
        self._complete_from_ms = now_ms
        self._forming = None
        self._day_volume = 0

    def tick(self, tick: Tick, sessions: Sequence[Session]) -> Bar | None:
        """Add a tick; return the bar that it ends, if it is the first of the next one."""
        cell = cell_of(tick.at_ms, self._step_ms, sessions)
        rise = self._rise(tick.day_volume)
        if cell is None:
            return None
        forming = self._forming
        if forming is not None and cell[0] < forming.start_ms:
            return None  # late, of a bar that was returned
        if forming is None or cell[0] > forming.start_ms:
            ended = self._take()
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
        return self._take()

    def _take(self) -> Bar | None:
        bar, self._forming = self._forming, None
        if bar is None or self._complete_from_ms is None or bar.start_ms < self._complete_from_ms:
            return None
        return Bar(
            bar.start_ms, bar.end_ms, bar.open, bar.high, bar.low, bar.close, float(bar.volume)
        )

    def _rise(self, day_volume: int) -> int:
        """Return by how much the day's volume rose; 0 after a reset, and for the first tick."""
        before, after = self._day_volume, day_volume or self._day_volume
        self._day_volume = after
        return max(after - before, 0) if before else 0
