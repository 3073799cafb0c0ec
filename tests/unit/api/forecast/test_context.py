"""Forecasts on demand of a model that reads a context: as of each history's close, else without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp

from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from shared import bundle
from shared.candles import DAY_MS, Candle
from shared.catalogue import catalogue_of
from shared.champions import Champions
from shared.context import ContextSpec, ContextStore
from shared.forecaster import Due, ModelSet, OnnxForecaster, forecast
from shared.window import Window
from tests import bundles
from tests.candles import candle, values_of, walk
from tests.unit.api.client import application, call, problem_of
from tests.unit.api.forecast.inference_requests import JSON, Echo, body, numbers_of, tensor
from tests.unit.api.forecast.inference_requests import ask as ask_infer

SPEC: Final = ContextSpec(symbols=("^GSPC",), interval="1d", length=2)
SPREAD: Final = 0.01
CANDLES: Final = walk(bundles.LENGTH)
CLOSE_MS: Final = CANDLES[-1].close_ms


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> OnnxForecaster:
    """A model whose volatility is higher by the sum of the closes that it is given."""
    folder = bundles.write(tmp_path_factory.mktemp("context") / "bundle", context=SPEC)
    return OnnxForecaster(bundle.load(folder))


@pytest.fixture(scope="module")
def store() -> ContextStore:
    """An index that closed at 1, 2 and 4, and at 8 a day after the candles end."""
    store = ContextStore()
    for at in range(4):
        store.push(candle(bundles.LENGTH - 3 + at, 2.0**at, symbol="^GSPC"))
    return store


@pytest.fixture
def app(reading: OnnxForecaster, store: ContextStore) -> ASGIApp:
    return application(reading, context_of=store.window)


def timed(candles: list[Candle]) -> list[dict[str, Any]]:
    names = ("open", "high", "low", "close", "volume")
    return [
        {**dict(zip(names, values_of(made), strict=True)),
         "open_ms": made.open_ms, "close_ms": made.close_ms}
        for made in candles
    ]  # fmt: skip


def ask(app: ASGIApp, *histories: dict[str, Any]) -> list[dict[str, Any]]:
    answer = call(app, "POST", "/v1/forecasts", json={"histories": histories})
    assert answer.status_code == 200, answer.text
    made: list[dict[str, Any]] = answer.json()["forecasts"]
    return made


def seen(made: dict[str, Any]) -> float:
    """Return the sum of the context's closes that the model was given."""
    return round(float(made["horizons"][0]["volatility"]) - SPREAD, 4)


def test_each_history_with_times_gets_the_context_of_its_close_and_no_later_one(
    app: ASGIApp, reading: OnnxForecaster, store: ContextStore
) -> None:
    daily: dict[str, Any] = {"interval": "1d"}
    later = walk(bundles.LENGTH, first=1)
    now, then, timeless = ask(
        app,
        daily | {"symbol": "AAPL", "candles": timed(CANDLES)},
        daily | {"candles": timed(later)},
        daily | {"candles": [
            {name: value for name, value in of.items() if name not in {"open_ms", "close_ms"}}
            for of in timed(CANDLES)
        ]},
    )  # fmt: skip
    assert [seen(now), seen(then), seen(timeless)] == [2 + 4, 4 + 8, 0]
    assert [made["context_as_of_ms"] for made in (now, then, timeless)] == [
        CLOSE_MS, CLOSE_MS + DAY_MS, None,
    ]  # fmt: skip
    window = Window(bundles.LENGTH)
    for made in CANDLES:
        window, _ = window.push(made)
    due = Due("AAPL", "1d", CLOSE_MS, CANDLES[-1].close, window, store.window(SPEC, CLOSE_MS))
    [worker] = forecast(ModelSet(reading), [due], 0)
    assert now["horizons"][0]["quantiles"] == worker.horizons[0].quantiles
    assert now["horizons"][0]["volatility"] == worker.horizons[0].volatility
    assert now["context_as_of_ms"] == worker.context_as_of_ms


def test_a_series_by_name_gets_the_stream_s_context(
    reading: OnnxForecaster, store: ContextStore
) -> None:
    live = StreamView(Market(), Hub(), connected=True)
    for at, closed in enumerate(CANDLES):
        live.market.add_candle(closed, closed.close_ms, (0, at))
    app = application(reading, live=live, context_of=store.window)
    [made] = ask(app, {"symbol": "AAPL", "interval": "1d"})
    assert (made["context_as_of_ms"], seen(made)) == (CLOSE_MS, 6)


def test_predict_and_an_api_without_a_stream_do_without(
    app: ASGIApp, reading: OnnxForecaster
) -> None:
    plain = [{name: value for name, value in of.items() if "_ms" not in name}
             for of in timed(CANDLES)]  # fmt: skip
    answer = call(app, "POST", "/predict", json={"history": plain}).json()
    assert answer["horizons"][0]["volatility"] == pytest.approx(SPREAD)
    [made] = ask(application(reading), {"interval": "1d", "candles": timed(CANDLES)})
    assert (made["context_as_of_ms"], seen(made)) == (None, 0)


def test_the_card_and_the_list_of_models_name_the_context(app: ASGIApp, tmp_path: Path) -> None:
    card = call(app, "GET", "/v1/model").json()
    assert card["context"] == {"symbols": ["^GSPC"], "interval": "1d", "length": 2}
    assert call(application(), "GET", "/v1/model").json()["context"] is None
    made = bundle.load(bundles.write(tmp_path / "bundle", context=SPEC))
    [listed] = catalogue_of("store", Champions(), (), made).versions
    assert (listed.context, listed.context_interval) == (("^GSPC",), "1d")


URL: Final = "/v2/models/stub/infer"
GIVEN: Final = np.array([[[1.5], [2.0]], [[0.0], [4.0]]], np.float32)  # (B, C, K), one unknown


def inference(context: dict[str, Any] | None = None, *, first: bool = False) -> dict[str, Any]:
    """Return an inference request of two windows, with its context before or after them."""
    candles = np.tile([values_of(made) for made in CANDLES], (2, 1, 1))
    times = np.tile([made.open_ms for made in CANDLES], (2, 1))
    inputs = [tensor("candles", candles, "FP64"), tensor("open_ms", times, "INT64")]
    more = [] if context is None else [context]
    return {"inputs": [*more, *inputs] if first else [*inputs, *more]}


def volatilities(answer: httpx.Response) -> list[float]:
    """Return the sum of the closes that the model was given for each window."""
    found = numbers_of(answer)["volatility"]
    return [round(float(value) - SPREAD, 4) for value in found[:, 0]]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_an_inference_is_given_the_closes_of_its_context(
    app: ASGIApp, nested: bool, first: bool
) -> None:
    request = inference(tensor("context", GIVEN, "FP32", nested=nested), first=first)
    assert volatilities(call(app, "POST", URL, json=request)) == [3.5, 4.0]
    assert volatilities(call(app, "POST", URL, json=inference())) == [0.0, 0.0], "none is known"


def test_an_inference_takes_a_context_in_binary_with_unknown_closes(app: ASGIApp) -> None:
    given = np.where(GIVEN == 0.0, np.nan, GIVEN).astype(np.float32)
    form = tensor("context", given, "FP32")
    del form["data"]
    form["parameters"] = {"binary_data_size": given.nbytes}
    text = json.dumps(inference(form)).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    answer = call(app, "POST", URL, content=text + given.tobytes(), headers=headers)
    assert volatilities(answer) == [3.5, 4.0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": [2, 1, 2]}, "inputs[2].shape"),
        ({"shape": [1, 2, 1], "data": [1.0, 2.0]}, "inputs[2].shape"),
        ({"datatype": "FP64"}, "inputs[2].datatype"),
        ({"data": [1.0, 2.0, 3.0]}, "inputs[2].data"),
        ({"data": [1.0, 2.0, 3.0, 1e39]}, "inputs[2].data"),
        ({"data": [1.0, 2.0, 3.0, None]}, "inputs[2].data"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_bad_context_is_named(
    app: ASGIApp, change: dict[str, Any], field: str, first: bool
) -> None:
    request = inference(tensor("context", GIVEN, "FP32") | change, first=first)
    answer = call(app, "POST", URL, json=request)
    assert answer.status_code == 422
    named = problem_of(answer).errors[0].field
    if change.get("shape", [2])[0] == 2:
        assert named == (field.replace("[2]", "[0]") if first else field)
    else:
        assert named.endswith("].shape"), "either may be the wrong number of windows"


def test_a_context_of_a_model_that_reads_none_or_given_twice_is_refused(app: ASGIApp) -> None:
    context = tensor("context", GIVEN, "FP32")
    twice = inference(context)
    twice["inputs"].append(context)
    answer = call(app, "POST", URL, json=twice)
    assert (answer.status_code, problem_of(answer).errors[0].field) == (422, "inputs")
    answer = ask_infer(Echo(), body() | {"inputs": [*body()["inputs"], context]}, **JSON)
    assert (answer.status_code, problem_of(answer).errors[0].field) == (422, "inputs[2].name")


def test_the_metadata_names_the_context(app: ASGIApp) -> None:
    inputs = call(app, "GET", "/v2/models/stub").json()["inputs"]
    assert inputs[2] == {"name": "context", "shape": [-1, 2, 1], "datatype": "FP32"}
