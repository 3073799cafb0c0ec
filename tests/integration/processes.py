"""Starts real processes in tests, with a log and bounded waits, and always ends them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from local.process import Process
from shared.leash import Leash

T = TypeVar("T")

_POLL_S = 0.05


class Processes:
    """Starts Python modules as processes and kills what still runs at the end of the context."""

    def __init__(self, logs: Path, leash: Leash) -> None:
        self._logs = logs
        self._leash = leash
        self._started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in reversed(self._started):
            process.kill()

    def start(self, module: str, *args: str, env: Mapping[str, str] | None = None) -> Process:
        """Start ``python -m module args``, its output in ``process.log``.

        Its temporary files go with the test's, for what is killed cannot remove them.
        """
        return self._start(module, [sys.executable, "-m", module, *args], env)

    def candlecast(self, command: str, *args: str) -> Process:
        """Start ``candlecast command args``, as ``start`` does."""
        script = "from local.command import script; script()"
        return self._start(command, [sys.executable, "-P", "-c", script, command, *args])

    def _start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Process:
        log = self._logs / f"{len(self._started)}-{name}.log"
        process = Process(
            name, argv, log=log, leash=self._leash, env={"TMPDIR": str(self._logs), **(env or {})}
        )
        self._started.append(process)
        return process


def wait_until(
    condition: Callable[[], T],
    timeout_s: float,
    what: str,
    *,
    process: Process | None = None,
    poll_s: float = _POLL_S,
) -> T:
    """Return the first truthy answer of ``condition``, called every ``poll_s`` seconds.

    Fails the test naming ``what`` when there is none in time, or when ``process`` ends first;
    then with the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if process is not None and process.exit_code is not None:
            raise AssertionError(
                f"{process.name} ended with {process.exit_code} before {what}:\n"
                f"{process.log_tail()}"
            )
        if time.monotonic() >= deadline:
            shown = "" if process is None else f"; its log ends:\n{process.log_tail()}"
            raise AssertionError(f"not within {timeout_s:g} s: {what}{shown}")
        time.sleep(poll_s)


def runs(pid: int) -> bool:
    """Return True when a process of this id runs; an ended one that is not reaped does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
