from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.unit.api.client import LENGTH, application, call, history, problem_of

APP = application()


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
    body = {"histories": [{"candles": history()}]}
    [full] = call(APP, "POST", "/v1/forecasts", json=body).json()["forecasts"]
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
