from __future__ import annotations

import asyncio
import time

import pytest

from api.edge.slicing import SLICE_S, TURNS, Slicer, Work


def slow(log: list[str], name: str, steps: int) -> Work[str]:
    """Work each of whose steps takes longer than a piece may."""
    for _ in range(steps):
        end = time.perf_counter() + SLICE_S * 1.5
        while time.perf_counter() < end:
            pass
        log.append(name)
        yield
    return name


def test_work_gives_its_result_and_its_fault() -> None:
    def faulty() -> Work[None]:
        yield
        raise ValueError("no")

    assert asyncio.run(Slicer().run(slow([], "a", 3))) == "a"
    with pytest.raises(ValueError, match="no"):
        asyncio.run(Slicer().run(faulty()))


def test_a_small_request_waits_for_one_piece_at_most() -> None:
    log: list[str] = []

    async def small() -> None:
        for _ in range(TURNS):  # of the loop, as a small request takes them
            await asyncio.sleep(0)
        log.append("small")

    async def together() -> None:
        large = asyncio.create_task(Slicer().run(slow(log, "large", 10)))
        await asyncio.sleep(0)
        await small()
        await large

    asyncio.run(together())
    assert log.index("small") <= 2
    assert len(log) == 11


def test_large_requests_take_turns() -> None:
    log: list[str] = []

    async def together() -> None:
        slicer = Slicer()
        await asyncio.gather(*(slicer.run(slow(log, name, 4)) for name in "ab"))

    asyncio.run(together())
    assert log == ["a", "b"] * 4


def test_quick_steps_are_done_together() -> None:
    turns = 0

    def quick() -> Work[None]:
        for _ in range(100):
            yield

    async def count(large: asyncio.Task[None]) -> None:
        nonlocal turns
        while not large.done():
            turns += 1
            await asyncio.sleep(0)

    async def together() -> None:
        await count(asyncio.create_task(Slicer().run(quick())))

    asyncio.run(together())
    assert turns < 50
