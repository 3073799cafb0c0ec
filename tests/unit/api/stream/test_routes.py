from __future__ import annotations

import json

import pytest

from api.stream.follower import StreamView
from api.stream.hub import CLOSING, Hub
from api.stream.market import Market
from api.stream.routes import StreamLimits
from shared.feature_drift import FeatureBins
from tests.bundles import reference_of
from tests.candles import walk
from tests.streams import published
from tests.unit.api.client import application, call, problem_of
from tests.unit.api.stream.test_market import play

APP = application()


def live(days: int = 30) -> StreamView:
    market = Market()
    for symbol in ("AAPL", "BTC/USD"):
        candles = walk(days, symbol=symbol)
        play(market, candles, published(candles))
    return StreamView(market, Hub(), connected=True, detail="following", lag=0)


def test_the_newest_forecasts_are_those_of_the_topic() -> None:
    stream = live()
    app = application(live=stream)
    both = call(app, "GET", "/v1/forecasts").json()["forecasts"]
    assert [forecast["symbol"] for forecast in both] == ["AAPL", "BTC/USD"]
    assert both[0] == json.loads(published(walk(30)).forecasts[-1].encode()) | {
        "made_at_ms": 2_000_000_000_000
    }
    assert call(app, "GET", "/v1/forecasts/AAPL").json() == both[0]
    for path in ("/v1/forecasts/BTC/USD", "/v1/forecasts/BTC%2FUSD?interval=1d"):
        assert call(app, "GET", path).json() == both[1]
    only = call(app, "GET", "/v1/forecasts?symbols=BTC/USD,NONE").json()["forecasts"]
    assert [forecast["symbol"] for forecast in only] == ["BTC/USD"]
    for path in ("/v1/forecasts/NONE", "/v1/forecasts/AAPL?interval=1m", "/v1/forecasts/X/history"):
        assert call(app, "GET", path).status_code == 404


def test_what_lags_behind_its_candles_is_named() -> None:
    stream = live()
    app = application(live=stream)
    assert call(app, "GET", "/v1/forecasts").json()["behind"] == []
    late = walk(33, symbol="BTC/USD")[30:]
    for number, candle in enumerate(late):
        stream.market.add_candle(candle, 0, (0, 100 + number))
    [behind] = call(app, "GET", "/v1/forecasts").json()["behind"]
    closes = [candle.close_ms for candle in late]
    assert behind == {"symbol": "BTC/USD", "interval": "1d", "closes_ms": closes}


def test_history_tells_what_came() -> None:
    app = application(live=live())
    found = call(app, "GET", "/v1/forecasts/BTC/USD/history?limit=10").json()
    closes = [candle.close for candle in walk(30)]
    assert [candle["close"] for candle in found["candles"]] == closes[-10:]
    assert len(found["forecasts"]) == 10
    first = found["forecasts"][0]
    assert [entry["step"] for entry in first["outcomes"]] == [1, 5]
    assert [candle["close"] for candle in first["outcomes"]] == [closes[21], closes[25]]
    assert found["forecasts"][-1]["outcomes"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("/v1/forecasts?interval=7d", "interval"),
        ("/v1/forecasts/AAPL/history?limit=0", "limit"),
        ("/v1/forecasts/AAPL/history?limit=x", "limit"),
        ("/v1/stream?events=all", "events"),
        ("/v1/forecasts?symbols=" + "A," * 10 + ",".join(f"S{i}" for i in range(1001)), "symbols"),
    ],
)
def test_bad_parameters_are_named(query: str, field: str) -> None:
    answer = call(application(live=live()), "GET", query)
    assert answer.status_code == 422
    assert problem_of(answer).errors[0].field == field


def test_scores_and_status() -> None:
    app = application(live=live())
    scores = call(app, "GET", "/v1/scores?symbols=AAPL").json()
    [series] = scores["series"]
    assert [entry["step"] for entry in series["steps"]] == [1, 5]
    assert series["steps"][0]["count"] == 27
    [daily] = scores["overall"]
    assert daily["interval"] == "1d"
    assert series["drift"].keys() == {"evidence", "drifting", "shift", "spread"}
    others = call(app, "GET", "/v1/scores").json()["series"]
    spread = sum(one["drift"]["spread"] for one in others) / len(others)
    assert daily["drift"]["series"] == len(others) == 2
    assert daily["drift"]["spread"] == pytest.approx(spread)
    assert daily["steps"][0]["count"] == 54
    status = call(app, "GET", "/v1/status").json()
    assert status["connected"] is True
    assert status["series"] == 2
    assert status["scores"] == [{"interval": "1d", "steps": daily["steps"][:1]}]
    assert status["latency_ms"]["p50"] == 10


def test_a_record_has_each_score_and_their_summary() -> None:
    app = application(live=live())
    record = call(app, "GET", "/v1/scores/BTC/USD?interval=1d&limit=9").json()
    assert (record["symbol"], record["interval"]) == ("BTC/USD", "1d")
    expected = [
        score
        for message in published(walk(30, symbol="BTC/USD")).scores
        for score in message.horizons
        if score.step == 5
    ][-9:]
    [_, five] = record["steps"]
    for got, score in zip(five["scores"], expected, strict=True):
        whole = score.model_dump()
        assert got["as_of_ms"] == score.as_of_ms
        for name in ("inside", "raw_inside"):
            assert got[name] == whole[name]
        for name in got.keys() - {"as_of_ms", "inside", "raw_inside"}:
            assert got[name] == pytest.approx(whole[name], rel=1e-6, abs=1e-8)
    summary = five["summary"]
    assert (summary["step"], summary["count"]) == (5, 9)
    assert summary["pinball"] == pytest.approx(sum(one.pinball for one in expected) / 9, rel=1e-6)
    assert len(call(app, "GET", "/v1/scores/AAPL").json()["steps"][0]["scores"]) == 27
    assert call(app, "GET", "/v1/scores/AAPL?limit=0").status_code == 422
    for path in ("/v1/scores/NONE", "/v1/scores/AAPL?interval=1m"):
        assert call(app, "GET", path).status_code == 404


def test_scores_name_the_features_that_have_drifted_most() -> None:
    halves = FeatureBins(edges=(0.0,), shares=(0.5, 0.5))
    names = [f"f{number}" for number in range(7)]
    reference = reference_of({"1d": dict.fromkeys(names, halves)})
    candles = walk(30)
    stream = published(candles)
    made = stream.forecasts[-1]
    market = Market(references=lambda: {made.model_version: reference})
    play(market, candles, stream)
    for number in range(600):
        bins = "000" + "01"[number % 2] * 4  # the first three always lie below
        update = {"id": f"{number:032x}", "feature_bins": bins}
        market.add_forecast(made.model_copy(update=update), 20, (1, number))
        market.add_forecast(made.model_copy(update=update), 20, (1, number))  # a repeat
    app = application(live=StreamView(market, Hub(), connected=True, detail="following", lag=0))
    [daily] = call(app, "GET", "/v1/scores").json()["overall"]
    assert [one["drifts"] for one in daily["features"]] == [True] * 3 + [False] * 2
    assert {one["feature"] for one in daily["features"][:3]} == {"f0", "f1", "f2"}
    [bare] = call(application(live=live()), "GET", "/v1/scores").json()["overall"]
    assert bare["features"] == []


@pytest.mark.parametrize(
    "path",
    ["/v1/forecasts", "/v1/forecasts/A", "/v1/forecasts/A/history", "/v1/scores", "/v1/scores/A"],
)
def test_without_kafka_the_stream_is_unavailable(path: str) -> None:
    answer = call(APP, "GET", path)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    problem_of(answer)


def test_without_kafka_events_are_waited_for_with_comments() -> None:
    """A browser gives up for good on any status but 200."""
    app = application(streams=StreamLimits(longest_s=0.05))
    answer = call(app, "GET", "/v1/stream")
    assert answer.status_code == 200
    assert answer.text.startswith("retry: 2000\n: waiting: not connected to Kafka yet\n\n")
    assert answer.text.endswith(CLOSING.decode())


def test_too_many_streams_are_refused() -> None:
    app = application(live=live(), streams=StreamLimits(streams=0))
    assert call(app, "GET", "/v1/stream").status_code == 503
    app = application(live=live(), streams=StreamLimits(streams_a_client=0))
    answer = call(app, "GET", "/v1/stream")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "5"


def test_a_stream_has_an_end() -> None:
    app = application(live=live(), streams=StreamLimits(longest_s=0.01))
    answer = call(app, "GET", "/v1/stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: hello" in answer.text
    assert answer.text.endswith("event: closing\ndata: {}\n\n")
