"""Where a restarted producer goes on: the newest candle of each symbol in the topic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from shared.candles import InvalidCandle, decode_candle

FIRST_SPAN: Final = 1000
"""Messages looked at first at a partition's end; each further look is four times as long."""

_ANY_TIME_MS: Final = 1 << 53
_POLL_MS: Final = 10_000


class ResumeError(Exception):
    """A topic whose end cannot be read."""


class Tail:
    """What is known of a partition, read span by span from its end. Pure."""

    def __init__(self, symbols: Iterable[str], interval: str) -> None:
        self.newest: dict[str, int] = {}
        self._missing = {symbol.encode() for symbol in symbols}
        self._interval = interval

    @property
    def is_complete(self) -> bool:
        """Whether the newest candle of every symbol is known."""
        return not self._missing

    def read(self, messages: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Take the keys and values of the span before all spans read so far, in their order.

        What is no candle of a wanted symbol and interval is passed over: others may write to
        the topic too. Of each symbol the latest opening time of the span is kept.
        """
        found: dict[str, int] = {}
        for key, value in messages:
            if key in self._missing:
                self._note(found, key, value)
        self.newest |= found
        self._missing -= {symbol.encode() for symbol in found}

    def _note(self, found: dict[str, int], key: bytes | None, value: bytes | None) -> None:
        try:
            candle = decode_candle(key, value, _ANY_TIME_MS)
        except InvalidCandle:
            return
        if candle.interval == self._interval:
            found[candle.symbol] = max(found.get(candle.symbol, -1), candle.open_ms)


def spans(beginning: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield ``[from, to)`` offsets that cover ``[beginning, end)`` backwards, ever longer."""
    length = FIRST_SPAN
    while end > beginning:
        start = max(beginning, end - length)
        yield start, end
        end, length = start, length * 4


async def newest_published(
    bootstrap: str, topic: str, partitions: Sequence[int], symbols: Iterable[str], interval: str
) -> dict[str, int]:
    """Return the opening time of the newest candle in the topic, for each symbol that has one.

    A symbol's candles lie in one partition, in order. That is read from its end backwards until
    its symbols are found, or to its beginning for a symbol that has no candle.

    Args:
        bootstrap: Kafka's host:port.
        topic: of candles.
        partitions: the numbers of all its partitions.
        symbols: the ones to look for.
        interval: of the candles to look for.

    Raises:
        ResumeError: when the topic cannot be read.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False
    )
    try:
        await consumer.start()
        by_partition = _symbols_by_partition(topic, partitions, symbols)
        return await _newest(consumer, by_partition, interval)
    except KafkaError as error:
        raise ResumeError(f"topic {topic}: its end cannot be read: {error!r}") from error
    finally:
        await consumer.stop()


async def _newest(
    consumer: Any, by_partition: dict[TopicPartition, list[str]], interval: str
) -> dict[str, int]:
    consumer.assign(list(by_partition))
    beginnings = await consumer.beginning_offsets(list(by_partition))
    ends = await consumer.end_offsets(list(by_partition))
    newest: dict[str, int] = {}
    for partition, symbols in by_partition.items():
        tail = Tail(symbols, interval)
        for start, end in spans(beginnings[partition], ends[partition]):
            tail.read(await _read_span(consumer, partition, start, end))
            if tail.is_complete:
                break
        newest |= tail.newest
    return newest


def _symbols_by_partition(
    topic: str, partitions: Sequence[int], symbols: Iterable[str]
) -> dict[TopicPartition, list[str]]:
    pick = DefaultPartitioner()  # the one that the sink's client has
    numbers = sorted(partitions)
    chosen: dict[TopicPartition, list[str]] = defaultdict(list)
    for symbol in symbols:
        number = pick(symbol.encode(), numbers, numbers)
        chosen[TopicPartition(topic, number)].append(symbol)
    return dict(chosen)


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
            raise ResumeError(f"{partition}: nothing came from offset {position} of {end}")
    return messages
