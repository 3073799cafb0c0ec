"""``python -m stream_app dlq``: look at dead letters, and send them back once the cause is gone."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from shared.candles import RejectReason
from shared.settings import CommaSeparated, KafkaSettings
from shared.topics import partitions_of
from stream_app.publisher import ABOUT_PREFIX

REPLAYED_HEADER: Final = f"{ABOUT_PREFIX}replayed-from"


class Action(StrEnum):
    """What to do with the dead letters that pass the filters."""

    LIST = "list"
    SHOW = "show"
    REPLAY = "replay"


class DlqSettings(KafkaSettings):
    """Look at the dead letters, or send them back to the candles topic.

    list: a line for each, and counts by reason. show: each whole, as JSON lines. replay: send the
    original keys, values and headers back; try --dry-run first. Dead letters stay where they
    are; one that is still invalid comes back as a new one.

    python -m stream_app dlq list --reason not_json
    python -m stream_app dlq replay --symbols AAPL --since 2026-01-31T12:00 --dry-run
    """

    action: CliPositionalArg[Action] = Field(description="list, show or replay")
    reason: CommaSeparated = Field((), description="only these reasons, by comma")
    symbols: CommaSeparated = Field((), description="only messages with these keys, by comma")
    since: datetime | None = Field(None, description="only rejected since then (ISO 8601, UTC)")
    partition: int | None = Field(None, ge=0, description="only of this dead-letter partition")
    offset: int | None = Field(None, ge=0, description="only the one at this dead-letter offset")
    limit: int = Field(1000, ge=1, description="at most so many, the oldest first")
    dry_run: bool = Field(default=False, description="replay: only say what would be sent")


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


def matches(letter: DeadLetter, settings: DlqSettings) -> bool:
    """Tell whether a dead letter passes the filters."""
    since_ms = None if settings.since is None else _utc_ms(settings.since)
    return (
        (not settings.reason or letter.about.get("reason") in settings.reason)
        and (not settings.symbols or _text(letter.key) in settings.symbols)
        and (since_ms is None or letter.rejected_ms >= since_ms)
        and (settings.partition is None or letter.partition == settings.partition)
        and (settings.offset is None or letter.offset == settings.offset)
    )


def check(settings: DlqSettings) -> None:
    """Refuse a filter that can match nothing; raises ``ValueError``."""
    unknown = set(settings.reason) - {reason.value for reason in RejectReason}
    if unknown:
        known = ", ".join(RejectReason)
        raise ValueError(f"reason: expected one of {known}, got {', '.join(sorted(unknown))}")


def run(settings: DlqSettings, console: Console) -> None:
    """Carry out the action; raises ``ValueError`` for what is not there, ``KafkaError``."""
    check(settings)
    asyncio.run(_run(settings, console))


async def _run(settings: DlqSettings, console: Console) -> None:
    letters = await read(settings)
    if settings.action is Action.LIST:
        _print_list(letters, console)
    elif settings.action is Action.SHOW:
        for letter in letters:
            console.out(letter.as_json(), highlight=False)
    else:
        await _replay(letters, settings, console)


async def read(settings: DlqSettings) -> list[DeadLetter]:
    """Return the dead letters that pass the filters, the oldest first, up to the limit."""
    numbers = await partitions_of(settings.bootstrap, settings.dlq_topic)
    partitions = [TopicPartition(settings.dlq_topic, number) for number in numbers]
    if not partitions:
        raise ValueError(f"topic {settings.dlq_topic}: does not exist at {settings.bootstrap}")
    taken: Counter[int] = Counter()  # by partition, each of which is in the order of time
    found = []
    async with _consumer(settings.bootstrap) as consumer:
        async for one in _letters(consumer, partitions):
            if taken[one.partition] < settings.limit and matches(one, settings):
                taken[one.partition] += 1
                found.append(one)
    found.sort(key=lambda one: (one.rejected_ms, one.partition, one.offset))
    return found[: settings.limit]


async def _letters(consumer: Any, partitions: list[TopicPartition]) -> AsyncIterator[DeadLetter]:
    ends = await consumer.end_offsets(partitions)
    left = {one for one in partitions if ends[one] > 0}
    consumer.assign(list(left))
    await consumer.seek_to_beginning()
    while left:
        for records in (await consumer.getmany(timeout_ms=500)).values():
            for letter in _convert(records):
                yield letter
        left = {one for one in left if await consumer.position(one) < ends[one]}


def _convert(records: list[Any]) -> Iterator[DeadLetter]:
    for one in records:
        yield DeadLetter(
            one.partition, one.offset, one.timestamp, one.key, one.value, tuple(one.headers)
        )


async def _replay(letters: list[DeadLetter], settings: DlqSettings, console: Console) -> None:
    verb = "would be sent" if settings.dry_run else "sent"
    if not settings.dry_run:
        await _send(letters, settings)
    console.print(f"{len(letters)} messages {verb} to {settings.candles_topic}")


async def _send(letters: list[DeadLetter], settings: DlqSettings) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap, enable_idempotence=True, acks="all"
    )
    await producer.start()
    try:
        sent = []
        for one in letters:
            origin = f"{settings.dlq_topic}/{one.partition}/{one.offset}".encode()
            headers = [*one.original_headers, (REPLAYED_HEADER, origin)]
            # the source partition, for the order and the window of a key are kept there
            partition = int(one.about.get("partition", one.partition))
            sent.append(
                await producer.send(
                    settings.candles_topic, one.value, one.key, partition, headers=headers
                )
            )
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def _print_list(letters: list[DeadLetter], console: Console) -> None:
    table = Table("partition", "offset", "rejected", "key", "reason", "detail", box=None)
    for one in letters:
        about = one.about
        table.add_row(
            str(one.partition),
            str(one.offset),
            _iso(one.rejected_ms),
            _text(one.key) or "",
            about.get("reason", ""),
            about.get("detail", ""),
        )
    console.print(table)
    counts = Counter(one.about.get("reason", "unknown") for one in letters)
    said = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    console.print(f"{len(letters)} dead letters" + (f": {said}" if said else ""))


@asynccontextmanager
async def _consumer(bootstrap: str) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _utc_ms(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
