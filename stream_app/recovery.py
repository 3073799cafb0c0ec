"""The check of recovered windows against their topic, and what mends them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from shared import kafka
from shared.candles import DAY_MS
from shared.forecaster import Models
from shared.kafka import KafkaError, Partition
from shared.metrics import WorkerMetrics
from shared.process import now_ms
from shared.topic_ids import topic_ids
from shared.topics import partitions_of
from stream_app import growth
from stream_app.growth import Elsewhere, has_moved, place
from stream_app.publisher import Publisher
from stream_app.rebuild import Rebuilt, Source, Takes, bring_up_to_date, has_candles, rebuild
from stream_app.settings import WorkerSettings
from stream_app.state import StateError, SymbolState, span_keys
from stream_app.windows import WindowTable, series_in

log = logging.getLogger("stream_app")

UNKNOWN_ID: Final = ""
"""Topic id of a broker that gives none (before Kafka 2.8)."""


MOST_LOOKS: Final = 2
"""Looks in a row that do not find the candles topic, after which it counts as gone."""


@dataclass(frozen=True)
class _Offsets:
    """How far the candles topic, the group and the windows are, by partition."""

    begins: Mapping[int, int]
    ends: Mapping[int, int]
    committed: Mapping[int, int]  # offset of the next message to take; only what was committed
    remembered: Mapping[int, int]  # newest offset that a window remembers

    def owed(self, partition: int) -> int:
        """Return the offset before which every candle should be in a window."""
        return max(self.committed.get(partition, 0), self.remembered.get(partition, -1) + 1)


class Recovery:
    """Checks what a recovery found, and rebuilds from the candles topic what is not there."""

    def __init__(
        self,
        settings: WorkerSettings,
        table: WindowTable,
        publisher: Publisher,
        metrics: WorkerMetrics,
        models: Models,
    ) -> None:
        self._settings = settings
        self._table = table
        self._publisher = publisher
        self._metrics = metrics
        self._models = models
        self._rules = settings.rules(models)
        self._looks_without_topic = 0
        self._held: set[int] = set()
        self._before = 0  # partitions of the candles topic before it grew; 0: it has not

    @property
    def _capacity(self) -> int:
        return self._settings.capacity(self._models)

    @property
    def _mean_capacity(self) -> int:
        """Mean over the intervals: it grows when the windows of any of them may be longer."""
        capacities = self._settings.capacities(self._models).values()
        return round(sum(capacities) / len(capacities))

    async def finish(self, partitions: set[int]) -> set[int]:
        """Compare the recovered windows with the topic, and mend them.

        Returns:
            The partitions that are read from their beginning, since their topic is another one.

        Raises:
            StateError: when the topic was recreated and the settings say to stop.
            KafkaError: when the broker does not say what is in the topic.
        """
        if not partitions:
            return set()
        self._held = partitions
        topic_id = await self.topic_id()
        again = self._recreated(partitions, topic_id)
        offsets = await self._offsets(partitions)
        again |= self._too_far(partitions - again, offsets)
        if again:
            await self._begin_again(again)
            offsets = await self._offsets(partitions)
        self._before = await self._follow_growth(partitions - again)
        await self._mend(partitions - again, offsets)
        source = Source(topic_id, self._mean_capacity, self._settings.partitions, self._before)
        changed = {part for part in partitions if self._table.sources.get(part) != source}
        if changed:
            await self._publisher.sources(dict.fromkeys(changed, source))
            self._table.sources.update(dict.fromkeys(changed, source))
        return again

    async def check_topic(self) -> None:
        """Compare the topic with what the windows were made from, while the worker runs.

        Raises:
            StateError: when it was created again, is gone, or has other partitions.
        """
        name, expected = self._settings.candles_topic, self._settings.partitions
        topic_id = await self.topic_id()
        if self._recreated(set(self._table.sources), topic_id):
            raise StateError(
                f"topic {name} was deleted and created again while the worker ran; the next start "
                f"does what --when-recreated says: {self._settings.when_recreated}"
            )
        got = len(await partitions_of(self._settings, name))
        # one look may ask a broker that has just started and does not know its topics yet
        self._looks_without_topic = 0 if got else self._looks_without_topic + 1
        if self._looks_without_topic >= MOST_LOOKS:
            raise StateError(
                f"topic {name} is gone: it was deleted, or the broker has lost its disk; the next "
                "start makes the topics that are missing"
            )
        if got not in {0, expected}:
            raise StateError(
                f"topic {name}: expected {expected} partitions, got {got}: some are read by "
                f"nobody. Start with --partitions {got}"
            )

    @property
    def misses_topic(self) -> bool:
        """True when the last look has not found the candles topic."""
        return self._looks_without_topic > 0

    async def topic_id(self) -> str:
        """Return the candles topic's id, empty when the broker gives none."""
        name = self._settings.candles_topic
        try:
            return (await topic_ids(self._settings, [name])).get(name, UNKNOWN_ID)
        except KafkaError as error:
            if kafka.is_transient(error):
                raise
            log.warning("the broker gives topics no ids, so a recreated one goes unseen: %r", error)
            return UNKNOWN_ID

    def _recreated(self, partitions: set[int], topic_id: str) -> set[int]:
        known = {part: self._table.sources.get(part) for part in partitions}
        return {
            part
            for part, source in known.items()
            if source is not None and UNKNOWN_ID not in {topic_id, source.topic_id}
            and source.topic_id != topic_id
        }  # fmt: skip

    def _too_far(self, partitions: set[int], offsets: _Offsets) -> set[int]:
        """Return the partitions that end before what their windows remember."""
        return {part for part in partitions if offsets.owed(part) > offsets.ends[part]}

    async def _begin_again(self, partitions: set[int]) -> None:
        """Forget the windows of a topic that is gone, or raise ``StateError``."""
        names = ", ".join(map(str, sorted(partitions)))
        if self._settings.when_recreated == "stop":
            raise StateError(
                f"topic {self._settings.candles_topic}, partition {names}: it was deleted and "
                "created again, and the windows and offsets are of the one before. To forget them "
                "and read the new topic from its beginning: --when-recreated begin"
            )
        keys = self._table.forget(partitions)
        await self._publisher.tombstones(keys)
        log.warning(
            "partition %s: the topic was created again; %d windows of the one before are "
            "forgotten, and it is read from its beginning", names, series_in(keys),
        )  # fmt: skip

    async def _offsets(self, partitions: set[int]) -> _Offsets:
        topic, group = self._settings.candles_topic, self._settings.group
        parts = [Partition(topic, number) for number in sorted(partitions)]
        async with kafka.connected(kafka.consumer(self._settings)) as reader:
            begins = await reader.beginning_offsets(parts)
            ends = await reader.end_offsets(parts)
        admin = kafka.admin(self._settings)
        try:
            await admin.start()
            committed = await admin.list_consumer_group_offsets(group, partitions=parts)
        finally:
            await admin.close()
        return _Offsets(
            {part.partition: offset for part, offset in begins.items()},
            {part.partition: offset for part, offset in ends.items()},
            {part.partition: at.offset for part, at in committed.items() if at.offset >= 0},
            self._table.newest_offsets(),
        )

    async def _follow_growth(self, partitions: set[int]) -> int:
        """Take the windows of series that come to these partitions since the topic has grown.

        Returns:
            How many partitions there were before, 0 when they have always been as many.
        """
        now, known = self._settings.partitions, self._table.sources
        held = [known[part] for part in partitions if part in known]
        if len(held) == len(partitions) and all(source.partitions in {0, now} for source in held):
            return max((source.before for source in held), default=0)
        elsewhere = await growth.read(self._settings, self._settings.changelog_topic, partitions)
        counts = [
            source.before if source.partitions == now else source.partitions
            for source in (*held, *elsewhere.sources.values())
        ]
        before = max((count for count in counts if count < now), default=0)
        if before:
            await self._bring_home(partitions, before, elsewhere)
        return before

    async def _bring_home(self, partitions: set[int], before: int, elsewhere: Elsewhere) -> None:
        """Write the windows that growth has moved to where their candles come from now."""
        now = self._settings.partitions
        homes: dict[bytes, tuple[int, SymbolState]] = {}  # partition of before, state
        for key, part in self._table.places(partitions).items():
            state = self._table.state_of(key, self._capacity)
            if state and has_moved(key, part, before, now) and place(key, now) in partitions:
                homes[key] = part, state
        found = {
            key: (part, state)
            for key, (part, stored) in elsewhere.states(before, self._capacity).items()
            if not self._is_held(key, state := SymbolState.decode(stored, self._capacity))
        }
        homes |= await self._read_ahead(found, elsewhere)
        whole: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
        gone: dict[int, list[bytes]] = defaultdict(list)
        for key, (part, state) in homes.items():
            whole[place(key, now)].append((key, state.with_tail(0).encode()))
            gone[part] += (key, *span_keys(key))
        await self._publisher.states(whole)
        for part, records in whole.items():
            for key, record in records:
                self._table.put(key, record, part, elsewhere.appended_ms.get(key, 0))
        await self._publisher.tombstones(gone)  # only once they are safe elsewhere
        log.warning(
            "topic %s has %d partitions, it had %d: %d windows have moved to partition %s",
            self._settings.candles_topic, now, before, len(homes),
            ", ".join(map(str, sorted(whole))),
        )  # fmt: skip

    async def _read_ahead(
        self, found: Mapping[bytes, tuple[int, SymbolState]], elsewhere: Elsewhere
    ) -> dict[bytes, tuple[int, SymbolState]]:
        """Return states of others' partitions with the candles that are still to do there."""
        if not found:
            return {}
        offsets = await self._offsets({part for part, _ in found.values()})
        spans = {
            part: (max(begin, offsets.committed.get(part, 0)), offsets.ends[part])
            for part, begin in offsets.begins.items()
        }
        states = {key: state for key, (_, state) in found.items()}
        ahead = await bring_up_to_date(
            self._settings, spans, self._capacity, states, self._table.skips, self._rules
        )
        elsewhere.appended_ms |= ahead.appended_ms
        return {
            key: (part, _with_ledger(ahead.states[key], state))
            for key, (part, state) in found.items()
        }

    def _is_held(self, key: bytes, state: SymbolState) -> bool:
        """Tell whether a state that is as new is held."""
        held = self._table.state_of(key, self._capacity)
        return held is not None and held.order >= state.order

    async def _mend(self, partitions: set[int], offsets: _Offsets) -> None:
        """Rebuild the windows of partitions whose changelog has lost candles, or is too short."""
        spans = {}
        for part in sorted(partitions):
            source, stop = self._table.sources.get(part), offsets.owed(part)
            grows = source is not None and source.capacity < self._mean_capacity
            if stop > 0 and (grows or await self._has_lost(part, offsets)):
                begin = offsets.begins[part]
                spans[part] = (max(begin, stop - self._settings.rebuild_messages), stop)
        if not spans:
            return
        log.warning(
            "partition %s: windows are missing or short; they are rebuilt from the candles topic",
            ", ".join(map(str, spans)),
        )
        found = await self._rebuild(spans)
        self._leave_out_silent(found)
        await self._take(found)

    async def lengthen(self, partitions: set[int]) -> dict[bytes, bytes]:
        """Return longer windows than are held, from the candles topic, by key: their records.

        For a model that needs more candles than the windows were made to hold. The worker goes on
        meanwhile; it joins each to what it holds then.

        Raises:
            KafkaError: when the topic cannot be read.
        """
        remembered = self._table.newest_offsets()
        spans = {
            part: (max(0, remembered[part] + 1 - self._settings.rebuild_messages),
                   remembered[part] + 1)
            for part in sorted(partitions & remembered.keys())
        }  # fmt: skip
        found = await self._rebuild(spans)
        longer: dict[bytes, bytes] = {}
        for key, state in found.states.items():
            held = self._table.state_of(key, self._capacity)
            if held is None:
                continue
            both = held.lengthened(state.window.records, self._capacity)
            if len(both.window) > len(held.window):
                longer[key] = state.window.records
        return longer

    async def _rebuild(self, spans: Mapping[int, tuple[int, int]]) -> Rebuilt:
        return await rebuild(
            self._settings, spans, self._capacity, self._table.skips, self._rules,
            self._takes,
        )  # fmt: skip

    @property
    def _takes(self) -> Takes | None:
        """Which candles are for windows here: not those of series that growth took elsewhere."""
        return None if not self._before else lambda key, part: self._home(key, part) in self._held

    def _home(self, key: bytes, partition: int) -> int:
        """Return the partition of a series whose candles came, or come, from another."""
        now = self._settings.partitions
        return place(key, now) if has_moved(key, partition, self._before, now) else partition

    def _leave_out_silent(self, found: Rebuilt) -> None:
        """Leave out series that were forgotten, or will be."""
        days = self._settings.forget_days
        oldest_ms = now_ms() - days * DAY_MS if days else 0
        for key, appended_ms in found.appended_ms.items():
            if appended_ms < oldest_ms:
                del found.states[key]

    async def _has_lost(self, partition: int, offsets: _Offsets) -> bool:
        """Tell whether candles before the committed offset are in no window."""
        start = max(offsets.remembered.get(partition, -1) + 1, offsets.begins[partition])
        stop = offsets.committed.get(partition, 0)
        return start < stop and await has_candles(
            self._settings, partition, start, stop, self._table.skips, self._takes
        )

    async def _take(self, found: Rebuilt) -> None:
        better: dict[bytes, SymbolState] = {}
        for key, state in found.states.items():
            held = self._table.state_of(key, self._capacity)
            if held is None or (state.order, len(state.window)) > (held.order, len(held.window)):
                better[key] = state if held is None else _with_ledger(state, held)
        whole: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
        for key, state in better.items():
            record = state.with_tail(0).encode()
            whole[self._home(key, state.offsets[0][0])].append((key, record))
        await self._publisher.states(whole)  # a restart would find the source's capacity alone
        for partition, records in whole.items():
            for key, record in records:
                self._table.put(key, record, partition, found.appended_ms[key])
        self._metrics.rebuilt.inc(len(better))
        short = sum(len(state.window) < self._needed(key) for key, state in better.items())
        log.warning(
            "%d windows rebuilt; %d of them hold fewer candles than their model needs: the topic "
            "has no more, or --rebuild-messages is too low", len(better), short,
        )  # fmt: skip

    def _needed(self, key: bytes) -> int:
        symbol, _, interval = key.decode().rpartition("|")
        return self._models.of(interval, symbol).window_length


def _with_ledger(state: SymbolState, held: SymbolState) -> SymbolState:
    """Return a rebuilt state that goes on with the calibration of the one that is held.

    What is pending stays only where no candle came in between: places of entries count candles.
    """
    if held.order == state.order:
        return state.with_ledger(held.ledger)
    return state.with_ledger(replace(held.ledger, entries=b""))
