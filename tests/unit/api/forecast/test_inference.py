"""The Open Inference Protocol without a socket; real clients are in the integration tests."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from api.edge.requests import MAX_LARGE_BODY_BYTES
from api.forecast.inference import MAX_WINDOWS
from api.forecast.predict import CHUNK
from shared.candles import DAY_MS
from shared.forecaster import Prediction
from tests.unit.api.client import LENGTH, application, call, history, problem_of

URL = "/v2/models/echo/infer"
JSON = {"content-type": "application/json"}


class Echo:
    """A forecaster whose numbers show every bit of its inputs; keeps what it got."""

    model_version = "echo"
    window_length = LENGTH
    horizons = (1, 5)
    quantile_levels = (0.05, 0.5, 0.95)

    def __init__(self) -> None:
        self.candles: list[NDArray[np.float64]] = []
        self.open_ms: list[NDArray[np.int64]] = []

    def predict(self, candles: NDArray[np.float64], open_ms: NDArray[np.int64]) -> Prediction:
        self.candles.append(candles)
        self.open_ms.append(open_ms)
        log_return = np.log(candles[:, -6:, 3] / candles[:, -7:-1, 3])  # (B, 6)
        volatility = open_ms[:, -2:] / 7e15  # (B, 2)
        return Prediction(
            log_return.reshape(-1, 2, 3).astype(np.float32), volatility.astype(np.float32)
        )


def windows(batch: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    rows = np.array([list(candle.values()) for candle in history()])  # (T, 5)
    candles = rows[None] * rng.uniform(0.5, 2, (batch, 1, 1))
    times = np.arange(LENGTH) * DAY_MS + rng.integers(0, 1 << 40, (batch, 1))
    return candles, times.astype(np.int64)


def tensor(name: str, array: NDArray[Any], datatype: str, *, nested: bool = False) -> Any:
    data = array.tolist() if nested else array.ravel().tolist()
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": data}


def body(batch: int = 2, *, nested: bool = False, **more: Any) -> dict[str, Any]:
    candles, times = windows(batch)
    inputs = [
        tensor("candles", candles, "FP64", nested=nested),
        tensor("open_ms", times, "INT64", nested=nested),
    ]
    return {"inputs": inputs, **more}


def binary(arrays: dict[str, NDArray[Any]], **more: Any) -> tuple[bytes, dict[str, str]]:
    """Return a body with all tensors in binary, and its headers."""
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": "INT64" if array.dtype == np.int64 else "FP64",
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    text = json.dumps({"inputs": inputs, **more}).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    return text + data, {"Inference-Header-Content-Length": str(len(text))}


def ask(model: Echo, request: Any, **headers: str) -> httpx.Response:
    content = request if isinstance(request, bytes) else json.dumps(request).encode()
    return call(application(model), "POST", URL, content=content, headers=headers)


def numbers_of(answer: httpx.Response) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of an answer, from JSON or from binary."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    content, rest = json.loads(answer.content[:length]), answer.content[length:]
    found = {}
    for output in content["outputs"]:
        assert output["datatype"] == "FP32"
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            flat = np.array(output["data"], np.float32)
        else:
            flat, rest = np.frombuffer(rest[:size], "<f4"), rest[size:]
        found[output["name"]] = flat.reshape(output["shape"])
    assert not rest
    return found


def expected(batch: int = 2) -> Prediction:
    return Echo().predict(*windows(batch))


def assert_exact(model: Echo, answer: httpx.Response, batch: int = 2) -> None:
    """Check that the model got just the numbers sent, and the client just the model's."""
    candles, times = windows(batch)
    np.testing.assert_array_equal(np.concatenate(model.candles), candles)
    np.testing.assert_array_equal(np.concatenate(model.open_ms), times)
    found = numbers_of(answer)
    prediction = expected(batch)
    if "log_return" in found:
        np.testing.assert_array_equal(found["log_return"], prediction.log_return)
    if "volatility" in found:
        np.testing.assert_array_equal(found["volatility"], prediction.volatility)


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


def changed(place: int, change: dict[str, Any]) -> dict[str, Any]:
    request = body(2)
    request["inputs"][place] |= change
    return request


@pytest.mark.parametrize(
    ("place", "change", "field"),
    [
        (0, {"shape": [2, LENGTH - 1, 5]}, "inputs[0].shape"),
        (0, {"shape": [2, LENGTH + 1, 5]}, "inputs[0].shape"),
        (0, {"shape": [0, LENGTH, 5]}, "inputs[0].shape"),
        (0, {"shape": [-1, LENGTH, 5]}, "inputs[0].shape"),
        (0, {"shape": [MAX_WINDOWS + 1, LENGTH, 5]}, "inputs[0].shape"),
        (0, {"shape": []}, "inputs[0].shape"),
        (0, {"shape": [1] * 9}, "inputs[0].shape"),
        (0, {"shape": [2, LENGTH, 4]}, "inputs[0].shape"),
        (0, {"shape": [2.0, LENGTH, 5]}, "inputs[0].shape[0]"),
        (0, {"shape": [3, LENGTH, 5]}, "inputs[1].shape"),
        (1, {"shape": [1, LENGTH]}, "inputs[1].shape"),
        (1, {"shape": [2, LENGTH, 1]}, "inputs[1].shape"),
        (0, {"data": ["x"] * 200}, "inputs[0].data"),
        (0, {"data": [True] * 200}, "inputs[0].data"),
        (0, {"data": [None] * 200}, "inputs[0].data"),
        (0, {"data": [[1, 2], [3]]}, "inputs[0].data"),
        (0, {"data": [1.0] * 201}, "inputs[0].data"),
        (0, {"data": [[1.0] * 100] * 2}, "inputs[0].data"),
        (0, {"data": [-1.0] * 200}, "inputs[0].data"),
        (0, {"data": []}, "inputs[0].data"),
        (0, {"data": {}}, "inputs[0].data"),
        (0, {"data": "x"}, "inputs[0].data"),
        (0, {"data": None}, "inputs[0].data"),
        (1, {"data": [1.5] * 40}, "inputs[1].data"),
        (1, {"data": [1] * 40}, "inputs[1].data"),
        (1, {"data": [*range(39), 1 << 53]}, "inputs[1].data"),
        (1, {"data": [*range(39), 1 << 70]}, "inputs[1].data"),
        (1, {"data": [-1, *range(39)]}, "inputs[1].data"),
        (0, {"datatype": "FP32"}, "inputs[0].datatype"),
        (1, {"datatype": "FP64"}, "inputs[1].datatype"),
        (0, {"name": "other"}, "inputs[0].name"),
        (0, {"name": "open_ms", "datatype": "INT64", "shape": [2, LENGTH]}, "inputs"),
        (0, {"parameters": {"binary_data_size": 8}}, "inputs[0].parameters.binary_data_size"),
        (0, {"parameters": {"data": [1, 2]}}, "body"),
    ],
)
def test_bad_tensors_are_named(place: int, change: dict[str, Any], field: str) -> None:
    answer = ask(Echo(), changed(place, change), **JSON)
    assert answer.status_code == 422
    assert problem_of(answer).errors[0].field == field


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": body()["inputs"][:1]}, "inputs"),
        ({"inputs": body()["inputs"] * 5}, "inputs"),
        ({"outputs": [{"name": "other"}]}, "outputs[0].name"),
        ({"id": 7}, "id"),
        ({"id": "x" * 257}, "id"),
        ({"parameters": 1}, "parameters"),
    ],
)
def test_bad_requests_are_named(more: dict[str, Any], field: str) -> None:
    answer = ask(Echo(), body() | more, **JSON)
    assert answer.status_code == 422
    assert problem_of(answer).errors[0].field == field


def good_binary() -> dict[str, NDArray[Any]]:
    candles, times = windows(2)
    return {"candles": candles, "open_ms": times}


def test_bad_binary_data_are_named() -> None:
    content, headers = binary(good_binary())
    length = int(headers["Inference-Header-Content-Length"])

    def field_of(content: bytes, **headers: str) -> tuple[int, str]:
        answer = ask(Echo(), content, **headers)
        return answer.status_code, problem_of(answer).errors[0].field

    sizes = "inputs[{}].parameters.binary_data_size"
    assert field_of(content[:-1], **headers) == (422, sizes.format(1))
    assert field_of(content + b"x", **headers) == (422, "body")
    assert field_of(content[:length]) == (422, sizes.format(0))
    header = "inference-header-content-length"
    for bad in ("x", "-1", "1.5", "9" * 30, str(len(content) + 1)):
        assert field_of(content, **{header: bad}) == (422, header)
    assert field_of(content, **{header: str(length - 1)}) == (400, "body")
    wrong = content.replace(b'"binary_data_size": 1600', b'"binary_data_size": 1592')
    assert field_of(wrong, **headers) == (422, sizes.format(0))
    for size in (b"true", b"-800", b"1e30", b'"99"'):
        odd = content[:length].replace(b"1600", size)
        answer = field_of(odd + content[length:], **{header: str(len(odd))})
        assert answer == (422, sizes.format(0))
    nan = good_binary()
    nan["candles"][1, 3, 2] = np.nan
    content, headers = binary(nan)
    assert field_of(content, **headers) == (422, "inputs[0].data")


@pytest.mark.parametrize(
    "data",
    [
        "[1, 2, 3, 4 5]",
        "[1, 2, 3, 4, 5,]",
        "[1, 2], [3, 4, 5]",
        "[[1, 2, 3, 4]5]",
        "[1[2, 3, 4, 5]]",
        "[[1, 2, 3], [4, 5]]",
        "[1, 2, 3, 4, 0x5]",
        "[1, 2, 3, 4, +5]",
        "[1, 2, 3, 4, 5.]",
        "[1, 2, 3, 4, 05]",
        "[1, 2, 3, 4, NaN]",
        "[1, 2, 3, 4, 1e999]",
        "[1, 2, 3, 4, 5]]",
    ],
)
def test_numbers_that_are_not_json_are_refused(data: str) -> None:
    class Short(Echo):
        window_length = 1

    text = '{"inputs": [{"name": "candles", "shape": [1, 1, 5], "datatype": "FP64", "data": %s}, '
    text += '{"name": "open_ms", "shape": [1, 1], "datatype": "INT64", "data": [1]}]}'
    answer = ask(Short(), (text % data).encode())
    assert answer.status_code in {400, 422}
    assert problem_of(answer).errors[0].field in {"inputs[0].data", "body"}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_no_bomb_is_unpacked(encoding: str) -> None:
    packers: dict[str, Any] = {"gzip": gzip.compress, "deflate": zlib.compress}
    bomb = packers[encoding](bytes(MAX_LARGE_BODY_BYTES + 1))
    answer = ask(Echo(), bomb, **{"content-encoding": encoding})
    assert answer.status_code == 413


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip"])
def test_other_encodings_are_refused(encoding: str) -> None:
    answer = ask(Echo(), b"{}", **{"content-encoding": encoding})
    assert answer.status_code == 415
    assert problem_of(answer).errors[0].field == "content-encoding"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_what_a_page_may_send_to_anybody_is_refused(kind: str) -> None:
    assert ask(Echo(), body(), **{"content-type": kind}).status_code == 415


def test_numbers_that_are_not_finite_are_not_answered() -> None:
    class Overflowing(Echo):
        def predict(self, candles: NDArray[np.float64], open_ms: NDArray[np.int64]) -> Prediction:
            prediction = super().predict(candles, open_ms)
            prediction.volatility[-1, 0] = np.inf
            return prediction

    answer = ask(Overflowing(), body(), **JSON)
    assert answer.status_code == 422
    assert problem_of(answer).errors[0].rule == "not_finite"


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
