"""Dead letters: read from their topic, listed, shown, and sent back once their cause is gone."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from shared import kafka, permissions, process
from shared.candles import RejectReason
from shared.topics import partitions_of
from stream_app.publisher import ABOUT_PREFIX
from stream_app.settings import LetterSettings, ReplaySettings, ShowSettings

REPLAYED_HEADER: Final = f"{ABOUT_PREFIX}replayed-from"


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
    headers: tuple[tuple[str, bytes], ...]

    @property
    def about(self) -> dict[str, str]:
        """What the worker noted: topic, partition, offset, reason and detail."""
        return {
            name.removeprefix(ABOUT_PREFIX): value.decode(errors="replace")
            for name, value in self.headers
            if name.startswith(ABOUT_PREFIX)
        }

    @property
    def original_headers(self) -> list[tuple[str, bytes]]:
        """The headers that the message came with."""
        return [pair for pair in self.headers if not pair[0].startswith(ABOUT_PREFIX)]

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


def run(settings: LetterSettings, console: Console) -> None:
    """Carry out a command; raises ``ValueError`` for what is not there, ``KafkaError``."""
    check(settings)
    asyncio.run(_run(settings, console))


async def _run(settings: LetterSettings, console: Console) -> None:
    sends = isinstance(settings, ReplaySettings) and not settings.dry_run
    needed = [one for one in permissions.of_dlq(settings) if sends or one.operation == "Read"]
    letters = await _read_when_reachable(settings, needed)
    if isinstance(settings, ReplaySettings):
        await _replay(letters, settings, console)
    elif isinstance(settings, ShowSettings):
        for letter in letters:
            console.out(letter.as_json(), highlight=False)
    else:
        _print_list(letters, console)


async def _read_when_reachable(
    settings: LetterSettings, needed: Sequence[permissions.Permission]
) -> list[DeadLetter]:
    try:
        await permissions.check(settings, needed, timeout_s=WAIT_FOR_KAFKA_S)
        return await kafka.when_reachable(
            settings, lambda: read(settings), timeout_s=WAIT_FOR_KAFKA_S
        )
    except kafka.TRANSIENT as error:
        if not kafka.is_transient(error):
            raise
        raise ValueError(
            f"no Kafka answers at {settings.bootstrap}: expected its host:port in --bootstrap or "
            f"CANDLECAST_BOOTSTRAP ({process.in_words(error)})"
        ) from error


async def read(settings: LetterSettings) -> list[DeadLetter]:
    """Return the dead letters that pass the filters, the oldest first, up to the limit."""
    numbers = await partitions_of(settings, settings.dlq_topic)
    if not numbers:
        raise ValueError(f"topic {settings.dlq_topic}: does not exist at {settings.bootstrap}")
    taken: Counter[int] = Counter()  # by partition, each of which is in the order of time
    chosen = []
    async for letter in _letters(settings, numbers):
        if taken[letter.partition] < settings.limit and matches(letter, settings):
            taken[letter.partition] += 1
            chosen.append(letter)
    chosen.sort(key=lambda letter: (letter.rejected_ms, letter.partition, letter.offset))
    return chosen[: settings.limit]


async def _letters(settings: LetterSettings, numbers: list[int]) -> AsyncIterator[DeadLetter]:
    partitions = [kafka.Partition(settings.dlq_topic, number) for number in numbers]
    async with kafka.connected(kafka.consumer(settings)) as consumer:
        starts = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        async for records in kafka.read_to_end(consumer, starts, ends):
            for record in records:
                yield _letter(record)


def _letter(record: kafka.Record) -> DeadLetter:
    return DeadLetter(
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple(record.headers),
    )


async def _replay(letters: list[DeadLetter], settings: ReplaySettings, console: Console) -> None:
    verb = "would be sent" if settings.dry_run else "sent"
    if not settings.dry_run:
        await _send(letters, settings)
    console.print(f"{len(letters)} messages {verb} to {settings.candles_topic}")


async def _send(letters: list[DeadLetter], settings: ReplaySettings) -> None:
    async with kafka.connected(kafka.producer(settings)) as producer:
        sent: list[asyncio.Future[Any]] = []
        for letter in letters:
            origin = f"{settings.dlq_topic}/{letter.partition}/{letter.offset}".encode()
            headers = [*letter.original_headers, (REPLAYED_HEADER, origin)]
            # the source partition, since the order and the window of a key are kept there
            partition = int(letter.about.get("partition", letter.partition))
            sent.append(
                await producer.send(
                    settings.candles_topic, letter.value, letter.key, partition, headers=headers
                )
            )
        await asyncio.gather(*sent)


def _print_list(letters: list[DeadLetter], console: Console) -> None:
    table = Table("partition", "offset", "rejected", "key", "reason", "detail", box=None)
    for letter in letters:
        about = letter.about
        table.add_row(
            str(letter.partition),
            str(letter.offset),
            _iso(letter.rejected_ms),
            _text(letter.key) or "",
            about.get("reason", ""),
            about.get("detail", ""),
        )
    console.print(table)
    counts = Counter(letter.about.get("reason", "unknown") for letter in letters)
    said = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    console.print(f"{len(letters)} dead letters" + (f": {said}" if said else ""))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
