"""Publishes a batch's forecasts, dead letters and window records until acknowledged."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from shared import kafka
from shared.candles import InvalidCandle
from shared.headers import cloud_event
from stream_app.pipeline import BatchResult
from stream_app.settings import WorkerSettings

SOURCE: Final = "candlecast/stream_app"
FORECAST_TYPE: Final = "market.forecast.v1"
ABOUT_PREFIX: Final = "candlecast-"
"""Prefix of the headers that a dead letter has beyond its original ones."""

MAX_RECORDS_BYTES: Final = 1 << 19
"""Most bytes of one partition's records that go together; a broker refuses more than 1 MB."""

Record = tuple[bytes | None, bytes, list[tuple[str, bytes]]]  # key, value, headers
NO_HEADERS: Final[list[tuple[str, bytes]]] = []


class Consumed(Protocol):
    """A message as the worker's consumer delivers it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Any  # a list of pairs or a mapping


class Publisher:
    """Sends forecasts, dead letters and window records; made within a running event loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._producer = kafka.producer(settings, max_batch_bytes=MAX_RECORDS_BYTES)

    async def start(self) -> None:
        """Connect to the broker."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        await self._producer.stop()

    async def outputs(self, messages: Sequence[Consumed], result: BatchResult) -> None:
        """Send a batch's forecasts and dead letters; return when the broker has them."""
        records: dict[int, list[Record]] = defaultdict(list)
        for i, forecast in result.forecasts:
            headers = cloud_event(forecast.id, FORECAST_TYPE, SOURCE, forecast.made_at_ms)
            records[messages[i].partition].append((messages[i].key, forecast.encode(), headers))
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

    async def _dead_letter(self, message: Consumed, error: InvalidCandle) -> asyncio.Future[Any]:
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


def original_headers(message: Consumed) -> list[tuple[str, bytes]]:
    """Return a message's headers as they came."""
    headers = message.headers or []
    pairs = headers.items() if hasattr(headers, "items") else headers
    return [(name, value) for name, value in pairs]
