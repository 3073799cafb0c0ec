"""What the probes say while the producer works, waits and stands still."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import cast

import pytest

from producer import __main__ as producer
from producer.sink import KafkaSink


def probes(waiting_s: float = 0.0) -> producer._Probes:
    made = producer._Probes()
    made.sinks = (cast("KafkaSink", SimpleNamespace(published=7, waiting_s=lambda: waiting_s)),)
    return made


def test_an_event_loop_that_stands_still_fails_liveness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status port has a thread of its own, and would answer well forever."""
    monkeypatch.setattr(producer, "STALE_LOOP_S", 0.1)
    monkeypatch.setattr(producer, "PULSE_S", 0.01)
    watched = probes()

    async def run() -> tuple[bool, bool]:
        beat = asyncio.create_task(watched.beat())
        await asyncio.sleep(0.02)
        before = watched.live().ok
        time.sleep(0.2)  # noqa: ASYNC251 - what must not be done
        after = watched.live().ok
        beat.cancel()
        return before, after

    assert asyncio.run(run()) == (True, False)
    assert "the event loop last ran 0." in watched.live().detail


def test_it_is_not_ready_while_kafka_takes_nothing() -> None:
    assert not producer._Probes().ready().ok
    assert probes().ready().ok
    assert not probes(waiting_s=31.0).ready().ok
