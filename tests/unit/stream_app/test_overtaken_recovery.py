"""A recovery and a rebalance that comes before its end; the fault tests show it under load."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faust.types import TP

from stream_app.faust_app import make_app
from stream_app.fence import Fence
from stream_app.windows import WindowTable
from tests.memory_kafka import MemoryBroker
from tests.unit.stream_app.test_fault_points import SETTINGS, Worker, World, start

FIRST, SECOND = (TP(SETTINGS.changelog_topic, number) for number in (0, 1))


def test_a_broken_off_recovery_is_no_end_of_the_one_that_follows() -> None:
    """Faust tells of its end with partitions of which nothing is read: none may seem lost."""

    async def scenario() -> None:
        app = make_app(SETTINGS, Fence(), lambda *_: None)
        table = WindowTable(app, name="windows", key_type=bytes, value_type=bytes, partitions=2)
        app.tables.add(table)
        assert table.data is not None  # makes the store
        ended: list[set[int]] = []

        async def note() -> None:
            ended.append(set(table.held))

        table.on_recover(note)
        recovery: Any = app.tables.recovery  # type: ignore[attr-defined]
        recovery.active_highwaters[FIRST] = recovery.active_offsets[FIRST] = 5
        await table.on_recovery_completed({FIRST, SECOND}, set())
        recovery.active_highwaters[SECOND], recovery.active_offsets[SECOND] = 7, None
        await table.on_recovery_completed({FIRST, SECOND}, set())
        recovery.active_offsets[SECOND] = 6
        await table.on_recovery_completed({FIRST, SECOND}, set())
        assert not ended
        recovery.active_offsets[SECOND] = 7
        await table.on_recovery_completed({FIRST, SECOND}, set())
        assert ended == [{0, 1}]

    asyncio.run(scenario())


class Mending:
    """What mends the windows in a recovery's place: it takes until it is let end."""

    def __init__(self) -> None:
        self.began, self.may_end = asyncio.Event(), asyncio.Event()

    async def finish(self, partitions: set[int]) -> set[int]:
        self.began.set()
        await self.may_end.wait()
        return set() & partitions


async def mending_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Worker, Mending, asyncio.Task[None]]:
    """Return a worker amid the end of its recovery, what it waits for, and that end."""
    worker, mending = await start(World(MemoryBroker(), {})), Mending()
    worker.recovered = False
    monkeypatch.setattr(worker.recovery, "finish", mending.finish)
    monkeypatch.setattr(worker.consumer, "begin_again", lambda _: None)
    ending = asyncio.create_task(worker._end_recovery())
    await mending.began.wait()
    return worker, mending, ending


def test_partitions_go_to_another_worker_once_their_windows_are_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        worker, mending, ending = await mending_worker(monkeypatch)
        settling = asyncio.create_task(worker._settle())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not settling.done()
        mending.may_end.set()
        await asyncio.gather(settling, ending)
        assert worker.recovered

    asyncio.run(scenario())


def test_windows_are_not_mended_by_what_was_known_before_a_rebalance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        worker, mending, ending = await mending_worker(monkeypatch)
        await worker._begin_recovery()
        await ending
        assert not mending.may_end.is_set()
        assert not worker.recovered

    asyncio.run(scenario())
