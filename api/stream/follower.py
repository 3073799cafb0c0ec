"""Reads the candles and forecasts topics into the market, and reconnects by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final

from api.stream.cursors import Origin
from api.stream.hub import Hub
from api.stream.market import Market, StreamEvent
from shared import kafka as clients
from shared.candles import InvalidCandle, decode_candle
from shared.forecasts import Forecast, InvalidForecast
from shared.kafka import Consumer, KafkaError, KafkaSettings, Partition, Record
from shared.metrics import ApiMetrics
from shared.topics import partitions_of
from shared.unusable import UnusableMessages

log = logging.getLogger(__name__)

_CHECK_S: Final = 1.0
_ANSWER_S: Final = 4.0
_BACK_OFF_S: Final = (0.5, 4.0)  # first, longest
_MAX_RECORDS: Final = 200


class _TopicsLost(Exception):
    """The topics are not there, or are not those that were followed."""


@dataclass
class StreamView:
    """The stream as this instance of the API sees it."""

    market: Market
    hub: Hub
    connected: bool = False
    detail: str = "not connected to Kafka yet"
    lag: int | None = None


class Follower:
    """A consumer of both topics without a group: each instance of the API sees all."""

    def __init__(
        self, kafka: KafkaSettings, live: StreamView, metrics: ApiMetrics, lookback: int
    ) -> None:
        """Follow from the newest ``lookback`` messages of each topic."""
        self._kafka = kafka
        self._live = live
        self._metrics = metrics
        self._lookback = lookback
        self._unusable = UnusableMessages(log)
        self._caught_up = False
        self._reason = ""

    async def run(self) -> None:
        """Follow until cancelled; whatever fails is tried again."""
        wait_s, longest_s = _BACK_OFF_S
        while True:
            try:
                await self._follow()
            except (KafkaError, OSError, TimeoutError, _TopicsLost) as error:
                if self._live.connected:
                    wait_s = _BACK_OFF_S[0]
                self._lost(str(error) or type(error).__name__)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, longest_s)

    async def _follow(self) -> None:
        client = clients.consumer(
            self._kafka, request_timeout_ms=int(_ANSWER_S * 1000), retry_backoff_ms=200
        )
        async with clients.connected(client) as consumer:
            parts = [
                *await self._parts(self._kafka.candles_topic),
                *await self._parts(self._kafka.forecasts_topic),
            ]
            self._live.market.clear()
            self._caught_up = False
            starts, ends = await self._look_back(consumer, parts)
            await self._read(consumer, starts, ends)

    async def _parts(self, topic: str) -> list[Partition]:
        async with asyncio.timeout(_ANSWER_S * 2):
            numbers = await partitions_of(self._kafka, topic)
        if not numbers:
            raise _TopicsLost(f"topic {topic} does not exist yet")
        return [Partition(topic, number) for number in numbers]

    async def _look_back(
        self, consumer: Consumer, parts: list[Partition]
    ) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Return where following begins, and where the topics end now."""
        begins = await consumer.beginning_offsets(parts)
        ends: dict[Partition, int] = await consumer.end_offsets(parts)
        starts = {}
        for part in parts:
            share = self._lookback // sum(other.topic == part.topic for other in parts)
            starts[part] = max(begins[part], ends[part] - share)
        topics = (self._kafka.candles_topic, self._kafka.forecasts_topic)
        self._live.hub.begin(topics, list(starts.values()), [ends[part] for part in parts])
        return starts, ends

    async def _read(
        self,
        consumer: Consumer,
        starts: dict[Partition, int],
        goal: dict[Partition, int],
    ) -> None:
        parts = list(starts)
        numbers = {(part.topic, part.partition): number for number, part in enumerate(parts)}
        next_check = 0.0
        async for records in clients.follow(consumer, starts, most=_MAX_RECORDS):
            for record in records:
                part = numbers[record.topic, record.partition]
                self._take(record, (part, record.offset))
            await asyncio.sleep(0)  # a long backlog must not keep requests waiting
            self._caught_up = self._caught_up or await clients.has_reached(consumer, goal)
            if time.monotonic() >= next_check:
                await self._check(consumer, parts)
                next_check = time.monotonic() + _CHECK_S

    async def _check(self, consumer: Consumer, parts: list[Partition]) -> None:
        """See whether the broker answers, and how far behind we are."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                ends = await consumer.end_offsets(parts)
                positions = {part: await consumer.position(part) for part in parts}
        except (KafkaError, OSError, TimeoutError) as error:
            self._lost(str(error) or "Kafka does not answer")
            return
        if any(positions[part] > end for part, end in ends.items()):
            raise _TopicsLost("a topic was recreated")
        self._live.lag = sum(end - positions[part] for part, end in ends.items())
        self._metrics.lag.set(self._live.lag)
        if self._caught_up and not self._live.connected:
            log.info("following %s", ", ".join(sorted({part.topic for part in parts})))
            self._reason = ""
            self._state("following", connected=True)
        elif not self._caught_up:
            self._state("reading the topics' newest messages", connected=False)

    def _take(self, record: Record, origin: Origin) -> None:
        events = self._events(record, origin)
        self._metrics.scores.inc(sum(event.kind == "score" for event in events))
        self._live.hub.publish(origin, events)

    def _events(self, record: Record, origin: Origin) -> list[StreamEvent]:
        """Return the news in a message; none of one that cannot be used, whatever its fault."""
        try:
            if record.topic == self._kafka.candles_topic:
                candle = decode_candle(record.key, record.value, record.timestamp)
                return self._live.market.add_candle(candle, record.timestamp, origin)
            forecast = Forecast.decode(record.value)
            return self._live.market.add_forecast(forecast, record.timestamp, origin)
        except InvalidCandle as error:  # the worker puts it aside
            self._pass_over(record, str(error.reason), error)
        except InvalidForecast as error:
            self._pass_over(record, "invalid_forecast", error)
        except Exception as error:  # noqa: BLE001 -- one message must not stop those after it
            self._pass_over(record, "error", error)
        return []

    def _pass_over(self, record: Record, reason: str, error: Exception) -> None:
        self._metrics.ignored.labels(reason).inc()
        self._unusable.note(record, reason, error)

    def _lost(self, reason: str) -> None:
        if self._reason != reason:  # the log has the details, clients do not
            log.warning("the stream is not followed: %s", reason)
        self._reason = reason
        self._live.lag = None
        self._state("Kafka, or one of its topics, is out of reach", connected=False)

    def _state(self, detail: str, *, connected: bool) -> None:
        self._live.connected = connected
        self._live.detail = detail
        self._metrics.connected.set(connected)
