"""Kafka in memory: what our code uses of aiokafka's clients, on topics that are lists.

``install`` puts its clients where ``shared.kafka`` makes the real ones. The suite of
``tests.kafka_contract`` holds it to what the real broker does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.errors import (
    IllegalStateError,
    KafkaConnectionError,
    MessageSizeTooLargeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import OffsetAndTimestamp, RecordMetadata

from shared import kafka
from shared.kafka import Record
from shared.topic_ids import NO_OPERATIONS, UNKNOWN_TOPIC

OVERHEAD_BYTES = 60
"""What a message takes beside its key and value, about."""

DEFAULTS = {"cleanup.policy": "delete", "message.timestamp.type": "CreateTime"}
"""Policies of a topic that is made without."""

Headers = Sequence[tuple[str, bytes]]


@dataclass
class MemoryTopic:
    """A topic's records by partition."""

    partitions: list[list[Record]]
    config: Mapping[str, str] = field(default_factory=dict)
    identity: UUID = field(default_factory=uuid4)


@dataclass
class MemoryBroker:
    """Topics, appended to at the wall clock's time."""

    topics: dict[str, MemoryTopic] = field(default_factory=dict)
    is_up: bool = True

    def log(self, part: TopicPartition) -> list[Record]:
        """Return the records of a partition."""
        self.check()
        topic = self.topics.get(part.topic)
        if topic is None or part.partition >= len(topic.partitions):
            raise UnknownTopicOrPartitionError(str(part))
        return topic.partitions[part.partition]

    def check(self) -> None:
        """Raise ``KafkaConnectionError`` while the broker is away."""
        if not self.is_up:
            raise KafkaConnectionError("the broker is away")

    def append(
        self, part: TopicPartition, key: bytes | None, value: bytes | None, headers: Headers
    ) -> RecordMetadata:
        """Append a record; raises what the broker would answer."""
        log = self.log(part)
        size = len(key or b"") + len(value or b"") + OVERHEAD_BYTES
        if size > int(self.topics[part.topic].config.get("max.message.bytes", 1 << 20)):
            raise MessageSizeTooLargeError
        at_ms = time.time_ns() // 1_000_000
        sizes = len(key or b""), len(value or b"")
        where = part.topic, part.partition, len(log), at_ms, 1
        log.append(ConsumerRecord(*where, key, value, None, *sizes, tuple(headers)))
        return RecordMetadata(part.topic, part.partition, part, len(log) - 1, at_ms, 1, 0)


class _Client:
    def __init__(self, broker: MemoryBroker, **_: Any) -> None:
        self._broker = broker

    async def start(self) -> None:
        self._broker.check()

    async def stop(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        await asyncio.sleep(0)


class MemoryAdmin(_Client):
    """Makes and describes topics."""

    async def create_topics(self, topics: Iterable[NewTopic]) -> Any:
        self._broker.check()
        [new] = topics
        if new.name in self._broker.topics:
            return SimpleNamespace(topic_errors=[(new.name, TopicAlreadyExistsError.errno, "")])
        made = MemoryTopic([[] for _ in range(new.num_partitions)], new.topic_configs)
        self._broker.topics[new.name] = made
        return SimpleNamespace(topic_errors=[(new.name, 0, "")])

    async def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        self._broker.check()
        described = []
        for name in names:
            topic = self._broker.topics.get(name)
            numbers = range(len(topic.partitions)) if topic else ()
            described.append(
                {"topic": name, "partitions": [{"partition": n, "leader": 0} for n in numbers]}
            )
        return described

    async def describe_configs(self, asked: Sequence[Any]) -> list[Any]:
        self._broker.check()
        [resource] = asked
        config = DEFAULTS | dict(self._broker.topics[resource.name].config)
        entries: list[Any] = [
            (name, config[name], False, 1, False, []) for name in resource.configs
        ]
        return [SimpleNamespace(resources=[(0, "", 2, resource.name, entries)])]

    async def _send_request(self, request: Any) -> Any:
        """Answer the one request that ``shared.topic_ids`` makes."""
        self._broker.check()
        return SimpleNamespace(topics=[self._metadata(name) for name in request._topics])

    def _metadata(self, name: str) -> tuple[Any, ...]:
        topic = self._broker.topics.get(name)
        if topic is None:
            return UNKNOWN_TOPIC, name, UUID(int=0), False, [], NO_OPERATIONS, {}
        parts: list[Any] = [
            (0, number, 0, 0, [0], [0], [], {}) for number in range(len(topic.partitions))
        ]
        return 0, name, topic.identity, False, parts, NO_OPERATIONS, {}


class MemoryBatch:
    """Records that go to one partition together."""

    def __init__(self, limit_bytes: int) -> None:
        self.records: list[tuple[bytes | None, bytes | None, Headers]] = []
        self._limit_bytes = limit_bytes
        self._size = 0

    def append(
        self, *, timestamp: int | None, key: bytes | None, value: bytes | None, headers: Headers
    ) -> object | None:
        del timestamp
        size = len(key or b"") + len(value or b"") + OVERHEAD_BYTES
        if self.records and self._size + size > self._limit_bytes:
            return None
        self._size += size
        self.records.append((key, value, headers))
        return self


class MemoryProducer(_Client):
    """Appends at once; what the broker refuses is in the future, as with the real client."""

    def __init__(self, broker: MemoryBroker, *, max_batch_size: int = 1 << 14, **_: Any) -> None:
        super().__init__(broker)
        self._limit_bytes = max_batch_size
        self._pick = DefaultPartitioner()
        self.client = _Client(broker)
        self._sender = None

    async def partitions_for(self, topic: str) -> set[int]:
        if topic not in self._broker.topics:
            raise UnknownTopicOrPartitionError(topic)
        return set(range(len(self._broker.topics[topic].partitions)))

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers = (),
    ) -> asyncio.Future[RecordMetadata]:
        numbers = sorted(await self.partitions_for(topic))
        chosen = self._pick(key, numbers, numbers) if partition is None else partition
        return self._sent([(key, value, headers)], TopicPartition(topic, chosen))

    def create_batch(self) -> MemoryBatch:
        return MemoryBatch(self._limit_bytes)

    async def send_batch(
        self, batch: MemoryBatch, topic: str, *, partition: int
    ) -> asyncio.Future[RecordMetadata]:
        return self._sent(batch.records, TopicPartition(topic, partition))

    def _sent(
        self, records: Iterable[tuple[bytes | None, bytes | None, Headers]], part: TopicPartition
    ) -> asyncio.Future[RecordMetadata]:
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        try:
            made = [self._broker.append(part, *record) for record in records]
        except Exception as error:  # noqa: BLE001 - it is the future's, as with the real client
            future.set_exception(error)
        else:
            future.set_result(made[0])
        return future


class MemoryConsumer(_Client):
    """Reads the partitions that it is assigned."""

    def __init__(self, broker: MemoryBroker, **_: Any) -> None:
        super().__init__(broker)
        self._positions: dict[TopicPartition, int] = {}

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._positions = dict.fromkeys(partitions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset

    async def position(self, partition: TopicPartition) -> int:
        if partition not in self._positions:
            raise IllegalStateError(f"{partition} is not assigned")
        return self._positions[partition]

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        return dict.fromkeys(await self.end_offsets(partitions), 0)

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {part: len(self._broker.log(part)) for part in partitions}

    async def offsets_for_times(
        self, times: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        return {part: self._first_since(part, since_ms) for part, since_ms in times.items()}

    def _first_since(self, part: TopicPartition, since_ms: int) -> OffsetAndTimestamp | None:
        later = (record for record in self._broker.log(part) if record.timestamp >= since_ms)
        first = next(later, None)
        return None if first is None else OffsetAndTimestamp(first.offset, first.timestamp)

    async def getmany(
        self, *parts: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[Record]]:
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            await asyncio.sleep(0)
            fetched = self._fetched(parts or tuple(self._positions), max_records)
            if fetched or time.monotonic() >= deadline:
                return fetched
            await asyncio.sleep(0.002)

    def _fetched(
        self, parts: Sequence[TopicPartition], most: int | None
    ) -> dict[TopicPartition, list[Record]]:
        fetched = {}
        for part in parts:
            position = self._positions[part]
            if not self._broker.is_up:
                continue
            records = self._broker.log(part)[position:][:most]
            if records:
                fetched[part] = records
                self._positions[part] = position + len(records)
        return fetched


def install(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Make ``shared.kafka`` return clients of a new broker in memory, which it returns."""
    broker = MemoryBroker()
    for name, client in (
        ("AIOKafkaConsumer", MemoryConsumer),
        ("AIOKafkaProducer", MemoryProducer),
        ("AIOKafkaAdminClient", MemoryAdmin),
    ):
        monkeypatch.setattr(kafka, name, partial(client, broker))

    async def refuses_nobody(*_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(kafka, "explain", refuses_nobody)
    return broker
