"""Windows from the candles topic: when the changelog has lost them, or a model needs longer ones.

The changelog says what it belongs to: a record for each partition with the candles topic's id and
the windows' capacity. What a recovery finds is compared with that and with the committed offsets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from shared import kafka
from shared.candles import MAX_CANDLES, InvalidCandle, decode_candle
from shared.kafka import KafkaSettings, Partition, Record
from shared.window import Window
from stream_app.pipeline import step, table_key
from stream_app.rules import Rules
from stream_app.state import StateError, SymbolState

log = logging.getLogger("stream_app")

SLICE_RECORDS: Final = 200
"""Most records that are applied without a turn of the event loop: some 4 ms."""

SOURCE_KEY: Final = b"|source"
"""Key of the changelog's record about its source; no symbol is empty."""

SKIP_KEY: Final = b"|skip|"
"""Begins the key of a record that names an offset to put aside unread (``dlq skip``)."""

MAX_ID: Final = 64
"""Most characters of a topic's id."""

MAX_PARTITIONS: Final = 1 << 20
"""Most partitions of a topic."""


def skip_key(offset: int) -> bytes:
    """Return the key of the changelog's record about a message to put aside unread."""
    return SKIP_KEY + str(offset).encode()


@dataclass(frozen=True)
class Source:
    """What the windows of a changelog partition were made from."""

    topic_id: str
    capacity: int  # most candles in a window, as a mean over the intervals
    partitions: int = 0  # of the topic; 0: not known
    before: int = 0  # how many they were before they grew; 0: they have not

    def encode(self) -> bytes:
        """Return the source as a record's value."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def decode(cls, value: bytes) -> Source:
        """Return the source in a record's value; raises ``StateError``."""
        try:
            found = json.loads(value)
            counts = [int(found.get(name, 0)) for name in ("partitions", "before")]
            source = cls(str(found["topic_id"]), int(found["capacity"]), *counts)
        except (
            ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError,
        ) as error:  # fmt: skip
            raise StateError(f"not a record about the windows' source: {error!r:.200}") from error
        if (
            len(source.topic_id) > MAX_ID
            or not 2 <= source.capacity <= MAX_CANDLES
            or not 0 <= min(counts) <= max(counts) <= MAX_PARTITIONS
        ):
            raise StateError(
                f"windows' source: expected an id of at most {MAX_ID} characters, a capacity of 2 "
                f"to {MAX_CANDLES} and at most {MAX_PARTITIONS} partitions, got "
                f"{source.topic_id[:80]!r}, {source.capacity}, {counts}"
            )
        return source


Takes = Callable[[bytes, int], bool]
"""Tells whether the candles of a series that lie in a partition are taken."""


@dataclass
class Rebuilt:
    """States made from the candles topic."""

    skips: AbstractSet[tuple[int, int]] = frozenset()  # partitions and offsets to leave out
    rules: Rules = field(default_factory=Rules)
    takes: Takes | None = None  # by default all series
    states: dict[bytes, SymbolState] = field(default_factory=dict)
    appended_ms: dict[bytes, int] = field(default_factory=dict)  # of the newest candle
    candles: int = 0

    def apply(self, record: Record, capacity: int) -> None:
        """Advance a series by one message; what is not a candle is passed over."""
        if (record.partition, record.offset) in self.skips:
            return
        try:
            candle = decode_candle(record.key, record.value, record.timestamp)
            self.rules.check(candle)
        except InvalidCandle:
            return
        key = table_key(candle)
        if self.takes is not None and not self.takes(key, record.partition):
            return
        if key not in self.states and len(self.states) >= self.rules.max_series:
            return
        self.appended_ms[key] = record.timestamp
        state = self.states.get(key) or SymbolState(Window(capacity))
        self.states[key], _ = step(state, candle, record.partition, record.offset, None)
        self.candles += 1


async def has_candles(
    settings: KafkaSettings,
    partition: int,
    start: int,
    stop: int,
    skips: AbstractSet[tuple[int, int]] = frozenset(),
    takes: Takes | None = None,
) -> bool:
    """Tell whether a span of a partition holds a candle; raises ``KafkaError``."""
    found = Rebuilt(skips, takes=takes)
    await _read(settings, {partition: (start, stop)}, found, capacity=2, enough=1)
    return found.candles > 0


async def rebuild(
    settings: KafkaSettings,
    spans: Mapping[int, tuple[int, int]],
    capacity: int,
    skips: AbstractSet[tuple[int, int]] = frozenset(),
    rules: Rules | None = None,
    takes: Takes | None = None,
) -> Rebuilt:
    """Return the states that the candles of some spans give.

    Args:
        settings: where Kafka is, and the candles topic.
        spans: by partition, the first offset to read and the one to stop before.
        capacity: most candles in a window.
        skips: partitions and offsets to leave out.
        rules: of the series that are taken; by default all.
        takes: says of a series and a partition whether to take its candles; by default all.

    Raises:
        KafkaError: when the topic cannot be read.
    """
    began_s = time.monotonic()
    found = Rebuilt(skips, rules or Rules(), takes)
    await _read(settings, spans, found, capacity)
    log.info(
        "read %d candles of %d series again in %.1f s", found.candles, len(found.states),
        time.monotonic() - began_s,
    )  # fmt: skip
    return found


async def bring_up_to_date(
    settings: KafkaSettings,
    spans: Mapping[int, tuple[int, int]],
    capacity: int,
    states: Mapping[bytes, SymbolState],
    skips: AbstractSet[tuple[int, int]] = frozenset(),
    rules: Rules | None = None,
) -> Rebuilt:
    """Return states with the candles that some spans have of them; raises ``KafkaError``."""
    found = Rebuilt(skips, rules or Rules(), lambda key, _: key in states, dict(states))
    await _read(settings, spans, found, capacity)
    return found


async def _read(
    settings: KafkaSettings,
    spans: Mapping[int, tuple[int, int]],
    into: Rebuilt,
    capacity: int,
    enough: int | None = None,
) -> None:
    topic = settings.candles_topic
    starts = {Partition(topic, number): start for number, (start, _) in spans.items()}
    stops = {Partition(topic, number): stop for number, (_, stop) in spans.items()}
    # a few at a time: candles that arrive meanwhile must not wait
    reader = kafka.consumer(
        settings, isolation_level="read_committed", max_poll_records=SLICE_RECORDS
    )
    async with kafka.connected(reader):
        begins = await reader.beginning_offsets(list(starts)) if starts else {}
        starts = {part: max(start, begins[part]) for part, start in starts.items()}
        async for records in kafka.read_to_end(reader, starts, stops):
            for record in records:
                into.apply(record, capacity)
            await asyncio.sleep(0)
            if enough is not None and into.candles >= enough:
                return
