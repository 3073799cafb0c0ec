"""Kafka clients of the stream benchmark: one sends candles, one counts and times forecasts."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.stream_market import Market, Message

PARTITIONS: Final = 8
TICK_S: Final = 0.002  # of paced sending
BATCH_BYTES: Final = 200_000

Offsets = dict[TopicPartition, int]


@dataclass(frozen=True)
class Names:
    """The topics and the group of one contender."""

    candles: str
    forecasts: str
    group: str

    @classmethod
    def of(cls, contender: str) -> Names:
        """Return the names of a contender."""
        return cls(f"{contender}.candles", f"{contender}.forecasts", contender)

    @property
    def scores(self) -> str:
        """The topic of scores."""
        return f"{self.forecasts}.scores"

    @property
    def changelog(self) -> str:
        """The topic of the worker's windows."""
        return f"{self.group}-windows-changelog"


class Feed:
    """Sends a market's candles day by day; the symbol's number gives the partition."""

    def __init__(self, producer: AIOKafkaProducer, market: Market) -> None:
        self._producer = producer
        self._market = market

    async def seed(self, topic: str) -> None:
        """Write the state of every symbol into a changelog."""
        sent = [
            await self._producer.send(topic, key=key, value=state, partition=number % PARTITIONS)
            for number, (key, state) in enumerate(self._market.states())
        ]
        await asyncio.gather(*sent)

    def days(self, days: range) -> list[tuple[int, Message]]:
        """Return the messages of some days with their partitions."""
        return [
            (number % PARTITIONS, message)
            for day in days
            for number, message in enumerate(self._market.day(day))
        ]

    async def at_once(self, topic: str, days: range) -> None:
        """Send some days in batches that are made before the first is sent."""
        by_partition: dict[int, list[Message]] = defaultdict(list)
        for partition, message in self.days(days):
            by_partition[partition].append(message)
        batches = {number: self._batches(of) for number, of in by_partition.items()}
        await asyncio.gather(
            *(self._send(topic, partition, of) for partition, of in batches.items())
        )

    def _batches(self, messages: Iterable[Message]) -> list[Any]:
        batches: list[Any] = []
        size = BATCH_BYTES
        for message in messages:
            if size + len(message.value) > BATCH_BYTES:
                batches.append(self._producer.create_batch())
                size = 0
            batches[-1].append(key=message.key, value=message.value, timestamp=None)
            size += len(message.value) + 40
        return batches

    async def _send(self, topic: str, partition: int, batches: Sequence[Any]) -> None:
        for batch in batches:
            await (await self._producer.send_batch(batch, topic, partition=partition))

    async def paced(self, topic: str, days: range, rate: float) -> None:
        """Send some days evenly, ``rate`` candles a second."""
        messages = self.days(days)
        start, done = time.monotonic(), 0
        while done < len(messages):
            await asyncio.sleep(TICK_S)
            due = min(len(messages), int((time.monotonic() - start) * rate))
            for partition, message in messages[done:due]:
                await self._producer.send(topic, message.value, message.key, partition)
            done = max(due, done)
        await self._producer.flush()


class Watch:
    """Looks at topics from outside."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def ends(self, topic: str) -> Offsets:
        """Return the end offset of each partition."""
        ends: Offsets = await self._consumer.end_offsets(
            [TopicPartition(topic, number) for number in range(PARTITIONS)]
        )
        return ends

    async def count(self, topic: str) -> int:
        """Return the number of messages in a topic that has lost none."""
        return sum((await self.ends(topic)).values())

    async def size(self, start: Offsets) -> int:
        """Return the bytes of keys and values since some offsets."""
        return sum(
            [
                len(record.key or b"") + len(record.value or b"")
                async for record in self._read(start)
            ]
        )

    async def appended_ms(self, start: Offsets, time_field: str) -> dict[tuple[str, int], int]:
        """Return for each candle since some offsets when it, or its forecast, was appended.

        Args:
            start: from where to read, to the end as it is now.
            time_field: that identifies the candle beside its symbol.
        """
        appended: dict[tuple[str, int], int] = {}
        async for record in self._read(start):
            body = orjson.loads(record.value or b"{}")
            appended.setdefault((body["symbol"], body[time_field]), record.timestamp)
        return appended

    async def stamps(self, start: Offsets) -> tuple[int, int]:
        """Return when the first and the last message since some offsets were appended."""
        stamps = [record.timestamp async for record in self._read(start)]
        return min(stamps), max(stamps)

    async def bytes_a_candle(self, start: Offsets, candles: int) -> int:
        """Return the bytes of values since some offsets for each of so many candles."""
        return round(
            sum([len(record.value or b"") async for record in self._read(start)]) / candles
        )

    async def _read(self, start: Offsets) -> AsyncIterator[Any]:
        """Yield the records since some offsets, to the end as it is now."""
        ends: Offsets = await self._consumer.end_offsets(list(start))
        left = {tp for tp, offset in start.items() if offset < ends[tp]}
        self._consumer.assign(list(left))
        for tp in left:
            self._consumer.seek(tp, start[tp])
        while left:
            for records in (await self._consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    yield record
            left = {tp for tp in left if await self._consumer.position(tp) < ends[tp]}
