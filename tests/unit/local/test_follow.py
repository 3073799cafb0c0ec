from __future__ import annotations

import pytest
from aiokafka import ConsumerRecord

from local.accounting import Accounting
from local.follow import Follower
from shared.kafka import KafkaSettings, Record
from tests.candles import walk
from tests.memory_kafka import install
from tests.poison import POISON
from tests.unit.api.stream.test_market import forecasts_of


def record(topic: str, offset: int, value: bytes | None) -> Record:
    return ConsumerRecord(topic, 0, offset, 1, 0, b"AAPL", value, None, 4, 0, ())


@pytest.mark.parametrize("name", POISON)
def test_one_bad_forecast_does_not_end_the_demo(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch)
    kafka = KafkaSettings.read([], "tests")
    follower = Follower(kafka, Accounting(3))
    [made] = forecasts_of(walk(3))
    follower._take(record(kafka.forecasts_topic, 0, POISON[name][0]), 1)
    follower._take(record(kafka.forecasts_topic, 1, made.encode()), 1)
    assert list(follower.newest.values()) == [made]
