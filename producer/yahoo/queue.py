"""Publications from many tasks to one reader, through a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, Final

from producer.source import Publication

HANDED_OVER: Final = 500
"""Candles that wait between the polls and the sink; polls wait when there are so many."""


class Handover:
    """Made within a running event loop, for one reader."""

    def __init__(self, size: int = HANDED_OVER) -> None:
        self._queue: asyncio.Queue[Publication | None] = asyncio.Queue(size)
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, publication: Publication) -> None:
        """Hand over; waits while there is no room."""
        await self._queue.put(publication)
        if self._queue.full():
            self._room.clear()

    async def room(self) -> None:
        """Wait until there is room, for it makes no sense to ask for more before."""
        await self._room.wait()

    async def read(
        self, writers: Iterable[Coroutine[Any, Any, None]]
    ) -> AsyncGenerator[Publication, None]:
        """Run the writers and yield what they put until all have ended.

        Raises:
            BaseException: what the first writer that failed has raised; the others are cancelled.
        """
        running = asyncio.create_task(self._run(writers))
        try:
            while (publication := await self._queue.get()) is not None:
                self._room.set()
                yield publication
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _run(self, writers: Iterable[Coroutine[Any, Any, None]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer)
        except BaseExceptionGroup as errors:
            await self._queue.put(None)
            raise errors.exceptions[0] from None
        await self._queue.put(None)
