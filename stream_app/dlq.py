"""Dead letters: read from their topic, listed, shown, sent back, and messages put aside by hand.

Whoever writes to the candles topic decides what a dead letter holds, so nothing of it reaches a
terminal as it is, and no more of it is in memory than a few of each partition.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from shared import kafka, permissions
from shared.candles import RejectReason
from shared.kafka import Consumer, Partition, Producer, SilentError
from shared.messages import printable
from shared.terminal import Console
from shared.topics import partitions_of
from stream_app.publisher import ABOUT_PREFIX
from stream_app.rebuild import skip_key
from stream_app.settings import (
    DlqSettings,
    LetterSettings,
    ReplaySettings,
    ShowSettings,
    SkipSettings,
)

REPLAYED_HEADER: Final = f"{ABOUT_PREFIX}replayed-from"

TAKEN: Final = 100
"""Dead letters of a partition that are in memory at once."""

SENT: Final = 500
"""Messages that are sent back before their acknowledgements are awaited."""

ROW: Final = "{:>9} {:>9}  {:<24}  {:<12}  {:<18}  {}"

CUT: Final = ("value-bytes", "key-bytes", "headers-bytes", "batch-offsets")
"""What the worker notes of a message that its dead letter holds in part."""


WAIT_FOR_KAFKA_S: Final = 5.0
"""Longest wait for a broker that may be starting; a person waits for the answer."""


@dataclass(frozen=True)
class DeadLetter:
    """A rejected message and where it lies."""

    partition: int
    offset: int
    rejected_ms: int  # the broker's append, UTC
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def about(self) -> dict[str, str]:
        """What the worker noted: topic, partition, offset, reason and detail."""
        return {
            name.removeprefix(ABOUT_PREFIX): (value or b"").decode(errors="replace")
            for name, value in self.headers
            if name.startswith(ABOUT_PREFIX)
        }

    @property
    def original_headers(self) -> list[tuple[str, bytes | None]]:
        """The headers that the message came with."""
        return [pair for pair in self.headers if not pair[0].startswith(ABOUT_PREFIX)]

    @property
    def is_whole(self) -> bool:
        """True when it holds all of the message."""
        return not self.about.keys() & set(CUT)

    def as_json(self) -> str:
        """Return all of it as one line of JSON."""
        return json.dumps(
            {
                "partition": self.partition,
                "offset": self.offset,
                "rejected": _iso(self.rejected_ms),
                **{f"source_{name}": value for name, value in self.about.items()},
                "key": _text(self.key),
                "value": _text(self.value),
                "headers": {name: _text(value) for name, value in self.original_headers},
            }
        )

    def as_row(self) -> str:
        """Return it as a line for a terminal."""
        about = self.about
        row = ROW.format(
            self.partition, self.offset, _iso(self.rejected_ms), _text(self.key) or "",
            about.get("reason", ""), about.get("detail", ""),
        )  # fmt: skip
        return printable(row)


def matches(letter: DeadLetter, settings: LetterSettings) -> bool:
    """Tell whether a dead letter passes the filters."""
    since_ms = settings.since_ms
    return (
        (not settings.reason or letter.about.get("reason") in settings.reason)
        and (not settings.symbols or _text(letter.key) in settings.symbols)
        and (since_ms is None or letter.rejected_ms >= since_ms)
        and (settings.partition is None or letter.partition == settings.partition)
        and (settings.offset is None or letter.offset == settings.offset)
    )


def check(settings: LetterSettings) -> None:
    """Refuse a filter that can match nothing; raises ``ValueError``."""
    unknown = set(settings.reason) - {reason.value for reason in RejectReason}
    if unknown:
        known = ", ".join(RejectReason)
        raise ValueError(f"reason: expected one of {known}, got {', '.join(sorted(unknown))}")


def run(settings: DlqSettings, console: Console) -> None:
    """Carry out a command; raises ``ValueError`` for what is not there, ``KafkaError``."""
    asyncio.run(_run(settings, console))


async def _run(settings: DlqSettings, console: Console) -> None:
    if isinstance(settings, SkipSettings):
        await permissions.check(
            settings, permissions.of_skip(settings, settings.group), timeout_s=0.0
        )
        await _skip(settings, console)
        return
    assert isinstance(settings, LetterSettings)  # noqa: S101 - there are no others
    check(settings)
    sends = isinstance(settings, ReplaySettings) and not settings.dry_run
    needed = [
        right for right in permissions.of_letters(settings) if sends or right.operation == "Read"
    ]
    await permissions.check(settings, needed, timeout_s=WAIT_FOR_KAFKA_S)
    if isinstance(settings, ReplaySettings):
        await _replay(settings, console)
    elif isinstance(settings, ShowSettings):
        async for letter in read(settings):
            _line(console, letter.as_json())
    else:
        await _list(settings, console)


async def read(settings: LetterSettings) -> AsyncIterator[DeadLetter]:
    """Yield the dead letters that pass the filters, the oldest first, up to the limit.

    Raises:
        ValueError: when there is no such topic.
        KafkaError: when it cannot be read.
    """
    numbers = await partitions_of(settings, settings.dlq_topic)
    if not numbers:
        raise ValueError(
            f"topic {settings.dlq_topic}: does not exist at {settings.bootstrap}; a worker makes it"
        )
    parts = [
        Partition(settings.dlq_topic, number)
        for number in numbers
        if settings.partition in {None, number}
    ]
    left = settings.limit
    async with aclosing(_letters(settings, parts)) as letters:
        async for letter in letters:
            if matches(letter, settings):
                yield letter
                left -= 1
            if not left:
                return


async def _letters(
    settings: LetterSettings, parts: list[Partition]
) -> AsyncGenerator[DeadLetter, None]:
    """Yield all dead letters of partitions in the order of their time."""
    async with kafka.connected(kafka.consumer(settings)) as consumer:
        starts = await consumer.beginning_offsets(parts)
        ends = await consumer.end_offsets(parts)
        if settings.offset is not None:
            starts = {part: max(start, settings.offset) for part, start in starts.items()}
            ends = {part: min(end, settings.offset + 1) for part, end in ends.items()}
        consumer.assign(parts)
        for part in parts:
            consumer.seek(part, starts[part])
        streams = [_of_partition(consumer, part, ends[part]) for part in parts]
        try:
            heads = []
            for number, stream in enumerate(streams):
                if (letter := await anext(stream, None)) is not None:
                    heads.append((letter.rejected_ms, number, letter))
            heapq.heapify(heads)
            while heads:
                _, number, letter = heads[0]
                yield letter
                following = await anext(streams[number], None)
                if following is None:
                    heapq.heappop(heads)
                else:
                    heapq.heapreplace(heads, (following.rejected_ms, number, following))
        finally:
            for stream in streams:
                await stream.aclose()


async def _of_partition(
    consumer: Consumer, part: Partition, end: int
) -> AsyncGenerator[DeadLetter, None]:
    loop = asyncio.get_running_loop()
    heard_s = loop.time()
    while await consumer.position(part) < end:
        fetched = await consumer.getmany(part, timeout_ms=kafka.POLL_MS, max_records=TAKEN)
        for records in fetched.values():
            heard_s = loop.time()
            for record in records:
                if record.offset < end:
                    yield _letter(record)
        if loop.time() - heard_s > kafka.SILENCE_S:
            raise SilentError(f"no message for {kafka.SILENCE_S:g} s before the end of {part}")


def _letter(record: kafka.Record) -> DeadLetter:
    return DeadLetter(
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple(record.headers),
    )


async def _list(settings: LetterSettings, console: Console) -> None:
    counts: Counter[str] = Counter()
    async for letter in read(settings):
        if not counts:
            _line(console, ROW.format("partition", "offset", "rejected", "key", "reason", "detail"))
        _line(console, letter.as_row())
        counts[letter.about.get("reason", "unknown")] += 1
    said = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    total = _counted(counts.total(), "dead letter")
    _line(console, total + (f": {printable(said)}" if said else ""))


async def _replay(settings: ReplaySettings, console: Console) -> None:
    sent = left_out = 0
    async with kafka.connected(kafka.producer(settings)) as producer:
        topics = settings.candles_topic, settings.context_topic
        partitions = {topic: await partitions_of(settings, topic) for topic in topics}
        waiting: list[asyncio.Future[Any]] = []
        async for letter in read(settings):
            if not letter.is_whole:
                left_out += 1
                continue
            sent += 1
            if not settings.dry_run:
                waiting.append(await send_back(producer, settings, letter, partitions))
            if len(waiting) >= SENT:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)
    verb = "would be sent" if settings.dry_run else "sent"
    _line(console, f"{_counted(sent, 'message')} {verb} to where they came from")
    if left_out:
        _line(
            console,
            f"{left_out} left out: their dead letters hold a part of them; the originals are at "
            "source_topic, source_partition, source_offset of dlq show",
        )


async def send_back(
    producer: Producer,
    settings: ReplaySettings,
    letter: DeadLetter,
    partitions: Mapping[str, Sequence[int]],
) -> asyncio.Future[Any]:
    """Hand the original message to the client; return the future of its acknowledgement.

    Whoever may write dead letters names any topic in one: it goes to the candles or to the context.

    Args:
        producer: connected.
        settings: the topics' names.
        letter: to send back.
        partitions: the numbers of the partitions of both topics.
    """
    origin = f"{settings.dlq_topic}/{letter.partition}/{letter.offset}".encode()
    headers = [*letter.original_headers, (REPLAYED_HEADER, origin)]
    # the source partition, since the order and the window of a key are kept there
    given = letter.about.get("partition", "")
    source = int(given) if given.isascii() and given.isdecimal() and len(given) < 9 else -1
    topic, context = settings.candles_topic, settings.context_topic
    if letter.about.get("topic") == context and source in partitions[context]:
        topic = context
    partition = source if source in partitions[topic] else letter.partition
    future: asyncio.Future[Any] = await producer.send(
        topic, letter.value, letter.key, partition, headers=headers
    )
    return future


async def _skip(settings: SkipSettings, console: Console) -> None:
    """Note in the changelog that the worker puts a message aside unread at its next start.

    Raises:
        ValueError: when there is no such message, or no changelog.
    """
    topic, number, offset = settings.candles_topic, settings.partition, settings.offset
    for name in (topic, settings.changelog_topic):
        numbers = await partitions_of(settings, name)
        if number not in numbers:
            raise ValueError(
                f"topic {name}: expected a partition {number} at {settings.bootstrap}, got "
                + (f"partitions 0 to {max(numbers)}" if numbers else "no such topic")
            )
    part = Partition(topic, number)
    async with kafka.connected(kafka.consumer(settings)) as consumer:
        [begin] = (await consumer.beginning_offsets([part])).values()
        [end] = (await consumer.end_offsets([part])).values()
    if not begin <= offset < end:
        raise ValueError(
            f"offset: expected one of partition {number}'s, {begin} to {end - 1}, got {offset}"
        )
    async with kafka.connected(kafka.producer(settings)) as producer:
        await producer.send_and_wait(
            settings.changelog_topic, b"{}", skip_key(offset), partition=number
        )
    _line(
        console,
        f"{topic}, partition {number}, offset {offset}: the workers of group {settings.group} put "
        "it aside unread at their next start",
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _line(console: Console, text: str) -> None:
    console.out(text, highlight=False)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
