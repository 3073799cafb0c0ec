"""Series whose candles come to another partition since the candles topic has more of them.

Keys lie by Kafka's own partitioner (murmur2), so most of them move when partitions are added. A
worker that has a series' new partition need not have the old one, where its window was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from shared import kafka
from shared.kafka import DefaultPartitioner, KafkaSettings, Partition
from stream_app.rebuild import SOURCE_KEY, Source
from stream_app.state import StateError, is_span, join, series_of, stored_order, validate

_PARTITION_OF: Final = DefaultPartitioner()


@lru_cache(maxsize=1 << 17)
def place(key: bytes, partitions: int) -> int:
    """Return the partition of a series' candles among so many."""
    numbers = range(partitions)
    symbol, _, _ = key.rpartition(b"|")
    partition: int = _PARTITION_OF(symbol, numbers, numbers)
    return partition


def has_moved(key: bytes, partition: int, before: int, now: int) -> bool:
    """Tell whether growth took a series from a partition; not where others than Kafka's chose.

    Args:
        key: of the series.
        partition: where its window, or a candle of it, lies.
        before: partitions that there were; 0 when there were never fewer.
        now: partitions that there are.
    """
    return before > 0 and place(key, before) == partition != place(key, now)


@dataclass
class Elsewhere:
    """What other partitions of the changelog say of series whose candles come to ours."""

    partitions: int  # of the candles topic, now
    ours: AbstractSet[int]
    sources: dict[int, Source] = field(default_factory=dict)
    appended_ms: dict[bytes, int] = field(default_factory=dict)
    _wholes: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)  # partition, record
    _spans: dict[bytes, list[bytes]] = field(default_factory=dict)

    def take(
        self, key: bytes | None, record: bytes | None, partition: int, appended_ms: int
    ) -> None:
        """Take a record; raises ``StateError`` for one of ours that is damaged."""
        if not key:
            return
        if key == SOURCE_KEY and record is not None:
            self.sources[partition] = Source.decode(record)
            return
        series, has_number = series_of(key)
        home = place(series, self.partitions)
        if home == partition or home not in self.ours:
            return
        if record is None:
            self._spans.pop(series, None)
            if not has_number:
                self._wholes.pop(series, None)
            return
        validate(record)
        if is_span(record) is not has_number:
            raise StateError("expected spans under keys with |tail and their number, and no others")
        self.appended_ms[series] = appended_ms
        if has_number:
            self._spans.setdefault(series, []).append(record)
            return
        known = self._wholes.get(series)
        if known is None or stored_order(record) > stored_order(known[1]):
            self._wholes[series] = partition, record

    def states(self, before: int, capacity: int) -> dict[bytes, tuple[int, bytes]]:
        """Return the series that growth has brought to us: where they were, and their states."""
        return {
            key: (partition, join(whole, self._spans.get(key, []), capacity))
            for key, (partition, whole) in self._wholes.items()
            if has_moved(key, partition, before, self.partitions)
        }


async def read(settings: KafkaSettings, topic: str, ours: AbstractSet[int]) -> Elsewhere:
    """Read the partitions of a changelog that are not ours; raises ``KafkaError``."""
    found = Elsewhere(settings.partitions, ours)
    parts = [Partition(topic, n) for n in range(settings.partitions) if n not in ours]
    if not parts:
        return found
    async with kafka.connected(kafka.consumer(settings)) as reader:
        begins: Mapping[Partition, int] = await reader.beginning_offsets(parts)
        ends = await reader.end_offsets(parts)
        async for records in kafka.read_to_end(reader, begins, ends):
            for record in records:
                found.take(record.key, record.value, record.partition, record.timestamp)
    return found
