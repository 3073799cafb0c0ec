"""Where a restarted producer goes on: the newest candles of each symbol in the topic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from producer.yahoo.published import RECHECKED
from shared.candles import Candle, InvalidCandle, decode_candle

FIRST_SPAN: Final = 1000
"""Messages looked at first at a partition's end; each further look is four times as long."""

_ANY_TIME_MS: Final = 1 << 53
_POLL_MS: Final = 10_000


class ResumeError(Exception):
    """A topic whose end cannot be read."""


class Tail:
    """What is known of a partition, read span by span from its end. Pure."""

    def __init__(self, symbols: Iterable[str], interval: str) -> None:
        self.newest: dict[str, list[Candle]] = {}
        self._missing = {symbol.encode() for symbol in symbols}
        self._interval = interval

    @property
    def is_complete(self) -> bool:
        """Whether the newest candle of every symbol is known."""
        return not self._missing

    def read(self, messages: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Take the keys and values of the span before all spans read so far, in their order.

        What is no candle of a wanted symbol and interval is passed over: others may write to
        the topic too. Of each symbol the newest candles of the span are kept, of several with
        one opening time the last: it corrects the others.
        """
        found: dict[str, dict[int, Candle]] = {}
        for key, value in messages:
            if key in self._missing:
                self._note(found, key, value)
        for symbol, candles in found.items():
            self.newest[symbol] = [candles[at] for at in sorted(candles)[-RECHECKED:]]
        self._missing -= {symbol.encode() for symbol in found}

    def _note(
        self, found: dict[str, dict[int, Candle]], key: bytes | None, value: bytes | None
    ) -> None:
        try:
            candle = decode_candle(key, value, _ANY_TIME_MS)
        except InvalidCandle:
            return
        if candle.interval == self._interval:
            found.setdefault(candle.symbol, {})[candle.open_ms] = candle


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

    A symbol's candles lie in one partition, in order. That is read from its end backwards until
    its symbols are found; for a symbol that has no candle to its beginning, or to where it was
    at ``since_ms``.

    Args:
        bootstrap: Kafka's host:port.
        topic: of candles.
        partitions: the numbers of all its partitions.
        symbols: the ones to look for.
        interval: of the candles to look for.
        since_ms: candles appended earlier are not looked for.

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
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
    # None: nothing was appended since
    return {one: ends[one] if at is None else at.offset for one, at in found.items()}


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
