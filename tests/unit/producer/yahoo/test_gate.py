"""The gate to Yahoo: its token bucket and its pauses."""

from __future__ import annotations

import asyncio

import pytest

from producer.yahoo.gate import Backoff, Gate
from shared.metrics import ProducerMetrics
from tests.virtual_time import VirtualLoop


def test_a_bucket_spreads_the_requests(loop: VirtualLoop, metrics: ProducerMetrics) -> None:
    gate = Gate(metrics, rate=10, burst=5)
    times: list[float] = []

    async def call() -> None:
        times.append(loop.time())

    async def all_calls() -> None:
        await asyncio.gather(*(gate.call(str(i), call) for i in range(45)))

    loop.run(all_calls())
    assert times[:5] == [0.0] * 5
    assert times[-1] == pytest.approx(4.0)


def test_pauses_double_with_jitter_up_to_the_longest_and_start_over_after_a_success() -> None:
    backoff = Backoff(10.0, 900.0)
    for _ in range(2):
        for failure, least_s in enumerate((10.0, 20.0, 40.0, 80.0), start=1):
            assert least_s <= backoff.failed() <= least_s + 5.0
            assert backoff.failures == failure
        backoff.reset()
        assert backoff.failures == 0


def test_pauses_never_exceed_the_longest_however_many_failures() -> None:
    backoff = Backoff(10.0, 900.0)
    pauses = [backoff.failed() for _ in range(5000)]
    assert max(pauses) == pauses[-1] == 900.0
