"""Our clients of Kafka on a real broker: the suite that passes in memory too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from local.broker import Broker
from shared.kafka import KafkaSettings
from tests.kafka_contract import PARTITIONS, KafkaContract

pytestmark = pytest.mark.integration


@pytest.fixture
def kafka(broker: Broker, unique_name: Callable[[str], str]) -> KafkaSettings:
    broker.wait_ready()
    return KafkaSettings.read(
        [
            "--bootstrap", broker.bootstrap,
            "--candles-topic", unique_name("candles"),
            "--forecasts-topic", unique_name("forecasts"),
            "--scores-topic", unique_name("scores"),
            "--partitions", str(PARTITIONS),
        ],
        "tests",
    )  # fmt: skip


class TestOnABroker(KafkaContract):
    """The suite."""
