"""The Faust table of windows, written by partition and recovered by the order of messages."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, cast

import faust
from faust.stores.memory import Store
from faust.tables.manager import TableManager
from faust.types import TP, EventT, Message
from faust.types.stores import StoreT

from shared.candles import INTERVALS_MS
from shared.messages import SYMBOL_PATTERN, PartialValue
from stream_app.rebuild import SKIP_KEY, SOURCE_KEY, Source, skip_key
from stream_app.state import (
    StateError,
    SymbolState,
    is_span,
    join,
    series_of,
    span_keys,
    stored_offsets,
    stored_order,
    validate,
    validate_content,
)

log = logging.getLogger("stream_app")

MAX_DIGITS = 18
"""Most digits of an offset."""


_SYMBOL = re.compile(SYMBOL_PATTERN)

REMEDY = (
    "Another program has written there, or another version. Start with another --group, which "
    "rebuilds its windows from the candles topic"
)


class WindowStore(Store[bytes, bytes]):
    """States in memory; of a key's records the one with the highest order wins.

    In a changelog the last record of a key would win, and a worker that was paused past its
    session's end may append an old window after its successor's newer one.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bytes_held = 0
        self.sources: dict[int, Source] = {}  # by partition of the changelog
        self.skips: set[tuple[int, int]] = set()
        """Partitions and offsets of messages to put aside unread (``dlq skip``)."""
        self._touched_ms: dict[bytes, int] = {}  # key -> newest candle's append, UTC
        self._read_at: dict[bytes, tuple[int, int]] = {}  # record's key -> partition, offset
        self._spans: dict[bytes, tuple[int, list[bytes]]] = {}  # series -> partition, records

    def newest_offsets(self) -> dict[int, int]:
        """Return for each partition the highest source offset that a state remembers."""
        newest: dict[int, int] = {}
        for state in self.data.values():
            for partition, offset in stored_offsets(state):
                newest[partition] = max(newest.get(partition, -1), offset)
        return newest

    def touch(self, key: bytes, appended_ms: int) -> None:
        """Note when a series had its newest candle."""
        self._touched_ms[key] = max(appended_ms, self._touched_ms.get(key, 0))

    def forget_silent(self, before_ms: int) -> dict[int, list[bytes]]:
        """Drop the series without a candle since a time; return their records' keys."""
        keys: dict[int, list[bytes]] = {}
        for key in [key for key in self.data if self._touched_ms.get(key, before_ms) < before_ms]:
            keys.setdefault(self._key_partition[key], []).extend((key, *span_keys(key)))
            self._forget(key)
        return keys

    def remember(self, key: bytes, state: bytes, partition: int) -> None:
        """Store a state of the changelog's partition, unless a later one is held.

        Of two states after the same message the longer one wins: a rebuild has lengthened it.
        """
        held = self.data.get(key)
        if held is None or _rank(state) > _rank(held):
            self.replace(key, state, partition)

    def replace(self, key: bytes, state: bytes, partition: int) -> None:
        """Store a state of the changelog's partition, whatever is held."""
        self.bytes_held += len(state) - len(self.data.get(key, b""))
        self.data[key] = state
        self._key_partition[key] = partition

    def apply_changelog_batch(
        self,
        batch: Iterable[EventT[Any]],
        to_key: Callable[[Any], Any],
        to_value: Callable[[Any], Any],
    ) -> None:
        """Do nothing: the consumer gives the records to ``take`` as they arrive."""

    def take(
        self, key: bytes | None, record: bytes | None, partition: int, offset: int = -1
    ) -> None:
        """Take a record of the changelog: a whole state, or a span that is joined at the end."""
        if isinstance(record, PartialValue) and record.fault:
            raise StateError(f"cannot be read: {record.fault}")
        if key is None:
            raise StateError("expected a key, got none")
        if key.startswith(SKIP_KEY):
            self._skip(key, record, partition)
            return
        if record is None:
            self._forget(key, partition)
            return
        if key == SOURCE_KEY:
            self.sources[partition] = Source.decode(record)
            return
        series, has_number = series_of(key)
        _check_key(series)
        validate(record)
        if is_span(record) is not has_number:
            raise StateError("expected spans under keys with |tail and their number, and no others")
        # what the client's thread has allocated is in another arena of malloc than what replaces
        # it later, and would stay there empty: 200 MB of 50,000 windows
        record = bytes(memoryview(record))
        if has_number:
            validate_content(record)
        else:
            self._read_at[key] = partition, offset
            self.remember(key, record, partition)
            _, spans = self._spans.get(series, (partition, []))
            reached = stored_order(self.data[series])
            spans[:] = [span for span in spans if stored_order(span) > reached]
            return
        held = self.data.get(series)
        if held is None or stored_order(record) > stored_order(held):
            _, spans = self._spans.get(series, (partition, []))
            self._spans[series] = partition, [*spans, record]

    def _skip(self, key: bytes, record: bytes | None, partition: int) -> None:
        offset = key.removeprefix(SKIP_KEY)
        if not offset.isdigit() or len(offset) > MAX_DIGITS:
            raise StateError(f"expected {SKIP_KEY.decode()} and an offset")
        change = self.skips.discard if record is None else self.skips.add
        change((partition, int(offset)))

    def _forget(self, key: bytes, partition: int | None = None) -> None:
        """Take a tombstone of a partition; the series may live on in another."""
        series, has_number = series_of(key)
        spans_in, _ = self._spans.get(series, (partition, []))
        if partition in {None, spans_in}:
            self._spans.pop(series, None)
        if not has_number and partition in {None, self._key_partition.get(key)}:
            self.bytes_held -= len(self.data.pop(key, b""))
            self._key_partition.pop(key, None)
            self._touched_ms.pop(key, None)

    def places(self, partitions: set[int]) -> dict[bytes, int]:
        """Return the series whose records lie in some partitions, and in which."""
        return {key: at for key, at in self._key_partition.items() if at in partitions}

    def forget(self, partitions: set[int]) -> dict[int, list[bytes]]:
        """Drop all windows of some partitions; return the keys of their records, by partition."""
        keys: dict[int, list[bytes]] = {}
        for key in list(self.data):
            partition = self._key_partition[key]
            if partition in partitions:
                keys.setdefault(partition, []).extend((key, *span_keys(key)))
                self._forget(key)
        for skip in [skip for skip in self.skips if skip[0] in partitions]:
            keys.setdefault(skip[0], []).append(skip_key(skip[1]))
            self.skips.discard(skip)
        return keys

    def check_contents(self, topic: str) -> None:
        """Check the whole records that were read, once it is known which of them count.

        Raises:
            StateError: naming the newest record of the key at fault.
        """
        for key, (partition, offset) in self._read_at.items():
            record = self.data.get(key)
            if record is not None:
                with placed(topic, partition, offset, key):
                    validate_content(record)
        self._read_at.clear()

    def join_spans(self, partitions: set[int], capacity: int) -> None:
        """Put the spans that were read onto their windows, once all records have been.

        Args:
            partitions: whose windows are held; a recovery that was broken off has read others.
            capacity: candles in a window.
        """
        for key, (partition, spans) in self._spans.items():
            if partition not in partitions or not spans:
                continue
            whole = self.data.get(key)
            if whole is None:  # the changelog has lost records; the candles topic has them
                log.warning("%s: its window's record is lost, only spans are left", key.decode())
                continue
            self.remember(key, join(whole, spans, capacity), partition)
        self._spans.clear()


def series_in(keys: Mapping[int, Iterable[bytes]]) -> int:
    """Return how many series forgotten keys are of; a series has a record and its spans'."""
    found = chain.from_iterable(keys.values())
    return sum(not series_of(key)[1] and not key.startswith(SKIP_KEY) for key in found)


def _rank(state: bytes) -> tuple[int, int]:
    return stored_order(state), len(state)


@contextmanager
def placed(topic: str, partition: int, offset: int, key: bytes | None) -> Iterator[None]:
    """Add a record's place, and what to do, to a ``StateError`` about it."""
    try:
        yield
    except StateError as error:
        raise StateError(
            f"topic {topic}, partition {partition}, offset {offset}, key {(key or b'')[:80]!r}: "
            f"{error}. {REMEDY}"
        ) from None


def _check_key(key: bytes) -> None:
    symbol, _, interval = key.decode(errors="replace").rpartition("|")
    if not _SYMBOL.match(symbol) or interval not in INTERVALS_MS:
        raise StateError(f"expected the key SYMBOL|INTERVAL, got {key[:80]!r}")


class WindowTable(faust.Table[bytes, bytes]):
    """The table ``windows``: ``symbol|interval`` to a ``SymbolState`` in bytes.

    Faust would send a changelog record for each write as it happens. The worker sends them
    itself, once a micro-batch and after the forecasts are acknowledged, and then remembers.
    """

    def _new_store(self) -> StoreT[bytes, bytes]:
        self.store = WindowStore("memory://", self.app, self, table_name=self.name, loop=self.loop)
        self.held: set[int] = set()
        return self.store

    @property
    def bytes_held(self) -> int:
        """Size of all states."""
        return self.store.bytes_held

    @property
    def skips(self) -> set[tuple[int, int]]:
        """Partitions and offsets of messages to put aside unread."""
        return self.store.skips

    @property
    def sources(self) -> dict[int, Source]:
        """What the windows of each changelog partition were made from."""
        return self.store.sources

    def newest_offsets(self) -> dict[int, int]:
        """Return for each partition the highest source offset that a state remembers."""
        return self.store.newest_offsets()

    def state_of(self, key: bytes, capacity: int) -> SymbolState | None:
        """Return the state of a key, if there is one."""
        stored = self.store.data.get(key)
        return None if stored is None else SymbolState.decode(stored, capacity)

    def places(self, partitions: set[int]) -> dict[bytes, int]:
        """Return the series whose records lie in some partitions, and in which."""
        return self.store.places(partitions)

    def put(self, key: bytes, state: bytes, partition: int, appended_ms: int) -> None:
        """Put a rebuilt state, whose record is acknowledged, in the place of what is held."""
        self.store.replace(key, state, partition)
        self.store.touch(key, appended_ms)

    def forget(self, partitions: set[int]) -> dict[int, list[bytes]]:
        """Drop all windows of some partitions; return the keys of their records, by partition."""
        return self.store.forget(partitions)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """End a recovery, unless a rebalance has overtaken it.

        Faust goes on to call this for a recovery that it has broken off, with the partitions of the
        assignment that follows, of which nothing is read yet: their windows would seem to be lost.
        """
        if not self._are_read(active_tps):
            return  # the recovery that follows ends here too
        self.held = {tp.partition for tp in active_tps}
        await super().on_recovery_completed(active_tps, standby_tps)

    def _are_read(self, partitions: set[TP]) -> bool:
        """Tell whether some partitions of the changelog have been read to their ends."""
        recovery = cast("TableManager", self.app.tables).recovery
        ends, read = recovery.active_highwaters, recovery.active_offsets
        return all(
            tp in ends and read.get(tp) is not None and read[tp] >= ends[tp] for tp in partitions
        )

    def end_recovery(self, capacity: int) -> None:
        """Make whole windows of what was read."""
        self.store.check_contents(self.changelog_topic_name)
        self.store.join_spans(self.held, capacity)
        self.store.bytes_held = sum(map(len, self.store.data.values()))

    def recover(self, message: Message) -> None:
        """Take a record of the changelog."""
        with placed(message.topic, message.partition, message.offset, message.key):
            self.store.take(message.key, message.value, message.partition, message.offset)
        if message.key is not None and message.value is not None and message.timestamp:
            key, _ = series_of(message.key)
            if key in self.store.data:
                self.store.touch(key, round(message.timestamp * 1000))

    def forget_silent(self, before_ms: int) -> dict[int, list[bytes]]:
        """Drop the series without a candle since a time, UTC; return their records' keys."""
        return self.store.forget_silent(before_ms)

    def remember(self, states: dict[bytes, tuple[int, bytes]], appended_ms: int) -> None:
        """Store states whose changelog records are acknowledged.

        Args:
            states: key to partition and state.
            appended_ms: when the broker appended the newest of their candles, UTC.
        """
        for key, (partition, state) in states.items():
            self.store.remember(key, state, partition)
            self.store.touch(key, appended_ms)
