"""Reads the newest candles of each symbol from the topic, after which a restart resumes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from producer.source import RECHECKED
from shared.candles import Candle, InvalidCandle, decode_candle

FIRST_SPAN: Final = 1000
"""Messages in the first span read at a partition's end; each further span is four times as long."""

_ANY_TIME_MS: Final = 1 << 53
_POLL_MS: Final = 10_000


class ResumeError(Exception):
    """A topic whose newest messages cannot be read."""


class Tail:
    """Newest candles of a partition, read span by span from its end; in memory, no I/O."""

    def __init__(self, symbols: Iterable[str], interval: str) -> None:
        self.newest: dict[str, list[Candle]] = {}
        self._missing = {symbol.encode() for symbol in symbols}
        self._interval = interval

    @property
    def is_complete(self) -> bool:
        """Whether the newest candle of every symbol is known."""
        return not self._missing

    def read(self, messages: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Add the keys and values of the span before all spans read so far, in their order.

        Everything but candles of a wanted symbol and interval is skipped: others may write to
        the topic too. Of each symbol the newest candles of the span are kept, of several with
        one opening time the last: it corrects the others.
        """
        candles: dict[str, dict[int, Candle]] = {}
        for key, value in messages:
            candle = self._candle(key, value) if key in self._missing else None
            if candle is not None:
                candles.setdefault(candle.symbol, {})[candle.open_ms] = candle
        for symbol, by_time in candles.items():
            self.newest[symbol] = [by_time[at] for at in sorted(by_time)[-RECHECKED:]]
        self._missing -= {symbol.encode() for symbol in candles}

    def _candle(self, key: bytes | None, value: bytes | None) -> Candle | None:
        try:
            candle = decode_candle(key, value, _ANY_TIME_MS)
        except InvalidCandle:
            return None
        return candle if candle.interval == self._interval else None


def spans(beginning: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield ``[from, to)`` offsets that cover ``[beginning, end)`` backwards, ever longer."""
    length = FIRST_SPAN
    while end > beginning:
        start = max(beginning, end - length)
        yield start, end
        end, length = start, length * 4


async def newest_published(
    bootstrap: str,
    topic: str,
    partitions: Sequence[int],
    symbols: Iterable[str],
    interval: str,
    *,
    since_ms: int = 0,
) -> dict[str, list[Candle]]:
    """Return the newest candles in the topic, oldest first, for each symbol that has one.

    A symbol's candles lie in one partition, in order. That is read backwards from its end until
    all its symbols are found; for a symbol without a candle, to its beginning or ``since_ms``.

    Args:
        bootstrap: Kafka's host:port.
        topic: of candles.
        partitions: the numbers of all its partitions.
        symbols: to look for.
        interval: of the candles to look for.
        since_ms: time before which appended candles are not read.

    Raises:
        ResumeError: when the topic cannot be read.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False
    )
    try:
        await consumer.start()
        by_partition = _symbols_by_partition(topic, partitions, symbols)
        return await _newest(consumer, by_partition, interval, since_ms)
    except KafkaError as error:
        raise ResumeError(f"topic {topic}: its end cannot be read: {error!r}") from error
    finally:
        await consumer.stop()


async def _newest(
    consumer: Any, by_partition: dict[TopicPartition, list[str]], interval: str, since_ms: int
) -> dict[str, list[Candle]]:
    consumer.assign(list(by_partition))
    ends = await consumer.end_offsets(list(by_partition))
    beginnings = await _beginnings(consumer, by_partition, ends, since_ms)
    newest: dict[str, list[Candle]] = {}
    for partition, symbols in by_partition.items():
        tail = Tail(symbols, interval)
        for start, end in spans(beginnings[partition], ends[partition]):
            tail.read(await _read_span(consumer, partition, start, end))
            if tail.is_complete:
                break
        newest |= tail.newest
    return newest


async def _beginnings(
    consumer: Any,
    partitions: Iterable[TopicPartition],
    ends: dict[TopicPartition, int],
    since_ms: int,
) -> dict[TopicPartition, int]:
    if not since_ms:
        beginnings: dict[TopicPartition, int] = await consumer.beginning_offsets(list(partitions))
        return beginnings
    offsets = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
    # None: nothing was appended since
    return {
        partition: ends[partition] if at is None else at.offset for partition, at in offsets.items()
    }


def _symbols_by_partition(
    topic: str, partitions: Sequence[int], symbols: Iterable[str]
) -> dict[TopicPartition, list[str]]:
    partition_of = DefaultPartitioner()  # the sink's client has the same
    numbers = sorted(partitions)
    by_partition: dict[TopicPartition, list[str]] = defaultdict(list)
    for symbol in symbols:
        number = partition_of(symbol.encode(), numbers, numbers)
        by_partition[TopicPartition(topic, number)].append(symbol)
    return dict(by_partition)


async def _read_span(
    consumer: Any, partition: TopicPartition, start: int, end: int
) -> list[tuple[bytes | None, bytes | None]]:
    consumer.seek(partition, start)
    messages: list[tuple[bytes | None, bytes | None]] = []
    position = start
    while position < end:
        fetched = await consumer.getmany(partition, timeout_ms=_POLL_MS)
        records = fetched.get(partition, ())
        messages += [(record.key, record.value) for record in records if record.offset < end]
        before, position = position, await consumer.position(partition)
        if position == before:
            raise ResumeError(f"{partition}: expected messages up to {end}, got none at {position}")
    return messages
