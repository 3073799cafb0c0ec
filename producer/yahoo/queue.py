"""A bounded queue of publications from many tasks to one reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, Final

from producer.source import Publication

CAPACITY: Final = 500
"""Most candles that wait between polls and sink; a full queue stops the polls."""


class PublicationQueue:
    """Joins the publications of many tasks; make it within a running event loop."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Publication | None] = asyncio.Queue(CAPACITY)
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, publication: Publication) -> None:
        """Add a publication; waits while the queue is full."""
        await self._queue.put(publication)
        if self._queue.full():
            self._room.clear()

    async def wait_for_room(self) -> None:
        """Wait until the queue has room: before that there is no sense in a request for more."""
        await self._room.wait()

    async def read(
        self, writers: Iterable[Coroutine[Any, Any, None]]
    ) -> AsyncGenerator[Publication, None]:
        """Run the writers and yield what they put until all have ended.

        Raises:
            BaseException: the error of the first writer that fails; the others are cancelled.
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
