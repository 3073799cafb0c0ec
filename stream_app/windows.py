"""The Faust table of windows, written by partition and recovered by the order of messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import faust
from faust.stores.memory import Store
from faust.types import TP, EventT, Message
from faust.types.stores import StoreT

from stream_app.rebuild import SOURCE_KEY, Source
from stream_app.state import (
    STALE,
    StateError,
    SymbolState,
    check,
    join,
    series_of,
    span_keys,
    stored_offsets,
    stored_order,
)

log = logging.getLogger("stream_app")


class WindowStore(Store[bytes, bytes]):
    """States in memory; of a key's records the one with the highest order wins.

    In a changelog the last record of a key would win, and a worker that was paused past its
    session's end may append an old window after its successor's newer one.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bytes_held = 0
        self.sources: dict[int, Source] = {}  # by partition of the changelog
        self._spans: dict[bytes, tuple[int, list[bytes]]] = {}  # series -> partition, records

    def newest_offsets(self) -> dict[int, int]:
        """Return for each partition the highest source offset that a state remembers."""
        newest: dict[int, int] = {}
        for state in self.data.values():
            for partition, offset in stored_offsets(state):
                newest[partition] = max(newest.get(partition, -1), offset)
        return newest

    def remember(self, key: bytes, state: bytes, partition: int) -> None:
        """Store a state of the changelog's partition, unless a later one is held."""
        held = self.data.get(key)
        if held is None or stored_order(state) > stored_order(held):
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

    def take(self, key: bytes | None, record: bytes | None, partition: int) -> None:
        """Take a record of the changelog: a whole state, or a span that is joined at the end."""
        if key is None:
            return
        if record is None:
            self._forget(key)
            return
        if key == SOURCE_KEY:
            self.sources[partition] = Source.decode(record)
            return
        try:
            check(record)
        except StateError as error:
            raise StateError(f"windows, partition {partition}, key {key[:80]!r}: {error}") from None
        series, is_span = series_of(key)
        if not is_span:
            self.remember(key, record, partition)
            _, spans = self._spans.get(series, (partition, []))
            reached = stored_order(self.data[series])
            spans[:] = [span for span in spans if stored_order(span) > reached]
            return
        held = self.data.get(series)
        if held is None or stored_order(record) > stored_order(held):
            _, spans = self._spans.get(series, (partition, []))
            self._spans[series] = partition, [*spans, record]

    def _forget(self, key: bytes) -> None:
        """Take a tombstone."""
        series, is_span = series_of(key)
        self._spans.pop(series, None)
        if not is_span:
            self.bytes_held -= len(self.data.pop(key, b""))
            self._key_partition.pop(key, None)

    def forget(self, partitions: set[int]) -> dict[int, list[bytes]]:
        """Drop all windows of some partitions; return the keys of their records, by partition."""
        keys: dict[int, list[bytes]] = {}
        for key in list(self.data):
            partition = self._key_partition[key]
            if partition in partitions:
                keys.setdefault(partition, []).extend((key, *span_keys(key)))
                self._forget(key)
        return keys

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

    def put(self, key: bytes, state: SymbolState) -> None:
        """Put a rebuilt state in the place of what is held; its next record is a whole one.

        The calibration goes on from what is held. What is pending stays only where no candle
        came in between: places of entries count candles.
        """
        held = self.state_of(key, state.window.capacity)
        ledger = state.ledger
        if held is not None:
            ledger = held.ledger
            if held.order != state.order:
                ledger = replace(ledger, entries=b"")
        whole = replace(state, tail=STALE, ledger=ledger).encode()
        self.store.replace(key, whole, state.offsets[0][0])

    def forget(self, partitions: set[int]) -> dict[int, list[bytes]]:
        """Drop all windows of some partitions; return the keys of their records, by partition."""
        return self.store.forget(partitions)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        self.held = {tp.partition for tp in active_tps}
        await super().on_recovery_completed(active_tps, standby_tps)

    def end_recovery(self, capacity: int) -> None:
        """Make whole windows of what was read."""
        self.store.join_spans(self.held, capacity)
        self.store.bytes_held = sum(map(len, self.store.data.values()))

    def recover(self, message: Message) -> None:
        """Take a record of the changelog."""
        self.store.take(message.key, message.value, message.partition)

    def remember(self, states: dict[bytes, tuple[int, bytes]]) -> None:
        """Store states whose changelog records are acknowledged: key to partition and state."""
        for key, (partition, state) in states.items():
            self.store.remember(key, state, partition)
