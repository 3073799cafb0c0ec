"""The follower passes over what it cannot use, and goes on."""

from __future__ import annotations

import logging

import pytest
from aiokafka import ConsumerRecord
from prometheus_client import CollectorRegistry

from api.stream.follower import Follower, StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from shared.kafka import KafkaSettings, Record
from shared.metrics import ApiMetrics
from shared.process import now_ms
from tests.candles import walk
from tests.poison import POISON, SCORES
from tests.streams import published
from tests.unit.api.client import application, call

KAFKA = KafkaSettings.read([], "tests")
TOPICS = KAFKA.candles_topic, KAFKA.forecasts_topic, KAFKA.scores_topic
CANDLES, FORECASTS, SETTLED = TOPICS


def record(topic: str, offset: int, key: bytes | None, value: bytes | None) -> Record:
    at_ms = 2_000_000_000_000
    sizes = len(key or b""), len(value or b"")
    return ConsumerRecord(topic, 3, offset, at_ms, 0, key, value, None, *sizes, ())


class Topics:
    """A follower, its view and its metrics, and what it is given."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.live = StreamView(Market(), Hub(), connected=True, detail="following", lag=0)
        self.live.hub.begin(TOPICS, (0, 0, 0), (0, 0, 0))
        self.follower = Follower(KAFKA, self.live, ApiMetrics(self.registry), lookback=10)
        self._offsets = dict.fromkeys(TOPICS, 0)

    def take(self, topic: str, value: bytes | None, key: bytes | None = b"AAPL") -> None:
        offset = self._offsets[topic]
        self._offsets[topic] += 1
        origin = (TOPICS.index(topic), offset)
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
    for candle in candles[4:]:
        topics.take(CANDLES, candle.encode())
    stream = published(candles)
    made = stream.forecasts
    for forecast in made:
        topics.take(FORECASTS, forecast.encode())
    for scores in stream.scores:
        topics.take(SETTLED, scores.encode())
    assert topics.ignored("invalid_forecast") == 1
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


@pytest.mark.parametrize("name", SCORES)
def test_one_bad_message_of_scores_stops_nothing(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    topics = Topics()
    topics.take(SETTLED, SCORES[name][0])
    assert topics.ignored("invalid_score") == 1
    assert f"{SETTLED}, partition 3, offset 0" in caplog.text
    assert topics.live.market.series == {}
    for scores in published(walk(12)).scores:
        topics.take(SETTLED, scores.encode())
    assert topics.ignored("invalid_score") == 1
    [daily] = call(application(live=topics.live), "GET", "/v1/scores").json()["overall"]
    assert [summary["step"] for summary in daily["steps"]] == [1, 5]


def test_what_passes_and_what_does_not_is_shown() -> None:
    topics = Topics()
    app = application(live=topics.live)
    candles = walk(12)
    stream = published(candles)
    for candle in candles:
        topics.take(CANDLES, candle.encode())
    for forecast in stream.forecasts[:-1]:
        topics.take(FORECASTS, forecast.encode())
    assert call(app, "GET", "/v1/system").json()["waiting"] == 1
    topics.take(FORECASTS, stream.forecasts[-1].encode())
    for _ in range(2):
        topics.take(CANDLES, b"{}")
    system = call(app, "GET", "/v1/system").json()
    assert (system["series"], system["waiting"]) == (1, 0)
    assert [one["topic"] for one in system["topics"]] == list(TOPICS)
    for kind, count in (("candles", 14), ("forecasts", len(stream.forecasts)), ("scores", 0)):
        assert sum(rates[kind] for rates in system["rates"]) == count
    [refused] = system["refused"]
    assert refused["count"] == 2
    assert (refused["topic"], refused["partition"], refused["offset"]) == (CANDLES, 3, 13)
    assert "symbol: expected" in refused["detail"]
    assert refused["newest_ms"] <= now_ms()  # whatever a writer says


def test_coverage_and_skill_are_metrics_by_interval() -> None:
    topics = Topics()
    for scores in published(walk(40)).scores:
        topics.take(SETTLED, scores.encode())
    topics.follower._measure()
    [daily] = topics.live.market.overall()["1d"][:1]

    def value(name: str, **labels: str) -> float | None:
        return topics.registry.get_sample_value(f"candlecast_{name}", {"interval": "1d"} | labels)

    assert value("scored_horizons") == daily.count == 37
    assert value("coverage_ratio", of="published") == daily.coverage["90"]
    assert value("coverage_ratio", of="model") == daily.raw_coverage["90"]
    assert value("skill_ratio", against="baseline") == daily.baseline_skill
    assert value("skill_ratio", against="persistence") == daily.persistence_skill


def test_a_fault_of_ours_in_one_message_is_passed_over_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    topics = Topics()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(topics.live.market, "add_candle", fail)
    topics.take(CANDLES, walk(1)[0].encode())
    assert topics.ignored("error") == 1
    [refused] = call(application(live=topics.live), "GET", "/v1/system").json()["refused"]
    assert refused["detail"] == "an error on our side; the log has it"
    assert "ZeroDivisionError" in caplog.text
