"""The Faust table of windows, written by partition and recovered by source offset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import faust
from faust.stores.memory import Store
from faust.types import TP, EventT, Message
from faust.types.stores import StoreT

from stream_app.state import TAIL_KEY, StateError, join, stored_offset


class WindowStore(Store[bytes, bytes]):
    """States in memory; of a key's records the one with the highest source offset wins.

    In a changelog the last record of a key would win, and a worker that was paused past its
    session's end may append an old window after its successor's newer one.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bytes_held = 0
        self._tails: dict[bytes, tuple[int, bytes]] = {}  # key -> partition, record

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
        to_key: Callable[[Any], Any],
        to_value: Callable[[Any], Any],
    ) -> None:
        """Do nothing: the consumer gives the records to ``take`` as they arrive."""

    def take(self, key: bytes | None, record: bytes | None, partition: int) -> None:
        """Take a record of the changelog: a whole window, or a tail that is joined at the end."""
        if key is None or record is None:
            return
        if not key.endswith(TAIL_KEY):
            self.remember(key, record, partition)
            return
        symbol = key.removesuffix(TAIL_KEY)
        _, held = self._tails.get(symbol, (partition, None))
        if held is None or stored_offset(record) > stored_offset(held):
            self._tails[symbol] = partition, record

    def join_tails(self, partitions: set[int], capacity: int) -> None:
        """Put the tails that were read onto their windows, once all records have been.

        Args:
            partitions: whose windows are held; a recovery that was broken off has read others.
            capacity: candles in a window.

        Raises:
            StateError: when a window is missing.
        """
        for key, (partition, tail) in self._tails.items():
            if partition not in partitions:
                continue
            whole = self.data.get(key)
            if whole is None:
                raise StateError(
                    f"windows, partition {partition}: {key.decode()} has a tail but no window; the "
                    "changelog has lost records. Start with another --group, and replay"
                )
            self.remember(key, join(whole, tail, capacity), partition)
        self._tails.clear()


class WindowTable(faust.Table[bytes, bytes]):
    """The table ``windows``: ``symbol|interval`` to a ``SymbolState`` in bytes.

    Faust would send a changelog record for each write as it happens. The worker sends them
    itself, once a micro-batch and after the forecasts are acknowledged, and then remembers.
    """

    def _new_store(self) -> StoreT[bytes, bytes]:
        self.store = WindowStore("memory://", self.app, self, table_name=self.name, loop=self.loop)
        self._held: set[int] = set()
        return self.store

    @property
    def bytes_held(self) -> int:
        """Size of all states."""
        return self.store.bytes_held

    def newest_offsets(self) -> dict[int, int]:
        """Return for each partition the highest source offset that a state remembers."""
        return self.store.newest_offsets()

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        self._held = {tp.partition for tp in active_tps}
        await super().on_recovery_completed(active_tps, standby_tps)

    def end_recovery(self, capacity: int) -> None:
        """Make whole windows of what was read; raises ``StateError``."""
        self.store.join_tails(self._held, capacity)
        self.store.bytes_held = sum(map(len, self.store.data.values()))

    def recover(self, message: Message) -> None:
        """Take a record of the changelog."""
        self.store.take(message.key, message.value, message.partition)

    def remember(self, states: dict[bytes, tuple[int, bytes]]) -> None:
        """Store states whose changelog records are acknowledged: key to partition and state."""
        for key, (partition, state) in states.items():
            self.store.remember(key, state, partition)
