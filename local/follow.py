"""Reads what happens in the topics into the account; no part knows that it is watched."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from local.accounting import Accounting
from shared.candles import InvalidCandle, decode_candle
from shared.forecasts import Forecast
from shared.settings import KafkaSettings

_POLL_MS: Final = 200
_ANSWER_S: Final = 5.0
_MOST_SYMBOLS: Final = 100


class Follower:
    """Follows the candles, forecasts and dead-letter topics from their beginning.

    Needs no consumer group, so it leaves no trace in the broker.
    """

    def __init__(self, kafka: KafkaSettings, account: Accounting) -> None:
        self.newest: OrderedDict[str, Forecast] = OrderedDict()
        """The newest forecast of each of the symbols that were last forecast."""
        self.source = ""
        """What the newest candle says that it is from."""
        self._kafka = kafka
        self._account = account
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap, enable_auto_commit=False
        )
        self._partitions: dict[str, list[TopicPartition]] = {}
        self._paused = False
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect; the topics must exist."""
        async with AsyncExitStack() as resources:
            resources.push_async_callback(self._stop)
            await self._consumer.start()
            topics = (self._kafka.candles_topic, self._kafka.forecasts_topic, self._kafka.dlq_topic)
            for topic in topics:
                numbers = range(self._kafka.partitions)
                self._partitions[topic] = [TopicPartition(topic, number) for number in numbers]
            self._consumer.assign(self._all())
            await self._consumer.seek_to_beginning()
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._resources.aclose()

    async def run(self) -> None:
        """Read on until cancelled."""
        while True:
            fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
            now_ms = time.time_ns() // 1_000_000
            for partition, records in fetched.items():
                for record in records:
                    self._take(partition.topic, record, now_ms)
            self._let_forecasts_catch_up()

    async def has_read_all(self) -> bool:
        """Whether it has read every topic up to where it ends now; no when Kafka does not say."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                ends = await self._consumer.end_offsets(self._all())
                positions = [await self._consumer.position(partition) for partition in ends]
        except (TimeoutError, KafkaError):
            return False
        return all(at >= end for at, end in zip(positions, ends.values(), strict=True))

    async def _stop(self) -> None:
        # when Kafka is gone, aiokafka 0.14 lets the end of its own tasks escape from here
        with suppress(asyncio.CancelledError):
            await self._consumer.stop()

    def _all(self) -> list[TopicPartition]:
        return [one for partitions in self._partitions.values() for one in partitions]

    def _take(self, topic: str, record: ConsumerRecord[bytes, bytes], now_ms: int) -> None:
        if topic == self._kafka.dlq_topic:
            self._account.dead_letter()
        elif topic == self._kafka.forecasts_topic:
            forecast = Forecast.decode(record.value or b"")
            self._account.forecast(forecast, record.timestamp)
            self._show(forecast)
        else:
            self._take_candle(record, now_ms)

    def _take_candle(self, record: ConsumerRecord[bytes, bytes], now_ms: int) -> None:
        try:
            candle = decode_candle(record.key, record.value, now_ms)
        except InvalidCandle:
            return  # owes no forecast, but a dead letter
        self.source = candle.source
        self._account.candle(candle, record.timestamp)

    def _show(self, forecast: Forecast) -> None:
        self.newest[forecast.symbol] = forecast
        self.newest.move_to_end(forecast.symbol)
        if len(self.newest) > _MOST_SYMBOLS:
            self.newest.popitem(last=False)

    def _let_forecasts_catch_up(self) -> None:
        if self._account.is_ahead == self._paused:
            return
        candles = self._partitions[self._kafka.candles_topic]
        if self._account.is_ahead:
            self._consumer.pause(*candles)
        else:
            self._consumer.resume(*candles)
        self._paused = self._account.is_ahead
