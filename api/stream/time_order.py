"""Merges partitions by the time of their records, as far as they have been read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from shared.kafka import Partition, Record, partition_of

ENOUGH: Final = 200
"""Waiting records of a partition from which it is read no further until others catch up."""


class TimeOrder:
    """Holds back records until no partition can still bring an older one; in memory, no I/O.

    A consumer reads partition by partition. What is kept of the newest messages would so be all
    of one and nothing of others, and no client could resume.
    """

    def __init__(self, positions: Mapping[Partition, int], ends: Mapping[Partition, int]) -> None:
        """Merge partitions from ``positions`` up to ``ends``, which it leaves out."""
        self._ends = {part: end for part, end in ends.items() if positions[part] < end}
        self._waiting: dict[Partition, deque[Record]] = {part: deque() for part in self._ends}

    @property
    def is_over(self) -> bool:
        """True once every partition was read up to its end and nothing waits."""
        return not self._ends and not any(self._waiting.values())

    @property
    def wanted(self) -> list[Partition]:
        """The partitions that are not read far enough for now; none once it is over: all."""
        if self.is_over:
            return []
        return [part for part, records in self._waiting.items() if len(records) < ENOUGH]

    def add(self, records: Sequence[Record]) -> Iterator[Record]:
        """Take what was read, and yield what is next by time, each partition in its own order."""
        for record in records:
            part = partition_of(record)
            self._waiting.setdefault(part, deque()).append(record)
            if part in self._ends and record.offset + 1 >= self._ends[part]:
                del self._ends[part]
        yield from self._ready()

    def reached(self, part: Partition, position: int) -> Iterator[Record]:
        """Note how far a partition was read: transactions leave offsets without a record."""
        if part in self._ends and position >= self._ends[part]:
            del self._ends[part]
            yield from self._ready()

    def _ready(self) -> Iterator[Record]:
        while all(self._waiting[part] for part in self._ends):
            waiting = [records for records in self._waiting.values() if records]
            if not waiting:
                return
            yield min(waiting, key=lambda records: records[0].timestamp).popleft()
