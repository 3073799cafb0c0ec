from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import httpx
import numpy as np
import pytest

from api.stream.follower import Live
from api.stream.hub import Hub
from api.stream.market import Market
from api.stream.routes import StreamLimits
from shared.candles import DAY_MS
from tests.candles import walk
from tests.forecasters import PersistenceForecaster
from tests.unit.api.client import LENGTH, application, call, history, predict, problem_of
from tests.unit.api.test_app import Stub
from tests.unit.api.stream.test_market import forecasts_of, play

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
            {key: value * scale for key, value in one.items()}
            for one in history(LENGTH + number % 3)
        ]
        histories.append({"symbol": f"S{number}", "candles": candles})
    made = ask({"histories": histories}).json()["forecasts"]
    assert [one["symbol"] for one in made] == [one["symbol"] for one in histories]
    for number in (0, 127, 128, 500, 999):
        candles = histories[number]["candles"]
        single = predict(APP, candles).json()
        assert made[number]["horizons"][0]["quantiles"] == single["horizons"][0]["quantiles"]


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
    assert [one["due_ms"] for one in made["horizons"]] == [
        monday,
        monday + DAY_MS,
        monday + 2 * DAY_MS,
    ]
    assert [one["interpolated"] for one in made["horizons"]] == [False, True, False]


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


def test_requests_that_come_together_share_model_calls() -> None:
    class Counting(PersistenceForecaster):
        batches: list[int] = []  # noqa: RUF012

        def predict(self, candles: Any, open_ms: Any) -> Any:
            self.batches.append(len(candles))
            return super().predict(candles, open_ms)

    model = Counting(LENGTH, horizons=(1, 5))
    app = application(model)

    async def many() -> list[dict[str, Any]]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            bodies = [{"history": history(LENGTH + i)} for i in range(10)]
            asked = [client.post("/predict", json=one) for one in bodies]
            return [one.json() for one in await asyncio.gather(*asked)]

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


def live(days: int = 30) -> Live:
    market = Market()
    for symbol in ("AAPL", "BTC/USD"):
        candles = walk(days, symbol=symbol)
        play(market, candles, forecasts_of(candles), None)
    return Live(market, Hub(), connected=True, detail="following", lag=0)


def test_the_newest_forecasts_are_those_of_the_topic() -> None:
    stream = live()
    app = application(live=stream)
    both = call(app, "GET", "/v1/forecasts").json()["forecasts"]
    assert [one["symbol"] for one in both] == ["AAPL", "BTC/USD"]
    assert both[0] == json.loads(forecasts_of(walk(30))[-1].encode())
    assert call(app, "GET", "/v1/forecasts/AAPL").json() == both[0]
    for path in ("/v1/forecasts/BTC/USD", "/v1/forecasts/BTC%2FUSD?interval=1d"):
        assert call(app, "GET", path).json() == both[1]
    only = call(app, "GET", "/v1/forecasts?symbols=BTC/USD,NONE").json()["forecasts"]
    assert [one["symbol"] for one in only] == ["BTC/USD"]
    for path in ("/v1/forecasts/NONE", "/v1/forecasts/AAPL?interval=1m", "/v1/forecasts/X/history"):
        assert call(app, "GET", path).status_code == 404


def test_history_tells_what_came() -> None:
    app = application(live=live())
    found = call(app, "GET", "/v1/forecasts/BTC/USD/history?limit=10").json()
    closes = [one.close for one in walk(30)]
    assert [one["close"] for one in found["candles"]] == closes[-10:]
    assert len(found["forecasts"]) == 10
    first = found["forecasts"][0]
    assert [one["step"] for one in first["outcomes"]] == [1, 5]
    assert [one["close"] for one in first["outcomes"]] == [closes[21], closes[25]]
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
    assert [one["step"] for one in series["steps"]] == [1, 5]
    assert series["steps"][0]["count"] == 27
    assert scores["overall"][0]["count"] == 54
    status = call(app, "GET", "/v1/status").json()
    assert status["connected"] is True
    assert status["series"] == 2
    assert status["drift"]["magnitude"] == scores["overall"][0]["drift"]["magnitude"]
    assert status["latency_ms"]["p50"] == 10


@pytest.mark.parametrize(
    "path",
    ["/v1/forecasts", "/v1/forecasts/A", "/v1/forecasts/A/history", "/v1/scores", "/v1/stream"],
)
def test_without_kafka_the_stream_is_unavailable(path: str) -> None:
    answer = call(APP, "GET", path)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    problem_of(answer)


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


def test_the_model_card_is_complete() -> None:
    card = call(APP, "GET", "/v1/model").json()
    assert card["model_version"] == "persistence"
    assert card["horizons"] == [1, 5]
    assert card["window_length"] == LENGTH
    assert card["data"] is None


def infer(tensor: dict[str, Any], **more: Any) -> httpx.Response:
    return call(APP, "POST", "/v2/models/persistence/infer", json={"inputs": [tensor], **more})


def tensor(batch: int = 2, *, nested: bool = False) -> dict[str, Any]:
    rows = [list(one.values()) for one in history()]
    data: Any = [rows] * batch
    flat = [number for _ in range(batch) for row in rows for number in row]
    return {
        "name": "candles",
        "shape": [batch, LENGTH, 5],
        "datatype": "FP64",
        "data": data if nested else flat,
    }


@pytest.mark.parametrize("nested", [False, True])
def test_inference_gives_the_models_numbers(nested: bool) -> None:
    answer = infer(tensor(nested=nested), id="x7").json()
    assert (answer["id"], answer["model_name"]) == ("x7", "persistence")
    by_name = {one["name"]: one for one in answer["outputs"]}
    [full] = ask({"histories": [{"candles": history()}]}).json()["forecasts"]
    expected = [value for one in full["horizons"] for value in one["log_return"].values()]
    assert by_name["log_return"]["shape"] == [2, 2, len(expected) // 2]
    assert by_name["log_return"]["data"] == pytest.approx(expected * 2)
    assert by_name["volatility"]["data"] == [one["volatility"] for one in full["horizons"]] * 2
    only = infer(tensor(), outputs=[{"name": "volatility"}]).json()
    assert [one["name"] for one in only["outputs"]] == ["volatility"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": [2, LENGTH - 1, 5]}, "inputs[0].shape"),
        ({"shape": [0, LENGTH, 5]}, "inputs[0].shape"),
        ({"shape": [2, LENGTH, 4]}, "inputs[0].shape"),
        ({"shape": [3, LENGTH, 5]}, "inputs[0].data"),
        ({"data": ["x"] * 200}, "inputs[0].data"),
        ({"data": [True] * 200}, "inputs[0].data"),
        ({"data": [[1, 2], [3]]}, "inputs[0].data"),
        ({"data": [-1.0] * 200}, "inputs[0].data"),
        ({"datatype": "INT8"}, "inputs[0].datatype"),
        ({"name": "other"}, "inputs[0].name"),
    ],
)
def test_bad_tensors_are_named(change: dict[str, Any], field: str) -> None:
    answer = infer(tensor() | change)
    assert answer.status_code == 422
    assert problem_of(answer).errors[0].field == field


def test_the_inference_protocol_describes_itself() -> None:
    for path in ("/v2", "/v2/"):
        assert call(APP, "GET", path).json()["name"] == "candlecast"
    assert call(APP, "GET", "/v2/health/live").json() == {"live": True}
    assert call(APP, "GET", "/v2/health/ready").json() == {"live": True, "ready": True}
    meta = call(APP, "GET", "/v2/models/persistence").json()
    [version] = meta["versions"]
    assert meta["inputs"] == [{"name": "candles", "shape": [-1, LENGTH, 5], "datatype": "FP64"}]
    assert call(APP, "GET", f"/v2/models/persistence/versions/{version}").json() == meta
    ready = call(APP, "GET", "/v2/models/persistence/ready").json()
    assert ready == {"name": "persistence", "ready": True}
    assert meta["platform"] == "onnx_onnxv1"  # of the names that the protocol allows
    for path in ("/v2/models/other", "/v2/models/persistence/versions/0/ready"):
        assert problem_of(call(APP, "GET", path)).status == 404
    url = f"/v2/models/persistence/versions/{version}/infer"
    assert call(APP, "POST", url, json={"inputs": [tensor(1)]}).status_code == 200
