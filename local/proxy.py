"""A TCP proxy that delays, silences, resets and half-opens the connections through it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from local.ports import HOST

T = TypeVar("T")

CHUNK_BYTES: Final = 1 << 16

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends a reset


class Proxy:
    """Forwards a port of loopback to another, in a thread of its own; a context manager.

    Attributes:
        delay_s: seconds that every piece waits on its way.
        is_silent: whether nothing passes; connections stay open, as over a link that is cut.
        is_refusing: whether new connections are reset at once.
    """

    def __init__(self, target_port: int, port: int) -> None:
        """Prepare only; entering the context listens on ``port``."""
        self.port = port
        self.delay_s = 0.0
        self.is_silent = False  # also set from other threads
        self.is_refusing = False
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._half_open: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        """The proxy's host and port."""
        return f"{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def reset(self) -> int:
        """Reset every connection; return how many there were."""
        return self._run(self._reset())

    def half_open(self) -> int:
        """Let nothing more pass on the connections that are open, for good; return how many.

        New ones are served: so is a peer that lost its state, or a firewall that forgot the flow.
        """
        return self._run(self._forget())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reset(self) -> int:
        writers = tuple(self._writers)
        for writer in writers:
            _abort(writer)
        return len(writers) // 2

    async def _forget(self) -> int:
        self._half_open |= self._writers
        return len(self._writers) // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_refusing:
            _abort(writer)
            return
        try:
            far = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            _abort(writer)
            return
        far_reader, far_writer = far
        self._writers |= {writer, far_writer}
        ways = [
            asyncio.create_task(self._carry(reader, far_writer)),
            asyncio.create_task(self._carry(far_reader, writer)),
        ]
        self._tasks |= set(ways)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            self._tasks -= set(ways)
            pair = {writer, far_writer}
            self._writers -= pair
            self._half_open -= pair
            for end in pair:
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                while self.is_silent and writer not in self._half_open:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                if writer not in self._half_open:
                    writer.write(piece)
                    await writer.drain()
        except (OSError, RuntimeError):
            return


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection by a reset, whatever waits in it."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
