"""Large requests in small pieces: between two of them the event loop serves everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Final, TypeVar

T = TypeVar("T")

Work = Generator[None, None, T]
"""Work that yields wherever others may go first, each time after far less than ``PIECE_S``."""

PIECE_S: Final = 0.001
"""How long a large request may hold the event loop."""

TURNS: Final = 4
"""Of the event loop between two pieces: so many take a small request from its bytes to its
answer, so that it waits for one piece and not for one at each of its steps."""


class Pieces:
    """Does the work of large requests, one piece of one of them at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # first come, first served

    async def do(self, work: Work[T]) -> T:
        """Return what the work returns; raises what it raises."""
        while True:
            async with self._turn:
                end = time.perf_counter() + PIECE_S
                try:
                    while time.perf_counter() < end:
                        next(work)
                except StopIteration as done:
                    result: T = done.value
                    return result
                for _ in range(TURNS):
                    await asyncio.sleep(0)
