"""What the worker sends, and the order in which the broker must acknowledge it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from faust.types import Message

from shared.candles import InvalidCandle
from shared.forecasts import Forecast
from shared.headers import cloud_event
from stream_app.pipeline import BatchResult
from stream_app.settings import WorkerSettings

SOURCE: Final = "candlecast/stream_app"
FORECAST_TYPE: Final = "market.forecast.v1"
ABOUT_PREFIX: Final = "candlecast-"
"""Of the headers that a dead letter has beyond its original ones."""


class Publisher:
    """Sends forecasts, dead letters and window records; made within a running event loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap,
            enable_idempotence=True,
            acks="all",
            max_batch_size=1 << 18,
        )

    async def start(self) -> None:
        """Connect to the broker."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        await self._producer.stop()

    async def outputs(self, messages: Sequence[Message], result: BatchResult) -> None:
        """Send a batch's forecasts and dead letters; return when the broker has them."""
        sent = [await self._forecast(messages[i], one) for i, one in result.forecasts]
        sent += [await self._dead_letter(messages[i], error) for i, error in result.rejected]
        await asyncio.gather(*sent)

    async def windows(self, result: BatchResult) -> None:
        """Send a batch's window records; return when the broker has them."""
        topic = self._settings.changelog_topic
        sent = [
            await self._producer.send(topic, key=key, value=state, partition=partition)
            for key, (partition, state) in result.states.items()
        ]
        await asyncio.gather(*sent)

    async def _forecast(self, message: Message, one: Forecast) -> asyncio.Future[Any]:
        sent: asyncio.Future[Any] = await self._producer.send(
            self._settings.forecasts_topic,
            key=message.key,
            value=one.encode(),
            partition=message.partition,
            headers=cloud_event(one.id, FORECAST_TYPE, SOURCE, one.made_at_ms),
        )
        return sent

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
