from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import numpy as np
import pytest

from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from shared import bundle
from shared.candles import DAY_MS
from shared.forecaster import ModelSet, OnnxForecaster
from tests.candles import walk
from tests.forecasters import PersistenceForecaster
from tests.streams import Stream
from tests.unit.api.client import LENGTH, Stub, application, call, history, predict, problem_of
from tests.unit.stream_app.test_scoring import days

START_MS = 1_262_563_200_000  # a Monday
APP = application()


def ask(body: dict[str, Any], app: Any = APP) -> httpx.Response:
    return call(app, "POST", "/v1/forecasts", json=body)


def test_one_history_gives_what_predict_gives() -> None:
    answer = ask({"histories": [{"candles": history(30)}]}).json()
    single = predict(APP, history(30)).json()
    [made] = answer["forecasts"]
    assert made["last_close"] == single["last_close"]
    for full, short in zip(made["horizons"], single["horizons"], strict=True):
        assert {key: full[key] for key in short} == short
        assert full["interpolated"] is False
        assert full["due_ms"] is None
        for level, price in full["quantiles"].items():
            expected = math.log(price / made["last_close"])
            assert full["log_return"][level] == pytest.approx(expected, abs=1e-12)
    assert answer["model"]["model_version"] == single["model_version"]
    assert answer["latency_ms"] > 0


def test_a_thousand_histories_each_get_their_own() -> None:
    rng = np.random.default_rng(0)
    histories: list[dict[str, Any]] = []
    for number in range(1000):
        scale = float(rng.uniform(0.5, 2))
        candles = [
            {key: value * scale for key, value in candle.items()}
            for candle in history(LENGTH + number % 3)
        ]
        histories.append({"symbol": f"S{number}", "candles": candles})
    made = ask({"histories": histories}).json()["forecasts"]
    assert [entry["symbol"] for entry in made] == [entry["symbol"] for entry in histories]
    for number in (0, 127, 128, 500, 999):
        candles = histories[number]["candles"]
        single = predict(APP, candles).json()
        assert made[number]["horizons"][0]["quantiles"] == single["horizons"][0]["quantiles"]


def test_each_interval_is_answered_by_its_own_model() -> None:
    hourly = PersistenceForecaster(5, horizons=(1, 2))
    hourly.model_version = "hourly"
    app = application(by_interval={"1h": hourly})
    histories = [
        {"interval": "1h", "candles": history(7)},
        {"candles": history(30)},
        {"interval": "1d", "candles": history(25)},
        {"interval": "1h", "candles": history(5)},
    ]
    made = ask({"histories": histories}, app).json()["forecasts"]
    versions = ["hourly", "persistence", "persistence", "hourly"]
    assert [forecast["model_version"] for forecast in made] == versions
    steps = [[horizon["step"] for horizon in forecast["horizons"]] for forecast in made]
    assert steps == [[1, 2], [1, 5], [1, 5], [1, 2]]
    refused = ask({"histories": histories, "horizons": [3]}, app)
    assert refused.status_code == 422, "the hourly model ends at 2"
    assert ask({"histories": histories[1:3], "horizons": [3]}, app).status_code == 200


def test_times_give_times_and_steps_between_are_interpolated() -> None:
    candles = [one | {"open_ms": START_MS + i * DAY_MS} for i, one in enumerate(history(5))]
    app = application(PersistenceForecaster(5, horizons=(1, 3)))
    body = {
        "histories": [{"symbol": "X", "interval": "1d", "candles": candles}],
        "horizons": [1, 2, 3],
    }
    [made] = ask(body, app).json()["forecasts"]
    assert made["as_of_ms"] == START_MS + 5 * DAY_MS
    monday = START_MS + 8 * DAY_MS
    assert [horizon["due_ms"] for horizon in made["horizons"]] == [
        monday,
        monday + DAY_MS,
        monday + 2 * DAY_MS,
    ]
    assert [horizon["interpolated"] for horizon in made["horizons"]] == [False, True, False]


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({"histories": []}, "histories", "too_short"),
        ({"histories": [{"candles": []}]}, "histories[0].candles", "too_short"),
        ({"histories": [{"candles": history(3)}]}, "histories[0].candles", "too_short"),
        ({"histories": [{"candles": history()}], "horizons": [6]}, "horizons", "less_than_equal"),
        ({"histories": [{"candles": history()}] * 1001}, "histories", "too_long"),
        ({}, "histories", "missing"),
    ],
)
def test_what_cannot_be_is_named(body: dict[str, Any], field: str, rule: str) -> None:
    answer = ask(body)
    assert answer.status_code == 422
    [error] = problem_of(answer).errors
    assert (error.field, error.rule) == (field, rule)


def test_a_series_of_the_stream_is_calibrated_as_its_next_forecast() -> None:
    """The very numbers of the topic; without its name, and without Kafka, the model's own."""
    candles = days(70)
    model = PersistenceForecaster(LENGTH, horizons=(1, 2, 5))
    stream = Stream(ModelSet(model))
    stream.take(*candles)
    market = Market()
    for at, scores in enumerate(stream.scores):
        market.add_scores(scores, (2, at))
    live = StreamView(market, Hub(), connected=True, detail="following", lag=0)
    app = application(model, live=live)
    fields = {"open", "high", "low", "close", "volume", "open_ms", "close_ms"}
    rows = [one.model_dump(include=fields) for one in candles[-LENGTH:]]
    plain = {"interval": "1d", "candles": rows}
    body = {"histories": [{"symbol": "AAPL"} | plain, plain, {"symbol": "MSFT"} | plain]}
    made, *others = ask(body, app).json()["forecasts"]
    assert made["calibration"] == {
        "series": "AAPL 1d",
        "candles": 70 - LENGTH,
        "until_ms": candles[-1].close_ms,
    }
    newest = stream.forecasts[-1]
    for ours, theirs in zip(made["horizons"], newest.horizons, strict=True):
        assert ours["quantiles"] == theirs.quantiles
        assert ours["raw_quantiles"] == pytest.approx(theirs.raw_quantiles, rel=1e-7)
        assert ours["quantiles"] != ours["raw_quantiles"]
    between = ask(body | {"horizons": [3]}, app).json()["forecasts"][0]["horizons"][0]
    assert between["interpolated"]
    assert between["quantiles"] != between["raw_quantiles"]
    live.connected = False
    for own in (*others, ask(body, app).json()["forecasts"][0]):
        assert own["calibration"] is None
        for ours, theirs in zip(own["horizons"], made["horizons"], strict=True):
            assert ours["quantiles"] == theirs["raw_quantiles"]
    single = predict(app, [{key: row[key] for key in history(1)[0]} for row in rows]).json()
    assert single["horizons"][0]["quantiles"] == made["horizons"][0]["raw_quantiles"]


def test_a_series_of_the_stream_is_asked_for_by_name() -> None:
    """The numbers of the topic without a candle sent, any steps, and odds of prices."""
    candles = days(70)
    model = PersistenceForecaster(LENGTH, horizons=(1, 2, 5))
    stream = Stream(ModelSet(model))
    stream.take(*candles)
    market = Market()
    for at, candle in enumerate(candles):
        market.add_candle(candle, candle.close_ms, (0, at))
    for at, scores in enumerate(stream.scores):
        market.add_scores(scores, (2, at))
    for at, candle in enumerate(days(LENGTH - 1)):
        short = candle.model_copy(update={"symbol": "NEW"})
        market.add_candle(short, candle.close_ms, (0, len(candles) + at))
    live = StreamView(market, Hub(), connected=True, detail="following", lag=0)
    app = application(model, live=live)
    name = {"symbol": "AAPL", "interval": "1d"}
    [made] = ask({"histories": [name]}, app).json()["forecasts"]
    newest = stream.forecasts[-1]
    assert (made["as_of_ms"], made["last_close"]) == (newest.as_of_ms, newest.last_close)
    assert [one["quantiles"] for one in made["horizons"]] == [
        one.quantiles for one in newest.horizons
    ]

    median, high = (made["horizons"][0]["quantiles"][level] for level in ("0.5", "0.95"))
    between = math.sqrt(median * high)
    prices = [median, high, between, 0.01, 1e9]
    body = {"histories": [name | {"above": prices}], "horizons": [3, 1]}
    first, third = ask(body, app).json()["forecasts"][0]["horizons"]
    odds = [one["probability"] for one in first["above"]]
    assert [one["price"] for one in first["above"]] == prices
    least, most = model.quantile_levels[0], model.quantile_levels[-1]
    assert odds[:2] == pytest.approx([0.5, 0.05], abs=1e-3)
    assert 0.05 < odds[2] < 0.5
    assert odds[3:] == pytest.approx([1 - least, 1 - most], abs=1e-3)
    assert third["step"] == 3
    assert third["above"][1]["probability"] > odds[1]  # further ahead more may happen

    for history_of, field, words in (
        ({"symbol": "NEW"}, "histories[0].candles", f"at least {LENGTH} candles, got {LENGTH - 1}"),
        (
            {"symbol": "NONE"},
            "histories[0].symbol",
            "a series that the stream has, got NONE 1d",
        ),
        (
            {"interval": "5m"},
            "histories[0].interval",
            "a series that the stream has, got AAPL 5m; of AAPL it has 1d",
        ),
    ):
        answer = ask({"histories": [name | history_of]}, app)
        assert answer.status_code == 404
        [error] = problem_of(answer).errors
        assert error.field == field
        assert words in error.message
    nameless = ask({"histories": [{"symbol": "AAPL"}]}, app)
    assert nameless.status_code == 422
    message = "candles, or symbol and interval of a series that the stream has, got AAPL"
    assert message in problem_of(nameless).errors[0].message
    live.connected = False
    assert ask({"histories": [name]}, app).status_code == 503


def test_the_streams_own_window_gives_the_streams_own_numbers() -> None:
    """By the model that is built in, whose longest window of daily candles has 512."""
    model = OnnxForecaster(bundle.load(bundle.default_path()))
    candles = walk(600)
    stream, market = Stream(ModelSet(model)), Market()
    stream.take(*candles)
    for at, candle in enumerate(candles):
        market.add_candle(candle, candle.close_ms, (0, at))
    for at, scores in enumerate(stream.scores):
        market.add_scores(scores, (2, at))
    live = StreamView(market, Hub(), connected=True, detail="following", lag=0)
    body = {"histories": [{"symbol": "AAPL", "interval": "1d"}]}
    [made] = ask(body, application(model, live=live)).json()["forecasts"]
    newest = stream.forecasts[-1]
    assert made["as_of_ms"] == newest.as_of_ms
    for ours, theirs in zip(made["horizons"], newest.horizons, strict=True):
        assert ours["raw_quantiles"] == pytest.approx(theirs.raw_quantiles, rel=1e-6)
        assert ours["quantiles"] == pytest.approx(theirs.quantiles, rel=1e-6)
    longest = max(length for name in model.intervals for length in model.lengths(name))
    assert market.bounds.candles >= longest


def test_requests_that_come_together_share_model_calls() -> None:
    class Counting(PersistenceForecaster):
        batches: list[int] = []  # noqa: RUF012

        def predict(self, candles: Any, open_ms: Any, context: Any = None) -> Any:
            self.batches.append(len(candles))
            return super().predict(candles, open_ms, context)

    model = Counting(LENGTH, horizons=(1, 5))
    app = application(model)

    async def many() -> list[dict[str, Any]]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            bodies = [{"history": history(LENGTH + i)} for i in range(10)]
            asked = [client.post("/predict", json=body) for body in bodies]
            return [answer.json() for answer in await asyncio.gather(*asked)]

    answers = asyncio.run(many())
    assert sum(model.batches) == 10
    assert len(model.batches) < 10
    for i, answer in enumerate(answers):
        alone = predict(APP, history(LENGTH + i)).json()
        assert answer["horizons"] == alone["horizons"]


def test_a_crash_in_a_shared_call_reaches_every_request() -> None:
    app = application(Stub(fault=RuntimeError("secret")))
    answer = predict(app, history())
    assert answer.status_code == 500
    assert "secret" not in answer.text
