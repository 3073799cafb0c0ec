"""The newest messages with their events, kept within bounds and found by position."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

import msgspec

from api.stream.cursors import Origin, Positions, is_after
from api.stream.market import StreamEvent

EVENT_BYTES: Final = 250
"""What an event takes in memory beside its JSON, about."""


class KeptMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a topic, remembered for clients that reconnect."""

    origin: Origin
    events: Sequence[StreamEvent]

    def after(self, seen: Positions) -> Sequence[StreamEvent]:
        """Return the events beyond a position."""
        part, offset = self.origin
        if offset >= seen[part]:
            return self.events
        if len(self.events) == 1 and len(self.events[0].origins) == 1:
            return ()  # the most common case, quickly
        return [event for event in self.events if is_after(event.origins, seen)]

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        return sum(len(event.data) + EVENT_BYTES for event in self.events)


class Backlog:
    """Messages in the order of their arrival, numbered from 0; in memory, no I/O.

    For each part it knows at which numbers the highest offset rose. All before the first number
    at which that reaches a position is behind the position and need not be looked at.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.size = 0  # bytes, about
        self.first = 0  # number of the oldest message kept
        self._most = most
        self._most_bytes = most_bytes
        self._kept: deque[KeptMessage] = deque()
        self._rises: list[deque[tuple[int, int]]] = []  # offset and number, both rising

    @property
    def end(self) -> int:
        """The number of the next message."""
        return self.first + len(self._kept)

    def clear(self, parts: int) -> None:
        """Forget all; numbers go on, so that a reader of before notices."""
        self.first = self.end + 1
        self.size = 0
        self._kept.clear()
        self._rises = [deque() for _ in range(parts)]

    def add(self, message: KeptMessage) -> list[Origin]:
        """Keep a message; return the origins of those that had to go."""
        number = self.end
        self._kept.append(message)
        self.size += message.size
        for origins in ((message.origin,), *(event.origins for event in message.events)):
            for part, offset in origins:
                rises = self._rises[part]
                if not rises or offset > rises[-1][0]:
                    rises.append((offset, number))
        forgotten = []
        while len(self._kept) > self._most or self.size > self._most_bytes:
            oldest = self._kept.popleft()
            self.first += 1
            self.size -= oldest.size
            forgotten.append(oldest.origin)
        if forgotten:
            self._forget_rises()
        return forgotten

    def first_after(self, seen: Positions) -> int:
        """Return the number before which no message holds anything beyond a position."""
        number = self.end
        for rises, position in zip(self._rises, seen, strict=True):
            at = bisect_left(rises, (position,))
            if at < len(rises):
                number = min(number, rises[at][1])
        return max(number, self.first)

    def read(self, number: int, most: int) -> list[KeptMessage] | None:
        """Return at most so many messages from a number on; None when it is forgotten."""
        if number < self.first:
            return None
        return list(islice(self._kept, number - self.first, number - self.first + most))

    def _forget_rises(self) -> None:
        for rises in self._rises:
            while len(rises) > 1 and rises[1][1] <= self.first:
                rises.popleft()  # the next one stands for the highest offset at the first number
