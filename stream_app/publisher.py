"""What the worker sends, and the order in which the broker must acknowledge it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from faust.types import Message

from shared.candles import InvalidCandle
from shared.headers import cloud_event
from stream_app.pipeline import BatchResult
from stream_app.settings import WorkerSettings

SOURCE: Final = "candlecast/stream_app"
FORECAST_TYPE: Final = "market.forecast.v1"
ABOUT_PREFIX: Final = "candlecast-"
"""Of the headers that a dead letter has beyond its original ones."""

MAX_BATCH_BYTES: Final = 1 << 19
"""Of the records of one partition that go together; a broker refuses more than 1 MB by default."""

Record = tuple[bytes | None, bytes, list[tuple[str, bytes]]]  # key, value, headers
NO_HEADERS: Final[list[tuple[str, bytes]]] = []


class Publisher:
    """Sends forecasts, dead letters and window records; made within a running event loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap,
            enable_idempotence=True,
            acks="all",
            max_batch_size=MAX_BATCH_BYTES,
        )

    async def start(self) -> None:
        """Connect to the broker."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        await self._producer.stop()

    async def outputs(self, messages: Sequence[Message], result: BatchResult) -> None:
        """Send a batch's forecasts and dead letters; return when the broker has them."""
        records: dict[int, list[Record]] = defaultdict(list)
        for i, one in result.forecasts:
            headers = cloud_event(one.id, FORECAST_TYPE, SOURCE, one.made_at_ms)
            records[messages[i].partition].append((messages[i].key, one.encode(), headers))
        dead = [await self._dead_letter(messages[i], error) for i, error in result.rejected]
        await asyncio.gather(self._send(self._settings.forecasts_topic, records), *dead)

    async def windows(self, result: BatchResult) -> None:
        """Send a batch's window records; return when the broker has them."""
        records = {
            partition: [(key, value, NO_HEADERS) for key, value in of]
            for partition, of in result.records.items()
        }
        await self._send(self._settings.changelog_topic, records)

    async def _send(self, topic: str, records: Mapping[int, Iterable[Record]]) -> None:
        """Send records by partition; return when the broker has them."""
        await asyncio.gather(
            *(self._send_partition(topic, partition, of) for partition, of in records.items())
        )

    async def _send_partition(self, topic: str, partition: int, records: Iterable[Record]) -> None:
        """Send in whole batches: ``send`` costs a future and a look-up for each message."""
        sent: list[asyncio.Future[Any]] = []
        batch = self._producer.create_batch()
        for key, value, headers in records:
            fits = batch.append(key=key, value=value, headers=headers, timestamp=None)
            if fits is None:
                sent.append(await self._producer.send_batch(batch, topic, partition=partition))
                batch = self._producer.create_batch()
                batch.append(key=key, value=value, headers=headers, timestamp=None)
        sent.append(await self._producer.send_batch(batch, topic, partition=partition))
        await asyncio.gather(*sent)

    async def _dead_letter(self, message: Message, error: InvalidCandle) -> asyncio.Future[Any]:
        about = {
            "topic": message.topic,
            "partition": str(message.partition),
            "offset": str(message.offset),
            "reason": error.reason.value,
            "detail": error.detail,
        }
        sent: asyncio.Future[Any] = await self._producer.send(
            self._settings.dlq_topic,
            key=message.key,
            value=message.value,
            partition=message.partition,
            headers=[
                *original_headers(message),
                *((ABOUT_PREFIX + name, value.encode()) for name, value in about.items()),
            ],
        )
        return sent


def original_headers(message: Message) -> list[tuple[str, bytes]]:
    """Return a message's headers as they came; Faust gives a list or a mapping."""
    headers = message.headers or []
    pairs = headers.items() if hasattr(headers, "items") else headers
    return [(name, value) for name, value in pairs]
