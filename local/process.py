"""A child process with its own session and log, ended in bounded time and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from shared.leash import Leash

TAIL_LINES = 20
_TAIL_BYTES = 16_384


class Process:
    """A child with its output in a log file.

    It leads its own session, so that a terminal's Ctrl-C reaches the parent alone, which then
    ends its children in order; the leash ends them if the parent has no time for that.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        leash: Leash,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start at once, with ``env`` added to this process's environment."""
        self.name = name
        self.log = log
        self._leash = leash
        with log.open("ab") as output:
            self._popen = leash.start(
                [str(part) for part in argv],
                output=output,
                env={**os.environ, **(env or {})},
                cwd=cwd,
            )

    @property
    def pid(self) -> int:
        """The process's id, which is also that of its process group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """What it ended with, negative for a signal; None while it runs."""
        code = self._popen.poll()
        if code is not None:
            self._leash.release(self.pid)
        return code

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None when it still runs after ``timeout_s`` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)
        return self.exit_code

    def kill(self) -> None:
        """Kill it and what it started, at once, and collect it."""
        self._signal(signal.SIGKILL)
        self.wait(10.0)

    def stop(self, timeout_s: float) -> int | None:
        """Ask it to end, wait up to ``timeout_s`` seconds, then kill it; return the exit code."""
        self._signal(signal.SIGTERM)
        if self.wait(timeout_s) is None:
            self.kill()
        return self.exit_code

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines of the log."""
        return tail(self.log, lines)

    def _signal(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a text file; of a missing one, a line that says so."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError as error:
        return f"({path}: {error.strerror})"
    return "\n".join(text.splitlines()[-lines:]) or f"({path} is empty)"
