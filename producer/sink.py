"""Kafka sink of candles: idempotent, ordered by symbol, acknowledged by all replicas."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from producer.source import Kind, Publication
from shared import kafka
from shared.candles import Candle
from shared.headers import cloud_event
from shared.kafka import KafkaError, KafkaSettings, KafkaTimeoutError
from shared.metrics import ProducerMetrics
from shared.process import now_ms

log = logging.getLogger(__name__)

MAX_RECORDS_BYTES: Final = 1 << 17
"""Most bytes of one partition's candles that go together."""

CLOSE_TIMEOUT_S: Final = 7.0
"""Longest wait for acknowledgements at the end of the process; SIGTERM allows 10 s."""

_SLOW_S: Final = 2.0

EVENT_TYPE: Final = "market.candle.v1"
"""CloudEvents type of a candle's message."""


class PublishError(Exception):
    """A candle that the broker refused, or a broker that cannot be reached."""


class KafkaSink:
    """Publishes candles in the order given; use as an async context manager.

    The client sends one batch at a time to a partition and repeats it until the broker has it,
    so the candles of a symbol arrive in order and without holes: a restart resumes after the
    newest in the topic. After a refusal nothing more is sent, for the same reason.

    While Kafka does not answer it buffers a bounded number of candles; then ``publish`` waits,
    and with it the source. A restart publishes what the topic then lacks.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        metrics: ProducerMetrics,
        source: str,
        *,
        buffered: int,
        measure_lag: bool = False,
    ) -> None:
        """Prepare only; entering the context connects.

        Args:
            settings: where Kafka is, and the topic of candles.
            metrics: counts acknowledged candles.
            source: the name of the source.
            buffered: most candles handed over and not acknowledged; 5,000 are about 3 MB.
            measure_lag: whether the candles close while they are published.
        """
        self._topic = settings.candles_topic
        self._buffered = buffered
        self._measure_from_ms = now_ms() if measure_lag else None
        self._metrics = metrics
        self._event_source = f"candlecast/producer/{source}"
        self._acknowledged = metrics.candles.labels(source)
        self._producer = kafka.producer(settings, max_batch_bytes=MAX_RECORDS_BYTES)
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        metrics.buffered.set_function(lambda: self._in_flight)
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
        """Wait a while for acknowledgements, unless the broker has refused a candle."""
        if self._failure is not None:
            await self._producer.client.close()
        try:
            timeout_s = CLOSE_TIMEOUT_S if self._failure is None else 0.1
            await asyncio.wait_for(self._producer.stop(), timeout_s)
        except TimeoutError:
            log.warning(
                "%d candles are not acknowledged; the next start publishes them", self._in_flight
            )

    async def partitions(self) -> list[int]:
        """Return the numbers of the topic's partitions.

        Waits a while for a new topic, of which not all brokers know yet.

        Raises:
            PublishError: when it is still unknown.
        """
        try:
            return sorted(await self._producer.partitions_for(self._topic))
        except KafkaError as error:
            raise PublishError(f"topic {self._topic}: {error!r}") from error

    async def publish(self, publication: Publication) -> None:
        """Hand a candle to the client; waits only while the buffer is full.

        Raises:
            PublishError: when the broker has refused this or an earlier candle.
        """
        if not self._room.is_set():
            await self._wait_for_room()
        self._check()
        candle = publication.candle
        value = candle.encode()
        headers = cloud_event(
            _event_id(candle, value),
            EVENT_TYPE,
            self._event_source,
            candle.close_ms,
            **extensions(publication),
        )
        future = await self._send(candle.symbol.encode(), value, headers)
        self._track(future, publication)

    async def _wait_for_room(self) -> None:
        # a fast source fills the buffer of a broker in good health too
        try:
            await asyncio.wait_for(self._room.wait(), _SLOW_S)
            return
        except TimeoutError:
            pass
        self._metrics.buffer_full.set(1)
        log.warning(
            "Kafka has acknowledged nothing for %.0f s and the buffer of %d candles is full: "
            "the source waits", self.waiting_s(), self._buffered,
        )  # fmt: skip
        await self._room.wait()
        self._metrics.buffer_full.set(0)
        log.warning("Kafka answers again: the source goes on")

    async def flush(self) -> None:
        """Wait until every candle is acknowledged; raises ``PublishError``."""
        await self._idle.wait()
        self._check()

    def waiting_s(self) -> float:
        """Return how long candles have waited for the broker, in seconds."""
        return self._loop.time() - self._last_ack_s if self._in_flight else 0.0

    def rate(self) -> float:
        """Return candles a second, from the first one handed over to the newest acknowledged."""
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
                # the client's buffer is full and the candle not in it, so it is sent again
                log.warning("Kafka has not taken a candle for a while; waiting")
            except KafkaError as error:
                self._fail(error)
                self._check()

    def _track(self, future: asyncio.Future[Any], publication: Publication) -> None:
        now_s = self._loop.time()
        if self._in_flight == 0:
            self._first_s = self._first_s or now_s
            self._last_ack_s = now_s
            self._idle.clear()
        self._in_flight += 1
        if self._in_flight >= self._buffered:
            self._room.clear()
        future.add_done_callback(partial(self._done, publication, now_s))

    def _done(self, publication: Publication, sent_s: float, future: asyncio.Future[Any]) -> None:
        self._in_flight -= 1
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._fail(error)
        elif not future.cancelled():
            self._count(publication, sent_s)
        if self._in_flight < self._buffered:
            self._room.set()
        if self._in_flight == 0:
            self._idle.set()

    def _count(self, publication: Publication, sent_s: float) -> None:
        candle = publication.candle
        self._last_ack_s = self._loop.time()
        self.published += 1
        self._acknowledged.inc()
        self._metrics.publish_seconds.observe(self._last_ack_s - sent_s)
        if publication.kind in {Kind.CLOSED, Kind.PROVISIONAL}:
            self._metrics.newest_close.labels(candle.symbol).set(candle.close_ms / 1000)
            if self._measure_from_ms is not None and candle.close_ms >= self._measure_from_ms:
                lag_s = (now_ms() - candle.close_ms) / 1000
                self._metrics.publish_lag_seconds.observe(lag_s)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._room.set()
        self._idle.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise PublishError(
                f"topic {self._topic}: a candle was refused: {self._failure!r}"
            ) from self._failure


def extensions(publication: Publication) -> dict[str, str]:
    """Return our CloudEvents attributes: what a consumer should know beyond the values.

    ``kind``: one of ``Kind``. ``split``: ``4:1``, of the candles published again because of it
    and of the first one that trades after it. ``dividend``: the amount a share, of the first
    candle that trades without it.
    """
    attributes = {"kind": publication.kind.value}
    for action in publication.actions:
        name = action.kind.value
        before = f"{attributes[name]}," if name in attributes else ""
        attributes[name] = before + action.value
    return attributes


def _event_id(candle: Candle, value: bytes) -> str:
    """Return an id that a repeat shares and a correction does not."""
    digest = hashlib.blake2b(value, digest_size=6).hexdigest()
    return f"{candle.symbol}/{candle.interval}/{candle.open_ms}/{digest}"
