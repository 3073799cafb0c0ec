"""Candles into the topic: idempotent, ordered by symbol, acknowledged by all replicas."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError

from shared.candles import Candle
from shared.headers import cloud_event
from shared.metrics import ProducerMetrics

log = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 5000
"""Candles handed to the client and not yet acknowledged; about 3 MB."""

CLOSE_TIMEOUT_S: Final = 7.0
"""How long the end of the process waits for acknowledgements; SIGTERM allows 10 s."""

EVENT_TYPE: Final = "market.candle.v1"


class PublishError(Exception):
    """A candle that the broker refused, or a broker that cannot be reached."""


class KafkaSink:
    """Publishes candles in the order given; use as an async context manager.

    The client sends one batch at a time to a partition and repeats it until the broker has it,
    so the candles of a symbol arrive in order and without holes: the newest in the topic tells
    a restart where to go on. After a refusal nothing more is sent, for the same reason.
    """

    def __init__(self, bootstrap: str, topic: str, metrics: ProducerMetrics, source: str) -> None:
        self._topic = topic
        self._metrics = metrics
        self._event_source = f"candlecast/producer/{source}"
        self._acknowledged = metrics.candles.labels(source)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            enable_idempotence=True,
            acks="all",
            max_batch_size=1 << 17,
        )
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._room = asyncio.Event()  # set while another candle may be handed over
        self._room.set()
        self._idle = asyncio.Event()  # set while nothing is in flight
        self._idle.set()
        self._failure: BaseException | None = None
        self._first_s = 0.0
        self._last_ack_s = 0.0
        self.published = 0

    async def __aenter__(self) -> Self:
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise PublishError(f"no connection to Kafka: {error}") from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait a while for what is in flight, unless the broker has refused a candle."""
        if self._failure is not None:
            await self._producer.client.close()
        try:
            timeout_s = CLOSE_TIMEOUT_S if self._failure is None else 0.1
            await asyncio.wait_for(self._producer.stop(), timeout_s)
        except TimeoutError:
            log.warning(
                "%d candles were not acknowledged; the next start publishes them", self._in_flight
            )

    async def partitions(self) -> list[int]:
        """Return the numbers of the topic's partitions.

        Waits a while for a topic that was just made, of which not all brokers know yet.

        Raises:
            PublishError: when it still is not known.
        """
        try:
            return sorted(await self._producer.partitions_for(self._topic))
        except KafkaError as error:
            raise PublishError(f"topic {self._topic}: {error!r}") from error

    async def publish(self, candle: Candle) -> None:
        """Hand a candle to the client; waits only while ``MAX_IN_FLIGHT`` are under way.

        Raises:
            PublishError: when the broker has refused this or an earlier candle.
        """
        await self._room.wait()
        self._check()
        value = candle.encode()
        headers = cloud_event(
            _event_id(candle, value), EVENT_TYPE, self._event_source, candle.close_ms
        )
        future = await self._send(candle.symbol.encode(), value, headers)
        self._track(future, candle)

    async def flush(self) -> None:
        """Wait until every candle is acknowledged; raises ``PublishError``."""
        await self._idle.wait()
        self._check()

    def waiting_s(self) -> float:
        """Return for how long candles have waited for the broker, in seconds."""
        return self._loop.time() - self._last_ack_s if self._in_flight else 0.0

    def rate(self) -> float:
        """Return the candles a second from the first one handed over to the newest ack."""
        seconds = self._last_ack_s - self._first_s
        return self.published / seconds if seconds > 0 else 0.0

    async def _send(
        self, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> asyncio.Future[Any]:
        while True:
            try:
                sent: asyncio.Future[Any] = await self._producer.send(
                    self._topic, value, key, headers=headers
                )
                return sent
            except KafkaTimeoutError:
                # the client's buffer is full and the candle not in it, so it is tried again
                log.warning("Kafka has taken no candle for a while; waiting")
            except KafkaError as error:
                self._fail(error)
                self._check()

    def _track(self, future: asyncio.Future[Any], candle: Candle) -> None:
        now_s = self._loop.time()
        if self._in_flight == 0:
            self._first_s = self._first_s or now_s
            self._last_ack_s = now_s
            self._idle.clear()
        self._in_flight += 1
        if self._in_flight >= MAX_IN_FLIGHT:
            self._room.clear()
        future.add_done_callback(partial(self._done, candle, now_s))

    def _done(self, candle: Candle, sent_s: float, future: asyncio.Future[Any]) -> None:
        self._in_flight -= 1
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._fail(error)
        elif not future.cancelled():
            self._count(candle, sent_s)
        if self._in_flight < MAX_IN_FLIGHT:
            self._room.set()
        if self._in_flight == 0:
            self._idle.set()

    def _count(self, candle: Candle, sent_s: float) -> None:
        self._last_ack_s = self._loop.time()
        self.published += 1
        self._acknowledged.inc()
        self._metrics.publish_seconds.observe(self._last_ack_s - sent_s)
        self._metrics.newest_close.labels(candle.symbol).set(candle.close_ms / 1000)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._room.set()
        self._idle.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise PublishError(
                f"topic {self._topic}: a candle was refused: {self._failure!r}"
            ) from self._failure


def _event_id(candle: Candle, value: bytes) -> str:
    """Return an id that a repeat shares and a correction does not."""
    digest = hashlib.blake2b(value, digest_size=6).hexdigest()
    return f"{candle.symbol}/{candle.interval}/{candle.open_ms}/{digest}"
