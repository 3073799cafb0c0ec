"""A signal in the moment in which a process is started."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

from shared.leash import Leash

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_process_is_started_leaves_none(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As Ctrl-C in ``Popen``, which returns no process then, though there is one."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def interrupted(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = popen(*args, **options)
        started.append(process)
        signal.raise_signal(number)
        return process

    before = signal.signal(number, signal.default_int_handler)
    try:
        with Leash() as leash:
            monkeypatch.setattr(subprocess, "Popen", interrupted)
            with pytest.raises(KeyboardInterrupt):
                leash.start([sys.executable, "-c", "import time; time.sleep(50)"])
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    [process] = started
    assert process.wait(10) == -signal.SIGKILL
