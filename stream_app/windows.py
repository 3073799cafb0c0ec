"""The Faust table of windows, written by partition and recovered by source offset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import faust
from faust.stores.memory import Store
from faust.types import TP, EventT
from faust.types.stores import StoreT

from stream_app.pipeline import stored_offset


class WindowStore(Store[bytes, bytes]):
    """States in memory; the one with the highest source offset wins.

    In a changelog the last record of a key would win, and a worker that was paused past its
    session's end may append an old window after its successor's newer one.
    """

    bytes_held = 0

    def newest_offsets(self) -> dict[int, int]:
        """Return for each partition the highest source offset that a state remembers."""
        newest: dict[int, int] = {}
        for key, state in self.data.items():
            partition = self._key_partition[key]
            newest[partition] = max(newest.get(partition, -1), stored_offset(state))
        return newest

    def remember(self, key: bytes, state: bytes, partition: int) -> None:
        """Store a state of the changelog's partition, unless a later one is held."""
        held = self.data.get(key)
        if held is not None and stored_offset(state) <= stored_offset(held):
            return
        self.bytes_held += len(state) - len(held or b"")
        self.data[key] = state
        self._key_partition[key] = partition

    def apply_changelog_batch(
        self,
        batch: Iterable[EventT[Any]],
        to_key: Callable[[Any], Any],  # noqa: ARG002 - the port's; keys are bytes already
        to_value: Callable[[Any], Any],  # noqa: ARG002
    ) -> None:
        for event in batch:
            key, state = event.message.key, event.message.value
            if key is None or state is None:
                continue
            self.remember(key, state, event.message.partition)


class WindowTable(faust.Table[bytes, bytes]):
    """The table ``windows``: ``symbol|interval`` to a ``SymbolState`` in bytes.

    Faust would send a changelog record for each write as it happens. The worker sends them
    itself, once a micro-batch and after the forecasts are acknowledged, and then remembers.
    """

    def _new_store(self) -> StoreT[bytes, bytes]:
        self.store = WindowStore("memory://", self.app, self, table_name=self.name, loop=self.loop)
        return self.store

    @property
    def bytes_held(self) -> int:
        """Size of all states."""
        return self.store.bytes_held

    def newest_offsets(self) -> dict[int, int]:
        """Return for each partition the highest source offset that a state remembers."""
        return self.store.newest_offsets()

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        await super().on_recovery_completed(active_tps, standby_tps)
        self.store.bytes_held = sum(map(len, self.store.data.values()))

    def remember(self, states: dict[bytes, tuple[int, bytes]]) -> None:
        """Store states whose changelog records are acknowledged: key to partition and state."""
        for key, (partition, state) in states.items():
            self.store.remember(key, state, partition)
