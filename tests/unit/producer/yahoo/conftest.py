"""What tests of sources in virtual time share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest
from prometheus_client import CollectorRegistry

from shared.metrics import ProducerMetrics
from tests.new_york import at
from tests.virtual_time import VirtualLoop


@pytest.fixture
def metrics() -> ProducerMetrics:
    return ProducerMetrics(CollectorRegistry())


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(at(date(2026, 11, 2), 9, 0))
    yield loop
    loop.close()
