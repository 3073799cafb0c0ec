"""Publishes a batch's forecasts, scores, dead letters and window records until acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol

from shared import kafka
from shared.candles import InvalidCandle
from shared.headers import cloud_event
from shared.kafka import Producer
from shared.metrics import WorkerMetrics
from shared.process import now_ms
from stream_app.fence import Fence
from stream_app.pipeline import BatchResult
from stream_app.rebuild import SOURCE_KEY, Source
from stream_app.settings import WorkerSettings

log = logging.getLogger("stream_app")

SOURCE: Final = "candlecast/stream_app"
FORECAST_TYPE: Final = "market.forecast.v1"
SCORE_TYPE: Final = "market.score.v1"
ABOUT_PREFIX: Final = "candlecast-"
"""Prefix of the headers that a dead letter has beyond its original ones."""

MAX_RECORDS_BYTES: Final = 1 << 19
"""Most bytes of one partition's records that go together; a broker refuses more than 1 MB."""

MAX_VALUE_BYTES: Final = 256 << 10
MAX_KEY_BYTES: Final = 1 << 10
MAX_HEADERS_BYTES: Final = 16 << 10
MAX_HEADERS: Final = 64
"""Most of a rejected message that its dead letter carries."""

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 2.0
"""Pauses between repetitions of what the broker has not acknowledged."""

Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]  # key, value, headers
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
    """Sends forecasts, scores, dead letters and window records; made within a running event loop.

    What the broker does not acknowledge is sent again, by a client made again, for as long as it
    takes: a message that is sent twice is equal, one that is given up is lost. Only what no
    repetition can mend is an error.
    """

    def __init__(self, settings: WorkerSettings, fence: Fence, metrics: WorkerMetrics) -> None:
        self._settings = settings
        self._fence = fence
        self._metrics = metrics
        self._producer = self._new_producer()

    def _new_producer(self) -> Producer:
        return kafka.producer(self._settings, max_batch_bytes=MAX_RECORDS_BYTES)

    async def start(self) -> None:
        """Connect to the broker, and wait for one."""
        await self._until_done(self._producer.start)

    async def stop(self) -> None:
        """Disconnect; nothing is left to send, since every batch is awaited."""
        await kafka.abandon(self._producer)

    async def outputs(self, messages: Sequence[Consumed], result: BatchResult) -> None:
        """Send a batch's forecasts, scores and dead letters; return when the broker has them.

        Raises:
            FencedError: after a failure.
            KafkaError: when the broker refuses them for good.
        """
        records: dict[int, list[Record]] = defaultdict(list)
        for i, forecast in result.forecasts:
            headers = cloud_event(forecast.id, FORECAST_TYPE, SOURCE, forecast.made_at_ms)
            records[messages[i].partition].append((messages[i].key, forecast.encode(), headers))
        scores: dict[int, list[Record]] = defaultdict(list)
        for i, score in result.scores:
            headers = cloud_event(score.id, SCORE_TYPE, SOURCE, score.made_at_ms)
            scores[messages[i].partition].append((messages[i].key, score.value, headers))
        dead: dict[int, list[Record]] = defaultdict(list)
        for i, error in result.rejected:
            dead[messages[i].partition].append(dead_letter(messages[i], error))

        async def send() -> None:
            await asyncio.gather(
                self._send(self._settings.forecasts_topic, records),
                self._send(self._settings.scores_topic, scores),
                self._send(self._settings.dlq_topic, dead),
            )

        await self._until_done(send)

    async def windows(self, result: BatchResult) -> None:
        """Send a batch's window records; return when the broker has them; raises as ``outputs``."""
        await self._changelog(result.records)

    async def sources(self, sources: Mapping[int, Source]) -> None:
        """Send the record about their source for some partitions of the changelog."""
        await self._changelog(
            {part: [(SOURCE_KEY, source.encode())] for part, source in sources.items()}
        )

    async def tombstones(self, keys: Mapping[int, Iterable[bytes]]) -> None:
        """Send what removes records of the changelog, by partition."""
        await self._changelog({part: [(key, None) for key in of] for part, of in keys.items()})

    async def _changelog(self, records: Mapping[int, Sequence[tuple[bytes, bytes | None]]]) -> None:
        full = {
            part: [(key, value, NO_HEADERS) for key, value in of] for part, of in records.items()
        }
        await self._until_done(lambda: self._send(self._settings.changelog_topic, full))

    async def _until_done(self, send: Callable[[], Awaitable[None]]) -> None:
        """Repeat until the broker has everything, with a client made again each time."""
        wait_s = FIRST_WAIT_S
        while True:
            self._fence.check()
            try:
                return await send()
            except kafka.TRANSIENT as error:
                if not kafka.is_transient(error):
                    raise
                log.warning("Kafka takes no messages, sending again: %r", error)
                self._metrics.send_retries.inc()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            await self._renew()

    async def _renew(self) -> None:
        """Replace the client: one that gave up a batch does not know what the broker has of it."""
        await kafka.abandon(self._producer)
        self._producer = self._new_producer()
        try:
            await self._producer.start()
        except kafka.TRANSIENT as error:
            log.warning("Kafka is out of reach: %r", error)

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
        stamped = await asyncio.gather(*sent)
        self._note_skew(stamped[-1].timestamp)

    def _note_skew(self, appended_ms: int | None) -> None:
        """Note how far this machine's clock is ahead of the broker's, the way back included."""
        if appended_ms is not None and appended_ms > 0:
            self._metrics.clock_skew_seconds.set((now_ms() - appended_ms) / 1000)


def dead_letter(message: Consumed, error: InvalidCandle) -> Record:
    """Return the dead letter of a message: all of it, or what a broker takes of it.

    Where something was cut the headers give the length and SHA-256 of the whole, and where the
    original is.
    """
    key, value = message.key, message.value
    headers = original_headers(message)
    about = {
        "topic": message.topic,
        "partition": str(message.partition),
        "offset": str(message.offset),
        "reason": error.reason.value,
        "detail": error.detail,
    }
    if value is not None and len(value) > MAX_VALUE_BYTES:
        about |= {"value-bytes": str(len(value)), "value-sha256": sha256(value).hexdigest()}
        value = value[:MAX_VALUE_BYTES]
    if key is not None and len(key) > MAX_KEY_BYTES:
        about |= {"key-bytes": str(len(key)), "key-sha256": sha256(key).hexdigest()}
        key = key[:MAX_KEY_BYTES]
    size = sum(len(name) + len(content or b"") for name, content in headers)
    if size > MAX_HEADERS_BYTES or len(headers) > MAX_HEADERS:
        about |= {"headers-bytes": str(size), "headers": str(len(headers))}
        headers = []
    ours = [(ABOUT_PREFIX + name, content.encode()) for name, content in about.items()]
    return key, value, [*headers, *ours]


def original_headers(message: Consumed) -> list[tuple[str, bytes]]:
    """Return a message's headers as they came."""
    headers = message.headers or []
    pairs = headers.items() if hasattr(headers, "items") else headers
    return [(name, value) for name, value in pairs]
