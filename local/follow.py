"""Follows the topics into the account of a run; no process knows that it is watched."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self

from local.accounting import Accounting
from shared import kafka as clients
from shared.candles import InvalidCandle, decode_candle
from shared.forecasts import Forecast, InvalidForecast
from shared.kafka import KafkaError, KafkaSettings, Partition, Record
from shared.process import now_ms
from shared.unusable import UnusableMessages

log = logging.getLogger(__name__)

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
        self._consumer = clients.consumer(kafka)
        self._partitions: dict[str, list[Partition]] = {}
        self._paused = False
        self._unusable = UnusableMessages(log)
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect; the topics must exist."""
        async with AsyncExitStack() as resources:
            resources.push_async_callback(self._stop)
            await self._consumer.start()
            topics = (self._kafka.candles_topic, self._kafka.forecasts_topic, self._kafka.dlq_topic)
            for topic in topics:
                numbers = range(self._kafka.partitions)
                self._partitions[topic] = [Partition(topic, number) for number in numbers]
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
        starts = await self._consumer.beginning_offsets(self._all())
        async for records in clients.follow(self._consumer, starts):
            read_ms = now_ms()
            for record in records:
                self._take(record, read_ms)
            self._let_forecasts_catch_up()

    async def has_read_all(self) -> bool:
        """True when it has read every topic to its present end; False without an answer."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                ends = await self._consumer.end_offsets(self._all())
                return await clients.has_reached(self._consumer, ends)
        except (TimeoutError, KafkaError):
            return False

    async def _stop(self) -> None:
        # when Kafka is gone, aiokafka 0.14 lets the end of its own tasks escape from here
        with suppress(asyncio.CancelledError):
            await self._consumer.stop()

    def _all(self) -> list[Partition]:
        return [part for partitions in self._partitions.values() for part in partitions]

    def _take(self, record: Record, read_ms: int) -> None:
        if record.topic == self._kafka.dlq_topic:
            self._account.dead_letter()
        elif record.topic == self._kafka.forecasts_topic:
            self._take_forecast(record)
        else:
            self._take_candle(record, read_ms)

    def _take_candle(self, record: Record, read_ms: int) -> None:
        try:
            candle = decode_candle(record.key, record.value, read_ms)
        except InvalidCandle:
            return  # owes no forecast, but a dead letter
        self.source = candle.source
        self._account.candle(candle, record.timestamp)

    def _take_forecast(self, record: Record) -> None:
        try:
            forecast = Forecast.decode(record.value)
        except InvalidForecast as error:  # of somebody else: ours are valid
            self._unusable.note(record, "invalid_forecast", error)
            return
        self._account.forecast(forecast, record.timestamp)
        self._show(forecast)

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
