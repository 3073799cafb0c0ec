"""The follower passes over what it cannot use, and goes on."""

from __future__ import annotations

import json
import logging

import pytest
from aiokafka import ConsumerRecord
from prometheus_client import CollectorRegistry

from api.stream.follower import Follower, StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from shared.kafka import KafkaSettings, Record
from shared.metrics import ApiMetrics
from tests.candles import walk
from tests.poison import POISON
from tests.streams import published
from tests.unit.api.client import application, call

KAFKA = KafkaSettings.read([], "tests")
CANDLES, FORECASTS, SCORES = KAFKA.candles_topic, KAFKA.forecasts_topic, KAFKA.scores_topic


def record(topic: str, offset: int, key: bytes | None, value: bytes | None) -> Record:
    at_ms = 2_000_000_000_000
    sizes = len(key or b""), len(value or b"")
    return ConsumerRecord(topic, 3, offset, at_ms, 0, key, value, None, *sizes, ())


class Topics:
    """A follower, its view and its metrics, and what it is given."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.live = StreamView(Market(), Hub(), connected=True, detail="following", lag=0)
        self.live.hub.begin((CANDLES, FORECASTS, SCORES), (0, 0, 0), (0, 0, 0))
        self.follower = Follower(KAFKA, self.live, ApiMetrics(self.registry), lookback=10)
        self._offsets = {CANDLES: 0, FORECASTS: 0, SCORES: 0}

    def take(self, topic: str, value: bytes | None, key: bytes | None = b"AAPL") -> None:
        offset = self._offsets[topic]
        self._offsets[topic] += 1
        origin = ((CANDLES, FORECASTS, SCORES).index(topic), offset)
        self.follower._take(record(topic, offset, key, value), origin)

    def ignored(self, reason: str) -> float:
        name = "candlecast_stream_ignored_total"
        return self.registry.get_sample_value(name, {"reason": reason}) or 0.0


@pytest.mark.parametrize("name", POISON)
def test_one_bad_message_stops_nothing(name: str) -> None:
    topics = Topics()
    candles = walk(12)
    for candle in candles[:4]:
        topics.take(CANDLES, candle.encode())
    topics.take(FORECASTS, POISON[name][0])
    topics.take(SCORES, POISON[name][0])
    for candle in candles[4:]:
        topics.take(CANDLES, candle.encode())
    stream = published(candles)
    made = stream.forecasts
    for forecast in made:
        topics.take(FORECASTS, forecast.encode())
    for scores in stream.scores:
        topics.take(SCORES, scores.encode())
    assert topics.ignored("invalid_forecast") == 1
    assert topics.ignored("invalid_score") == 1
    app = application(live=topics.live)
    assert call(app, "GET", "/v1/status").status_code == 200
    [daily] = call(app, "GET", "/v1/scores").json()["overall"]
    assert [summary["step"] for summary in daily["steps"]] == [1, 5]
    newest = call(app, "GET", "/v1/forecasts/AAPL").json()
    assert newest["id"] == made[-1].id


def test_a_bad_forecast_is_logged_with_its_place_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topics = Topics()
    caplog.set_level(logging.WARNING, "api.stream.follower")
    for _ in range(50):
        topics.take(FORECASTS, b"{}")
    [line] = caplog.messages
    assert f"{FORECASTS}, partition 3, offset 0" in line
    assert "id: expected a value" in line
    assert topics.ignored("invalid_forecast") == 50


@pytest.mark.parametrize(
    ("name", "value"),
    [("error", 1e300), ("pinball", -1.0), ("pit", 1.5), ("correction", {"settled": 1})],
)
def test_scores_beyond_their_rules_are_passed_over(
    name: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    topics = Topics()
    message = json.loads(published(walk(12)).scores[0].encode())
    message["horizons"][0][name] = value
    topics.take(SCORES, json.dumps(message).encode())
    assert topics.ignored("invalid_score") == 1
    assert f"{SCORES}, partition 3, offset 0" in caplog.text
    assert f"horizons[0].{name}" in caplog.text
    assert topics.live.market.series == {}


def test_a_fault_of_ours_in_one_message_is_passed_over_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    topics = Topics()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(topics.live.market, "add_candle", fail)
    topics.take(CANDLES, walk(1)[0].encode())
    assert topics.ignored("error") == 1
    assert "ZeroDivisionError" in caplog.text
