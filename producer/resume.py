"""Reads the newest candles of each symbol from the topic, after which a restart resumes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from producer.source import RECHECKED
from producer.target import Target, candles, symbol_in
from shared import kafka
from shared.candles import Candle, InvalidCandle, decode_candle
from shared.kafka import Consumer, DefaultPartitioner, KafkaError, KafkaSettings, Partition

FIRST_SPAN: Final = 1000
"""Messages in the first span read at a partition's end; each further span is four times as long."""

_ANY_TIME_MS: Final = 1 << 53


Decode = Callable[[bytes | None, bytes | None, int], Candle]
"""Returns the candle of key, value and time; raises ``InvalidCandle``."""


class ResumeError(Exception):
    """A topic whose newest messages cannot be read."""


class Tail:
    """Newest candles of a partition, read span by span from its end; in memory, no I/O."""

    def __init__(
        self, symbols: Iterable[str], interval: str, decode: Decode = decode_candle
    ) -> None:
        self.newest: dict[str, list[Candle]] = {}
        self._missing = {symbol.encode() for symbol in symbols}
        self._interval = interval
        self._decode = decode

    @property
    def is_complete(self) -> bool:
        """True when the newest candle of every symbol is known."""
        return not self._missing

    def read(self, messages: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Add the keys and values of the span before all spans read so far, in their order.

        Everything but candles of a wanted symbol and interval is skipped: others may write to
        the topic too. Of each symbol the newest candles of the span are kept, of several with
        one opening time the last: it corrects the others.
        """
        found: dict[str, dict[int, Candle]] = {}
        for key, value in messages:
            candle = self._candle(key, value) if symbol_in(key) in self._missing else None
            if candle is not None:
                found.setdefault(candle.symbol, {})[candle.open_ms] = candle
        for symbol, by_time in found.items():
            self.newest[symbol] = [by_time[at] for at in sorted(by_time)[-RECHECKED:]]
        self._missing -= {symbol.encode() for symbol in found}

    def _candle(self, key: bytes | None, value: bytes | None) -> Candle | None:
        try:
            candle = self._decode(key, value, _ANY_TIME_MS)
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
    settings: KafkaSettings,
    partitions: Sequence[int],
    symbols: Iterable[str],
    interval: str,
    *,
    since_ms: int = 0,
    target: Target | None = None,
) -> dict[str, list[Candle]]:
    """Return the newest candles in the topic, oldest first, for each symbol that has one.

    A symbol's candles lie in one partition, in order. That is read backwards from its end until
    all its symbols are found; for a symbol without a candle, to its beginning or ``since_ms``.

    Args:
        settings: where Kafka is, and the names of its topics.
        partitions: the numbers of all its partitions.
        symbols: to look for.
        interval: of the candles to look for.
        since_ms: time before which appended candles are not read.
        target: the topic; by default that of candles.

    Waits for the brokers, and says so in the log.

    Raises:
        ResumeError: when the topic cannot be read, whatever the brokers do.
    """
    target = target or candles(settings)
    topic, decode = target.topic, target.decode
    by_partition = _symbols_by_partition(topic, partitions, symbols)

    async def read() -> dict[str, list[Candle]]:
        async with kafka.connected(kafka.consumer(settings)) as consumer:
            return await _newest(consumer, by_partition, interval, since_ms, decode)

    try:
        return await kafka.when_reachable(settings, read)
    except KafkaError as error:
        raise ResumeError(f"topic {topic}: its end cannot be read: {error!r}") from error


async def _newest(
    consumer: Consumer,
    by_partition: dict[Partition, list[str]],
    interval: str,
    since_ms: int,
    decode: Decode,
) -> dict[str, list[Candle]]:
    ends = await consumer.end_offsets(list(by_partition))
    beginnings = await _beginnings(consumer, by_partition, ends, since_ms)
    newest: dict[str, list[Candle]] = {}
    for partition, symbols in by_partition.items():
        tail = Tail(symbols, interval, decode)
        for start, end in spans(beginnings[partition], ends[partition]):
            tail.read(await _read_span(consumer, partition, start, end))
            if tail.is_complete:
                break
        newest |= tail.newest
    return newest


async def _beginnings(
    consumer: Consumer,
    partitions: Iterable[Partition],
    ends: dict[Partition, int],
    since_ms: int,
) -> dict[Partition, int]:
    if not since_ms:
        beginnings: dict[Partition, int] = await consumer.beginning_offsets(list(partitions))
        return beginnings
    offsets = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
    # None: nothing was appended since
    return {part: ends[part] if at is None else at.offset for part, at in offsets.items()}


def _symbols_by_partition(
    topic: str, partitions: Sequence[int], symbols: Iterable[str]
) -> dict[Partition, list[str]]:
    partition_of = DefaultPartitioner()  # the sink's client has the same
    numbers = sorted(partitions)
    by_partition: dict[Partition, list[str]] = defaultdict(list)
    for symbol in symbols:
        number = partition_of(symbol.encode(), numbers, numbers)
        by_partition[Partition(topic, number)].append(symbol)
    return dict(by_partition)


async def _read_span(
    consumer: Consumer, partition: Partition, start: int, end: int
) -> list[tuple[bytes | None, bytes | None]]:
    messages: list[tuple[bytes | None, bytes | None]] = []
    async for records in kafka.read_to_end(consumer, {partition: start}, {partition: end}):
        messages += [(record.key, record.value) for record in records]
    return messages
