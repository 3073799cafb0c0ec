from __future__ import annotations

import json

import pytest
from aiokafka import ConsumerRecord

from local.accounting import Accounting
from local.follow import Follower
from shared.kafka import KafkaSettings, Record
from tests.candles import walk
from tests.memory_kafka import install
from tests.poison import POISON, SCORES, horizon_score_of, scores_of
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


@pytest.mark.parametrize("name", SCORES)
def test_one_bad_message_of_scores_does_not_end_the_demo(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install(monkeypatch)
    kafka = KafkaSettings.read([], "tests")
    follower = Follower(kafka, Accounting(3))
    good = json.dumps(scores_of(horizon_score_of(1), horizon_score_of(5))).encode()
    follower._take(record(kafka.scores_topic, 0, SCORES[name][0]), 1)
    assert follower._account.scores == 0
    follower._take(record(kafka.scores_topic, 1, good), 1)
    assert follower._account.scores == 2
