"""A command as a process of its own: its output, seconds, CPU seconds and most memory.

What makes data for it must run in another process than the caller: most memory counts from the
process that starts it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Used:
    """What a process used."""

    output: bytes
    seconds: float
    cpu_seconds: float
    mb: int  # most resident memory, MiB


def run(command: Sequence[str]) -> Used:
    """Run a command to its end.

    Raises:
        SystemExit: when it fails.
    """
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(command, stdout=output) as process,  # noqa: S603
    ):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        output.seek(0)
        written = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    return Used(
        written,
        round(seconds, 1),
        round(used.ru_utime + used.ru_stime, 1),
        round(used.ru_maxrss / 1024),
    )


def elsewhere() -> ProcessPoolExecutor:
    """Return an executor that runs each call in a new process."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
