"""Publishes a batch's forecasts, scores, dead letters and window records until acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from shared import kafka
from shared.candles import InvalidCandle
from shared.headers import cloud_event, pairs
from shared.kafka import MessageSizeTooLargeError, Producer
from shared.messages import PartialValue, measures
from shared.metrics import WorkerMetrics
from shared.process import AWAY, now_ms
from shared.traces import Traces
from stream_app.fence import Fence
from stream_app.pipeline import BatchResult
from stream_app.rebuild import SOURCE_KEY, Source
from stream_app.settings import WorkerSettings
from stream_app.tracing import BatchTraces

log = logging.getLogger("stream_app")

SOURCE: Final = "candlecast/stream_app"
FORECAST_TYPE: Final = "market.forecast.v1"
SCORE_TYPE: Final = "market.score.v1"
ABOUT_PREFIX: Final = "candlecast-"
"""Prefix of the headers that a dead letter has beyond its original ones."""

MAX_RECORDS_BYTES: Final = 1 << 19
"""Most bytes of one partition's records that go together; a broker refuses more than 1 MB."""

LEAST_RECORDS_BYTES: Final = 1
"""The same for a topic that takes less: each record alone."""

SHRINK: Final = 16
"""Divisor of the size of batches when a topic does not take them."""

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

    def __init__(
        self,
        settings: WorkerSettings,
        fence: Fence,
        metrics: WorkerMetrics,
        traces: Traces | None = None,
    ) -> None:
        self._settings = settings
        self._traces = traces
        self._fence = fence
        self._metrics = metrics
        self._batch_bytes = MAX_RECORDS_BYTES
        self._keeps_values = True  # of dead letters
        self._producer = self._new_producer()
        self.skew_s = 0.0
        """How far this machine's clock is ahead of the broker's, as far as is known."""

    def _new_producer(self) -> Producer:
        return kafka.producer(self._settings, max_batch_bytes=self._batch_bytes)

    async def start(self) -> None:
        """Connect to the broker, and wait for one."""
        await self._until_done(self._producer.start)

    async def stop(self) -> None:
        """Disconnect; nothing is left to send, since every batch is awaited."""
        await kafka.abandon(self._producer)

    async def outputs(
        self,
        messages: Sequence[Consumed],
        result: BatchResult,
        began_ns: int,
        others: Sequence[tuple[Consumed, InvalidCandle]] = (),
    ) -> None:
        """Send a batch's forecasts, scores and dead letters; return when the broker has them.

        Args:
            messages: of the batch.
            result: what they gave.
            began_ns: when work on them began, UTC epoch nanoseconds.
            others: messages of another topic that are put aside too.

        Raises:
            FencedError: after a failure.
            KafkaError: when the broker refuses them for good.
        """
        traced = BatchTraces(self._traces, result, began_ns) if self._traces else None
        passed_on = traced.headers if traced else {}
        records: dict[int, list[Record]] = defaultdict(list)
        for i, forecast in result.forecasts:
            headers = cloud_event(forecast.id, FORECAST_TYPE, SOURCE, forecast.made_at_ms)
            headers += passed_on.get(i, NO_HEADERS)
            records[messages[i].partition].append((messages[i].key, forecast.encode(), headers))
        scores: dict[int, list[Record]] = defaultdict(list)
        for i, score in result.scores:
            headers = cloud_event(score.id, SCORE_TYPE, SOURCE, score.made_at_ms)
            headers += passed_on.get(i, NO_HEADERS)
            scores[messages[i].partition].append((messages[i].key, score.value, headers))

        async def send() -> None:
            dead: dict[int, list[Record]] = defaultdict(list)
            for i, error in result.rejected:
                letter = dead_letter(messages[i], error, keeps_value=self._keeps_values)
                dead[messages[i].partition].append(letter)
            for message, error in others:
                letter = dead_letter(message, error, keeps_value=self._keeps_values)
                dead[message.partition].append(letter)
            await asyncio.gather(
                self._send(self._settings.forecasts_topic, records),
                self._send(self._settings.scores_topic, scores),
                self._send(self._settings.dlq_topic, dead),
            )

        await self._until_done(send)
        self._keeps_values = True
        if traced is not None:
            traced.end(messages)

    async def windows(self, result: BatchResult) -> None:
        """Send a batch's window records; return when the broker has them; raises as ``outputs``."""
        await self._changelog(result.records)

    async def sources(self, sources: Mapping[int, Source]) -> None:
        """Send the record about their source for some partitions of the changelog."""
        await self._changelog(
            {part: [(SOURCE_KEY, source.encode())] for part, source in sources.items()}
        )

    async def states(self, states: Mapping[int, Sequence[tuple[bytes, bytes]]]) -> None:
        """Send whole window records, by partition of the changelog: keys and states."""
        await self._changelog(states)

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
            except MessageSizeTooLargeError as error:
                self._shrink(error)
            except kafka.TRANSIENT as error:
                if not kafka.is_transient(error):
                    raise
                log.warning("Kafka takes no messages, sending again: %r", error, extra=AWAY)
                self._metrics.send_retries.inc()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            await self._renew()

    def _shrink(self, error: MessageSizeTooLargeError) -> None:
        """Make batches smaller for a topic that takes less, at last dead letters without values.

        Raises:
            MessageSizeTooLargeError: when a topic does not take even that.
        """
        if self._batch_bytes > LEAST_RECORDS_BYTES:
            self._batch_bytes = max(self._batch_bytes // SHRINK, LEAST_RECORDS_BYTES)
            log.warning(
                "a topic's max.message.bytes is below what is sent together; batches have at most "
                "%d bytes from here on", self._batch_bytes,
            )  # fmt: skip
        elif self._keeps_values:
            self._keeps_values = False
            log.warning("the dead letters of a batch go without key, value and headers: %r", error)
        else:
            raise error

    async def _renew(self) -> None:
        """Replace the client: one that gave up a batch does not know what the broker has of it."""
        await kafka.abandon(self._producer)
        self._producer = self._new_producer()
        try:
            await self._producer.start()
        except kafka.TRANSIENT as error:
            log.warning("Kafka is out of reach: %r", error, extra=AWAY)

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
            self.skew_s = (now_ms() - appended_ms) / 1000
            self._metrics.clock_skew_seconds.set(self.skew_s)


def dead_letter(message: Consumed, error: InvalidCandle, *, keeps_value: bool = True) -> Record:
    """Return the dead letter of a message: all of it, or the part that was kept.

    Where something was cut the headers give the length and SHA-256 of the whole, and where the
    original is.

    Args:
        message: as it was read.
        error: why it is put aside.
        keeps_value: whether key, value and headers go along; the last resort is without.
    """
    key, value = message.key, message.value
    headers = pairs(message.headers)
    about = {
        "topic": message.topic,
        "partition": str(message.partition),
        "offset": str(message.offset),
        "reason": error.reason.value,
        "detail": error.detail,
    }
    if isinstance(value, PartialValue):
        about |= value.about
    if not keeps_value:
        about = measures("value", value or b"") | about
        key, value, headers = None, b"", []
    ours = [(ABOUT_PREFIX + name, content.encode()) for name, content in about.items()]
    return key, value, [*headers, *ours]
