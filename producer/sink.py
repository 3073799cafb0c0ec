"""Kafka sink of candles: idempotent, ordered by symbol, acknowledged by all replicas."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

from producer.source import Kind, Publication
from producer.target import Target, candles
from shared import kafka
from shared.candles import Candle
from shared.headers import cloud_event
from shared.kafka import KafkaError, KafkaSettings, KafkaTimeoutError, Producer
from shared.metrics import ProducerMetrics
from shared.process import AWAY, now_ms
from shared.topics import partitions_of
from shared.traces import Context, SpanKind, Traces, candle_trace

log = logging.getLogger(__name__)

MAX_RECORDS_BYTES: Final = 1 << 17
"""Most bytes of one partition's candles that go together."""

CLOSE_TIMEOUT_S: Final = 7.0
"""Longest wait for acknowledgements at the end of the process; SIGTERM allows 10 s."""

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 2.0
"""Pauses before a new client sends what the last one gave up."""

MOST_LOOKS: Final = 2
"""Looks in a row that do not find the topic, after which it counts as gone: one may ask a broker
that has just started and does not know its topics yet."""

_SLOW_S: Final = 2.0


class PublishError(Exception):
    """A candle that the broker refused, or a broker that cannot be reached."""


@dataclass(frozen=True)
class _Held:
    """A candle that the broker has not acknowledged."""

    number: int
    publication: Publication
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    since_s: float
    span: tuple[Context, int] | None  # where traces are on: its identity, and when it began, UTC ns


class KafkaSink:
    """Publishes candles in the order given; use as an async context manager.

    The client sends one batch at a time to a partition and repeats it until the broker has it,
    so the candles of a symbol arrive in order and without holes: a restart resumes after the
    newest in the topic. After a refusal nothing more is sent, for the same reason.

    A client gives up a batch after a while without a leader or a broker. Then a new one sends
    all that is not acknowledged, in order and for as long as it takes. What the broker had taken
    without an acknowledgement is repeated so.

    While Kafka does not answer it holds a bounded number of candles; then ``publish`` waits,
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
        traces: Traces | None = None,
        target: Target | None = None,
    ) -> None:
        """Prepare only; entering the context connects.

        Args:
            settings: where Kafka is, and the topic of candles.
            metrics: counts acknowledged candles.
            source: the name of the source.
            buffered: most candles handed over and not acknowledged; 5,000 are about 3 MB.
            measure_lag: whether the candles close while they are published.
            traces: take a span for each candle; None where traces are off.
            target: the topic; by default that of candles.
        """
        self._traces = traces
        self._settings = settings
        self._target = target or candles(settings)
        self._topic = self._target.topic
        self._buffered = buffered
        self._measure_from_ms = now_ms() if measure_lag else None
        self._metrics = metrics
        self._event_source = f"candlecast/producer/{source}"
        self._acknowledged = metrics.candles.labels(source)
        self._producer = self._new_producer()
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._held: dict[int, _Held] = {}  # by number, so in order
        self._room = asyncio.Event()  # set while another candle may be handed over
        self._room.set()
        self._idle = asyncio.Event()  # set while nothing is held
        self._idle.set()
        self._failure: BaseException | None = None
        self._broken: BaseException | None = None  # what the client gave up for
        self._sending = asyncio.Lock()  # one candle after the other
        self._renewal: asyncio.Task[None] | None = None
        self._looks_without_topic = 0
        self._first_s = 0.0
        self._last_ack_s = 0.0
        self.published = 0

    def _new_producer(self) -> Producer:
        return kafka.producer(self._settings, max_batch_bytes=MAX_RECORDS_BYTES)

    async def __aenter__(self) -> Self:
        """Connect, and wait for a broker."""
        try:
            await kafka.when_reachable(self._settings, self._connect)
        except KafkaError as error:
            raise PublishError(f"no connection to Kafka: {error}") from error
        return self

    async def _connect(self) -> None:
        try:
            await self._producer.start()
        except BaseException:
            await kafka.abandon(self._producer)
            self._producer = self._new_producer()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait a while for acknowledgements, unless the broker has refused a candle."""
        if self._failure is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), CLOSE_TIMEOUT_S)
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        await kafka.abandon(self._producer)
        if self._held and self._failure is None:
            log.warning(
                "%d candles are not acknowledged; the next start publishes them", len(self._held)
            )

    async def partitions(self) -> list[int]:
        """Return the numbers of the topic's partitions; waits for the brokers.

        Raises:
            PublishError: when the topic is unknown, whatever the brokers do.
        """
        try:
            return sorted(
                await kafka.when_reachable(
                    self._settings, lambda: self._producer.partitions_for(self._topic)
                )
            )
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
        held = self._hold(publication)
        if self._renewal is None:
            async with self._sending:
                await self._send(held)
        self._check()

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

    @property
    def held(self) -> int:
        """Candles that are not acknowledged."""
        return len(self._held)

    def waiting_s(self) -> float:
        """Return how long candles have waited for the broker, in seconds."""
        return self._loop.time() - self._last_ack_s if self._held else 0.0

    def rate(self) -> float:
        """Return candles a second, from the first one handed over to the newest acknowledged."""
        seconds = self._last_ack_s - self._first_s
        return self.published / seconds if seconds > 0 else 0.0

    def _hold(self, publication: Publication) -> _Held:
        candle = publication.candle
        value = candle.encode()
        headers = cloud_event(
            _event_id(candle, value),
            self._target.event_type,
            self._event_source,
            candle.close_ms,
            **extensions(publication),
        )
        span = None
        if self._traces is not None:
            trace_id = candle_trace(candle.symbol, candle.interval, candle.close_ms)
            span = self._traces.begin(trace_id), time.time_ns()
            headers.append(span[0].header)
        now_s = self._loop.time()
        key = self._target.key(candle)
        held = _Held(next(self._numbers), publication, key, value, headers, now_s, span)
        if not self._held:
            self._first_s = self._first_s or now_s
            self._last_ack_s = now_s
            self._idle.clear()
        self._held[held.number] = held
        if len(self._held) >= self._buffered:
            self._room.clear()
        return held

    async def _send(self, held: _Held) -> None:
        """Hand a candle to the client; one that it does not take stays held."""
        client = self._producer
        while self._broken is None and self._failure is None:
            try:
                future = await client.send(self._topic, held.value, held.key, headers=held.headers)
            except KafkaTimeoutError:
                # the client's buffer is full and the candle not in it, so it is sent again
                log.warning("Kafka has not taken a candle for a while; waiting", extra=AWAY)
            except kafka.TRANSIENT as error:
                self._judge(error)
            else:
                future.add_done_callback(partial(self._done, held, client))
                return

    def _done(self, held: _Held, client: Producer, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            self._release(held)
        elif error is not None and client is self._producer:
            self._judge(error)

    def _release(self, held: _Held) -> None:
        if self._held.pop(held.number, None) is None:
            return  # a repeat
        self._count(held)
        self._end_span(held)
        if len(self._held) < self._buffered:
            self._room.set()
        if not self._held:
            self._idle.set()

    def _end_span(self, held: _Held) -> None:
        if held.span is None or self._traces is None:
            return
        context, began_ns = held.span
        candle = held.publication.candle
        self._traces.end(
            f"send {self._topic}",
            SpanKind.PRODUCER,
            context,
            began_ns,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": self._topic,
                "candlecast.symbol": candle.symbol,
                "candlecast.interval": candle.interval,
            },
        )

    def _count(self, held: _Held) -> None:
        candle = held.publication.candle
        self._last_ack_s = self._loop.time()
        self.published += 1
        self._acknowledged.inc()
        self._metrics.publish_seconds.observe(self._last_ack_s - held.since_s)
        if held.publication.kind in {Kind.CLOSED, Kind.PROVISIONAL}:
            self._metrics.newest_close.labels(candle.symbol).set(candle.close_ms / 1000)
            if self._measure_from_ms is not None and candle.close_ms >= self._measure_from_ms:
                lag_s = (now_ms() - candle.close_ms) / 1000
                self._metrics.publish_lag_seconds.observe(lag_s)

    def _judge(self, error: BaseException) -> None:
        """Begin again with a new client, or end, by what an error says."""
        if not kafka.is_transient(error):
            self._fail(error)
        elif self._failure is None:
            kafka.silence(self._producer)  # at once: later candles must not overtake
            self._broken = self._broken or error
            if self._renewal is None:
                self._renewal = asyncio.create_task(self._renew())

    def _fail(self, error: BaseException) -> None:
        kafka.silence(self._producer)
        self._failure = self._failure or error
        self._room.set()
        self._idle.set()

    async def _renew(self) -> None:
        try:
            await self._send_again()
        except Exception as error:  # noqa: BLE001 - else nobody would ever send again
            self._fail(error)
        self._renewal = None

    async def _send_again(self) -> None:
        """Send all that is held by a new client, again and again until one takes it."""
        wait_s = FIRST_WAIT_S
        async with self._sending:
            while self._broken is not None and self._failure is None:
                log.warning(
                    "waiting for Kafka at %s, %d candles wait: %r",
                    self._settings.bootstrap, len(self._held), self._broken, extra=AWAY,
                )  # fmt: skip
                await kafka.abandon(self._producer)
                self._producer = self._new_producer()
                try:
                    await self._producer.start()
                    await self._look_for_topic()
                except kafka.TRANSIENT as error:
                    self._judge(error)
                else:
                    self._broken = None
                    await self._send_held()
                if self._broken is None:
                    break  # at once: whatever is held from now on is sent by ``publish``
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _look_for_topic(self) -> None:
        """Raise ``PublishError`` when the topic is not there: what it had is gone with it."""
        if await partitions_of(self._settings, self._topic):
            self._looks_without_topic = 0
            return
        self._looks_without_topic += 1
        if self._looks_without_topic >= MOST_LOOKS:
            raise PublishError(
                f"topic {self._topic} is gone: it was deleted, or the broker has lost its disk; "
                "the next start makes it and publishes what it lacks"
            )
        raise KafkaTimeoutError(f"topic {self._topic} is not there")

    async def _send_held(self) -> None:
        newest = 0
        while fresh := [held for held in self._held.values() if held.number > newest]:
            for held in fresh:
                if self._broken is not None or self._failure is not None:
                    return
                await self._send(held)
                newest = held.number

    def _check(self) -> None:
        if isinstance(self._failure, PublishError):
            raise self._failure
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
