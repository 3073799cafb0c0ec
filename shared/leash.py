"""A leash: child processes end with their parent, even when that is killed by ``kill -9``.

A small watchdog process holds the reading end of a pipe whose writing end only the parent
holds. When the parent is gone, however it went, the pipe closes and the watchdog kills every
process group that is still on the leash. Unlike Linux's ``PR_SET_PDEATHSIG`` this works on
every POSIX system, needs no code in the child, and does not fire when merely the thread that
started the child ends. This file is also the watchdog's program, run by itself, so it imports
the standard library alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import BinaryIO, Self


class Leash:
    """A context manager; at its end whatever is still on the leash is killed."""

    def __init__(self) -> None:
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._watchdog = subprocess.Popen(  # noqa: S603 - this interpreter on this very file
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watchdog is None:
            return
        with suppress(BrokenPipeError):
            self._watchdog.communicate()
        self._watchdog = None

    def start(
        self,
        command: Sequence[str],
        *,
        output: BinaryIO | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process on the leash, leader of its own session, without input.

        A signal that comes meanwhile is handled when it is held: an exception between the two
        would leave a process that nobody knows.

        Args:
            command: with its arguments.
            output: takes its standard output and error; None for this process's own.
            env: its environment, whole; None for this process's own.
            cwd: its working directory; None for this process's own.
        """
        with _signals_wait():
            process = subprocess.Popen(  # noqa: S603 - the callers' own commands
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
            self.hold(process.pid)
        return process

    def hold(self, pid: int) -> None:
        """Put a process on the leash; it must lead its own process group."""
        self._tell("+", pid)

    def release(self, pid: int) -> None:
        """Take a process off the leash, once it has ended."""
        self._tell("-", pid)

    def _tell(self, sign: str, pid: int) -> None:
        watchdog = self._watchdog
        if watchdog is None or watchdog.stdin is None:
            raise RuntimeError("the leash is not held: use it as a context manager")
        with suppress(BrokenPipeError):  # without its watchdog a child still ends the normal way
            watchdog.stdin.write(f"{sign}{pid}\n".encode())
            watchdog.stdin.flush()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Handle a SIGINT or SIGTERM that comes within the block at its end."""
    if threading.current_thread() is not threading.main_thread():  # no other one is interrupted
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in ours:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for caught in came:
            signal.raise_signal(caught)


def watch(lines: Iterable[str]) -> None:
    """Follow the leash's lines to their end, then kill the process groups still held."""
    held: set[int] = set()
    for line in lines:
        pid = int(line[1:])
        if line.startswith("+"):
            held.add(pid)
        else:
            held.discard(pid)
    for pid in held:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    watch(sys.stdin)
