"""The Open Inference Protocol without a socket; real clients are in the integration tests."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.forecast.predict import CHUNK
from tests.unit.api.client import LENGTH, application, call, problem_of
from tests.unit.api.forecast.inference_requests import (
    JSON,
    Echo,
    ask,
    assert_exact,
    binary,
    body,
    numbers_of,
    tensor,
    windows,
)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("batch", [1, 2, CHUNK + 1])
def test_json_gives_the_models_numbers(nested: bool, batch: int) -> None:
    model = Echo()
    answer = ask(model, body(batch, nested=nested, id="x7"), **JSON)
    assert_exact(model, answer, batch)
    content = answer.json()
    assert (content["id"], content["model_name"], content["model_version"]) == ("x7", *2 * ["echo"])
    assert [output["name"] for output in content["outputs"]] == ["log_return", "volatility"]


@pytest.mark.parametrize("in_binary", [{"candles"}, {"open_ms"}, {"candles", "open_ms"}])
def test_each_tensor_may_be_in_binary(in_binary: set[str]) -> None:
    request = body(2)
    data = b""
    for entry, array in zip(request["inputs"], windows(2), strict=True):
        if entry["name"] in in_binary:
            del entry["data"]
            entry["parameters"] = {"binary_data_size": array.nbytes}
            data += array.tobytes()
    text = json.dumps(request).encode()
    model = Echo()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    assert_exact(model, ask(model, text + data, **headers))


@pytest.mark.parametrize(
    ("more", "in_binary"),
    [
        ({}, set()),
        ({"parameters": {"binary_data_output": True}}, {"log_return", "volatility"}),
        ({"parameters": {"binary_data_output": False}}, set()),
        ({"outputs": [{"name": "volatility"}]}, set()),
        (
            {
                "outputs": [
                    {"name": "volatility", "parameters": {"binary_data": True}},
                    {"name": "log_return"},
                ]
            },
            {"volatility"},
        ),
        (
            {
                "outputs": [{"name": "log_return", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            set(),
        ),
    ],
)
def test_outputs_are_in_binary_where_that_is_wanted(
    more: dict[str, Any], in_binary: set[str]
) -> None:
    model = Echo()
    answer = ask(model, body(2, **more), **JSON)
    assert_exact(model, answer)
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    outputs = json.loads(answer.content[:length])["outputs"]
    assert {output["name"] for output in outputs if "data" not in output} == in_binary
    names = [output["name"] for output in more.get("outputs", [])] or ["log_return", "volatility"]
    assert [output["name"] for output in outputs] == names
    kind = "application/octet-stream" if in_binary else "application/json"
    assert answer.headers["content-type"] == kind


@pytest.mark.parametrize("in_binary", [False, True])
@pytest.mark.parametrize(
    ("encoding", "packer"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_bodies_may_be_compressed_on_either_way(
    encoding: str, packer: Any, in_binary: bool
) -> None:
    names = ("candles", "open_ms")
    content, headers = json.dumps(body(90)).encode(), dict[str, str]()
    if in_binary:
        arrays = dict(zip(names, windows(90), strict=True))
        content, headers = binary(arrays, parameters={"binary_data_output": True})
    model = Echo()
    headers |= {"content-encoding": encoding, "accept-encoding": encoding}
    answer = ask(model, packer(content), **headers)
    assert answer.headers["content-encoding"] == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert_exact(model, answer, 90)


def test_what_the_protocol_does_not_know_is_ignored() -> None:
    request = body(2, model_name="echo", parameters={"priority": 1, "sequence_id": "a"}, x=[1])
    request["inputs"][0] |= {"parameters": {"content_type": "np"}, "y": {"z": [None]}}
    request["outputs"] = [{"name": "volatility", "parameters": {"classification": 3}, "w": 1}]
    model = Echo()
    assert_exact(model, ask(model, request, **JSON))


@pytest.mark.parametrize("kind", ["", "application/json", "application/octet-stream"])
def test_the_media_type_may_be_missing(kind: str) -> None:
    model = Echo()
    assert_exact(model, ask(model, body(2), **({"content-type": kind} if kind else {})))


def test_inputs_may_come_in_any_order_and_in_any_form_of_json() -> None:
    request = body(2)
    request["inputs"].reverse()
    model = Echo()
    text = json.dumps(request, indent=3).replace('"data"', '"d\\u0061ta"', 1)
    assert_exact(model, ask(model, text.encode()))


@settings(max_examples=60)
@given(
    st.lists(st.floats(1e-6, 1e6), min_size=LENGTH * 4, max_size=LENGTH * 4),
    st.integers(1, (1 << 53) - 1 - LENGTH * (1 << 30)),
)
def test_no_bit_is_lost_in_json(points: list[float], start: int) -> None:
    prices = np.array(points).reshape(LENGTH, 4)
    columns = [prices[:, 0], prices.max(1), prices.min(1), prices[:, 1], prices[:, 2]]
    candles = np.stack(columns, axis=1)[None]
    times = (start + np.arange(LENGTH, dtype=np.int64) * (1 << 30))[None]
    inputs = [tensor("candles", candles, "FP64"), tensor("open_ms", times, "INT64", nested=True)]
    model = Echo()
    answer = ask(model, {"inputs": inputs})
    assert answer.status_code == 200
    np.testing.assert_array_equal(model.candles[0], candles)
    np.testing.assert_array_equal(model.open_ms[0], times)
    prediction = Echo().predict(candles, times)
    np.testing.assert_array_equal(numbers_of(answer)["log_return"], prediction.log_return)


def test_the_protocol_describes_itself() -> None:
    app = application(Echo())
    for path in ("/v2", "/v2/"):
        meta = call(app, "GET", path).json()
        assert (meta["name"], meta["extensions"]) == ("candlecast", ["binary_tensor_data"])
    assert call(app, "GET", "/v2/health/live").json() == {"live": True}
    assert call(app, "GET", "/v2/health/ready").json() == {"live": True, "ready": True}
    meta = call(app, "GET", "/v2/models/echo").json()
    [version] = meta["versions"]
    assert meta["inputs"] == [
        {"name": "candles", "shape": [-1, LENGTH, 5], "datatype": "FP64"},
        {"name": "open_ms", "shape": [-1, LENGTH], "datatype": "INT64"},
    ]
    assert meta["outputs"] == [
        {"name": "log_return", "shape": [-1, 2, 3], "datatype": "FP32"},
        {"name": "volatility", "shape": [-1, 2], "datatype": "FP32"},
    ]
    assert meta["platform"] == "onnx_onnxv1"  # of the names that the protocol allows
    assert call(app, "GET", f"/v2/models/echo/versions/{version}").json() == meta
    ready = call(app, "GET", "/v2/models/echo/ready").json()
    assert ready == {"name": "echo", "ready": True}
    for path in ("/v2/models/other", "/v2/models/echo/versions/0/ready"):
        assert problem_of(call(app, "GET", path)).status == 404
    url = f"/v2/models/echo/versions/{version}/infer"
    assert call(app, "POST", url, json=body()).status_code == 200
    assert call(app, "POST", "/v2/models/echo/versions/0/infer", json=body()).status_code == 404
