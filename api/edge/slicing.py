"""Runs the work of large requests in slices, between which small requests are answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Final, TypeVar

T = TypeVar("T")

Work = Generator[None, None, T]
"""Work that yields wherever others may go first, each time after far less than ``SLICE_S``."""

SLICE_S: Final = 0.001
"""Time for which a large request may hold the event loop."""

TURNS: Final = 4
"""Turns of the event loop between two slices: as many as take a small request from its bytes to
its answer, so that it waits for one slice and not for one at each of its steps."""


def at_once(work: Work[T]) -> T:
    """Return what work in slices returns, without letting others go first."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result


class Slicer:
    """Runs the work of large requests, one slice of one of them at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # first come, first served

    async def run(self, work: Work[T]) -> T:
        """Return the result of work; raises what it raises."""
        while True:
            async with self._turn:
                end = time.perf_counter() + SLICE_S
                try:
                    while time.perf_counter() < end:
                        next(work)
                except StopIteration as done:
                    result: T = done.value
                    return result
                for _ in range(TURNS):
                    await asyncio.sleep(0)
