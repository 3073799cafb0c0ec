"""Kafka: where it is, the one factory of its clients, and the one way to read a topic to its end.

No other module makes a client (Faust makes its own), so what every client needs stands here alone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)  # fmt: skip
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, ClassVar, Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import (
    InvalidProducerIdMapping,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.partitioner import DefaultPartitioner
from pydantic import Field

from shared import batches
from shared.access import AccessError, AccessSettings, client_options, explain
from shared.process import WAITING, in_words

__all__ = [
    "DEFAULT_BOOTSTRAP",
    "TRANSIENT",
    "AIOKafkaAdminClient",
    "AccessError",
    "ConfigResource",
    "ConfigResourceType",
    "Consumer",
    "DefaultPartitioner",
    "KafkaConnectionError",
    "KafkaError",
    "KafkaSettings",
    "KafkaTimeoutError",
    "LeaderNotAvailableError",
    "MessageSizeTooLargeError",
    "NewTopic",
    "Partition",
    "Producer",
    "Record",
    "SilentError",
    "TopicAlreadyExistsError",
    "abandon",
    "admin",
    "connected",
    "consumer",
    "explain",
    "follow",
    "for_code",
    "has_reached",
    "is_transient",
    "mend_clients",
    "partition_of",
    "producer",
    "read_to_end",
    "silence",
    "start",
    "when_reachable",
]

log = logging.getLogger(__name__)

T = TypeVar("T")
Consumer = AIOKafkaConsumer
Producer = AIOKafkaProducer
Partition = TopicPartition
Record = ConsumerRecord[bytes, bytes]
Client = TypeVar("Client", AIOKafkaConsumer, AIOKafkaProducer)
Starting = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient

DEFAULT_BOOTSTRAP: Final = "127.0.0.1:9092"
"""Kafka's address where none is given: the one that the documents name."""

POLL_MS: Final = 200
"""Longest wait of one read for messages; a reader looks around after it."""

REQUEST_S: Final = 15.0
"""Longest wait for an answer of the broker: a half-open connection shows no other way."""

RETRY_S: Final = 1.0
"""Pause before what needs a broker is tried again."""

SLOW_S: Final = 10.0
"""Time between two lines of the log while a broker is waited for."""

CLOSE_S: Final = 0.5
"""Longest wait for a client that is given up."""

MAX_TAKEN: Final = 1000
"""Most records taken at once, so that large ones have a bound together."""

CODEC: Final = "zstd"
"""The codec of what we write: the smallest for the least time (``python -m benchmarks codecs``)."""

SILENCE_S: Final = 10.0
"""Time without a message after which a topic that has more counts as unreadable."""


class SilentError(KafkaError):
    """A topic of which nothing comes though it has more."""

    retriable = True


class KafkaSettings(AccessSettings):
    """Where Kafka is, how it is reached, and the names of the topics."""

    help_title: ClassVar[str] = "Kafka"

    bootstrap: str = Field(DEFAULT_BOOTSTRAP, description="Kafka's host:port, several by comma")
    candles_topic: str = Field("market.candles.v1", description="topic of closed candles")
    forecasts_topic: str = Field("market.forecasts.v1", description="topic of forecasts")
    scores_topic: str = Field("market.scores.v1", description="topic of scores of forecasts")
    context_topic: str = Field(
        "market.context.v1", description="compacted topic of the candles of context symbols"
    )
    partitions: int = Field(
        8,
        ge=1,
        le=1024,
        description="partitions of the candles, forecasts, scores and window topics",
    )
    replication: int = Field(
        1, ge=1, le=7, description="replicas of each partition; with several one may be away"
    )
    candles_days: int = Field(
        400, ge=0, description="days that candles are kept in a topic that is made; 0 forever"
    )
    outputs_days: int = Field(30, ge=0, description="the same for forecasts and dead letters")

    @property
    def dlq_topic(self) -> str:
        """The dead-letter topic of the candles."""
        return f"{self.candles_topic}.dlq"


def consumer(kafka: KafkaSettings, **options: Any) -> Consumer:
    """Return a consumer without a group, which so leaves no trace in the broker; not started."""
    given = _connection(kafka) | {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
    return AIOKafkaConsumer(**given | options)


def producer(kafka: KafkaSettings, *, max_batch_bytes: int = 1 << 14) -> Producer:
    """Return a producer that loses and repeats nothing while it runs; not started.

    Args:
        kafka: where Kafka is.
        max_batch_bytes: most bytes of one partition's records that go together.
    """
    return AIOKafkaProducer(
        **_connection(kafka),
        enable_idempotence=True,
        acks="all",
        max_batch_size=max_batch_bytes,
        compression_type=CODEC,
    )


def admin(kafka: KafkaSettings) -> AIOKafkaAdminClient:
    """Return a client that makes and describes topics; not started."""
    return AIOKafkaAdminClient(**_connection(kafka))


def _connection(kafka: KafkaSettings) -> dict[str, Any]:
    """Return what every client is given to reach the broker."""
    mend_clients()
    return {
        "bootstrap_servers": kafka.bootstrap,
        "request_timeout_ms": int(REQUEST_S * 1000),
        **client_options(kafka),
    }


_send: Final[Any] = AIOKafkaConnection.send
_bootstrap: Final[Any] = AIOKafkaClient.bootstrap


def mend_clients() -> None:
    """Let aiokafka's clients, Faust's too, pass over what would end them for good.

    Records and batches that cannot be read come as ``shared.batches`` has it. A connection that
    uvloop has closed raises aiokafka's own error. One that no broker answers says what to do.

    uvloop raises ``RuntimeError`` for a write to a closed transport, where aiokafka expects an
    ``OSError``: one reset in ten ended a client for good. Tried with 541 resets: none does so.
    """

    def send(connection: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Any:  # noqa: FBT001, FBT002 - aiokafka's own
        try:
            return _send(connection, request, expect_response)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection was closed: {error}") from error

    async def bootstrap(client: AIOKafkaClient) -> None:
        try:
            await _bootstrap(client)
        except KafkaConnectionError as error:
            addresses = ",".join(f"{host}:{port}" for host, port, _ in client.hosts)
            raise KafkaConnectionError(
                f"no Kafka answers at {addresses}: expected its host:port in --bootstrap or "
                "CANDLECAST_BOOTSTRAP"
            ) from error

    AIOKafkaConnection.send = send  # type: ignore[method-assign]
    AIOKafkaClient.bootstrap = bootstrap  # type: ignore[method-assign]
    batches.install()


TRANSIENT: Final = (KafkaError, OSError, RuntimeError, TimeoutError)
"""Types of what a client raises while brokers, networks or leaders come and go.

uvloop raises ``RuntimeError`` for a transport that is closed, which leaves aiokafka as it is.
"""


def is_transient(error: BaseException) -> bool:
    """Tell whether an error passes once the broker is back; others are its last word."""
    if isinstance(error, KafkaError):
        renewable = (OutOfOrderSequenceNumber, ProducerFenced, InvalidProducerIdMapping)
        lost = (KafkaConnectionError, KafkaTimeoutError, ProducerClosed, *renewable)
        return bool(error.retriable) or isinstance(error, lost)
    return isinstance(error, OSError | RuntimeError | TimeoutError)


async def when_reachable(
    kafka: KafkaSettings, work: Callable[[], Awaitable[T]], *, timeout_s: float = math.inf
) -> T:
    """Repeat work until the broker lets it succeed; return its result.

    The log says that it waits: at the first failure, and each ``SLOW_S`` seconds.

    Raises:
        AccessError: when a broker refuses this client; it says the cause and the setting.
        Exception: what ``work`` raised last, when it will not pass or ``timeout_s`` is over.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    cause = ""

    def say() -> None:
        said = cause or "no answer yet"
        log.warning("waiting for Kafka at %s: %s", kafka.bootstrap, said, extra=WAITING)

    async def say_often() -> None:
        while True:
            await asyncio.sleep(SLOW_S)
            say()

    saying = asyncio.create_task(say_often())
    try:
        while True:
            try:
                return await work()
            except TRANSIENT as error:
                if not is_transient(error):
                    raise
                await explain(kafka, kafka.bootstrap)
                if loop.time() >= deadline:
                    raise
                is_first, cause = not cause, handles_left() or in_words(error)
                if is_first:
                    say()
            await asyncio.sleep(RETRY_S)
    finally:
        saying.cancel()


def handles_left() -> str:
    """Return how to mend that this process can open nothing more, "" while it can.

    To the client a lack of file handles looks like a broker that is away.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno not in {errno.EMFILE, errno.ENFILE}:
            raise
        return f"{error.strerror}, here and not there: raise the limit of file handles (ulimit -n)"
    return ""


def silence(client: Producer) -> None:
    """Let a producer begin no further batch, from now on."""
    sender = client._sender  # noqa: SLF001 - ``stop`` waits for it to send everything
    if sender is not None and sender.sender_task is not None:
        sender.sender_task.cancel()


async def abandon(client: Producer) -> None:
    """Close a producer without sending what it still holds; whatever fails is over anyway.

    Its sender ends first: it would connect again, and send after the client that follows.
    """
    silence(client)
    with suppress(*TRANSIENT):
        async with asyncio.timeout(CLOSE_S):
            await client.client.close()
    with suppress(*TRANSIENT):
        async with asyncio.timeout(CLOSE_S):
            await client.stop()


async def start(client: Starting, kafka: KafkaSettings) -> None:
    """Connect a client.

    Raises:
        AccessError: when a broker refuses it, with the cause and the setting.
        KafkaConnectionError: when none answers.
    """
    try:
        await client.start()  # type: ignore[no-untyped-call]
    except KafkaConnectionError:
        await explain(kafka, kafka.bootstrap)
        raise


@asynccontextmanager
async def connected(client: Client) -> AsyncIterator[Client]:
    """Connect a consumer or producer, and disconnect it however the context ends."""
    try:
        await client.start()
        yield client
    finally:
        await client.stop()


async def follow(
    reader: Consumer,
    starts: Mapping[Partition, int],
    *,
    most: int = MAX_TAKEN,
    wanted: Callable[[], Iterable[Partition]] = tuple,
) -> AsyncGenerator[list[Record], None]:
    """Yield what is in partitions from the given offsets on, and then what comes, forever.

    Records are in order within a partition. A list is empty when nothing has come for a while.

    Args:
        reader: a consumer that is connected; it is assigned these partitions.
        starts: where to begin in each partition.
        most: most records in a list.
        wanted: asked before each list for the partitions that it may be from; none are all. To
            pause the others would be dear: aiokafka throws away what it has fetched of them, and
            leaves that to Python's collector.
    """
    reader.assign(list(starts))
    for partition, offset in starts.items():
        reader.seek(partition, offset)
    while True:
        fetched = await reader.getmany(*wanted(), timeout_ms=POLL_MS, max_records=most)
        yield [record for records in fetched.values() for record in records]


async def read_to_end(
    reader: Consumer, starts: Mapping[Partition, int], ends: Mapping[Partition, int]
) -> AsyncIterator[list[Record]]:
    """Yield the records of partitions from ``starts`` up to ``ends``, which it leaves out.

    Raises:
        SilentError: when the broker has sent nothing for a while though there is more.
    """
    ends = {part: ends[part] for part in starts if starts[part] < ends[part]}
    if not ends:
        return
    stops: Mapping[tuple[str, int], int] = {
        (part.topic, part.partition): end for part, end in ends.items()
    }
    loop = asyncio.get_running_loop()
    heard_s = loop.time()
    reading = follow(reader, {part: starts[part] for part in ends})
    async with aclosing(reading):
        async for records in reading:
            # a plain tuple is as good a key as a ``Partition``, and a tenth of the time
            yield [
                record
                for record in records
                if record.offset < stops[record.topic, record.partition]
            ]
            if await has_reached(reader, ends):
                return
            if records:
                heard_s = loop.time()
            elif loop.time() - heard_s > SILENCE_S:
                names = ", ".join(f"{name.topic}/{name.partition}" for name in ends)
                raise SilentError(f"no message for {SILENCE_S:g} s before the end of {names}")


async def has_reached(reader: Consumer, ends: Mapping[Partition, int]) -> bool:
    """Tell whether a consumer has read every partition up to the given offset."""
    for partition, end in ends.items():
        if await reader.position(partition) < end:
            return False
    return True


def partition_of(record: Record) -> Partition:
    """Return the partition that a record lies in."""
    return TopicPartition(record.topic, record.partition)
