"""The newest events, kept within bounds and found by position."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice
from typing import Final

from api.stream.cursors import Origin, Positions
from api.stream.market import StreamEvent

EVENT_BYTES: Final = 250
"""What an event takes in memory beside its JSON, about."""


class Backlog:
    """Events in the order of their arrival, numbered from 0; in memory, no I/O.

    Each is of one message; those of a part come in the order of its offsets.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.size = 0  # bytes, about
        self.first = 0  # number of the oldest event kept
        self._most = most
        self._most_bytes = most_bytes
        self._kept: deque[StreamEvent] = deque()
        self._places: list[deque[tuple[int, int]]] = []  # offset and number, by part

    @property
    def end(self) -> int:
        """The number of the next event."""
        return self.first + len(self._kept)

    def clear(self, parts: int) -> None:
        """Forget all; numbers go on, so that a reader of before notices."""
        self.first = self.end + 1
        self.size = 0
        self._kept.clear()
        self._places = [deque() for _ in range(parts)]

    def add(self, event: StreamEvent) -> list[Origin]:
        """Keep an event; return the origins of those that had to go."""
        part, offset = event.origin
        self._places[part].append((offset, self.end))
        self._kept.append(event)
        self.size += _size(event)
        forgotten = []
        while len(self._kept) > self._most or self.size > self._most_bytes:
            oldest = self._kept.popleft()
            self._places[oldest.origin[0]].popleft()
            self.first += 1
            self.size -= _size(oldest)
            forgotten.append(oldest.origin)
        return forgotten

    def first_after(self, seen: Positions) -> int:
        """Return the number of the first event beyond a position."""
        number = self.end
        for places, position in zip(self._places, seen, strict=True):
            at = bisect_left(places, (position,))
            if at < len(places):
                number = min(number, places[at][1])
        return number

    def read(self, number: int, most: int) -> list[StreamEvent] | None:
        """Return at most so many events from a number on; None when it is forgotten."""
        if number < self.first:
            return None
        return list(islice(self._kept, number - self.first, number - self.first + most))


def _size(event: StreamEvent) -> int:
    return len(event.data) + EVENT_BYTES
