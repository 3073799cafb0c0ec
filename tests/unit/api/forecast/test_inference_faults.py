"""What requests of the Open Inference Protocol are refused for."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from api.edge.requests import MAX_LARGE_BODY_BYTES
from api.forecast.inference import MAX_WINDOWS
from shared.context import Closes
from shared.forecaster import Prediction
from tests.unit.api.client import LENGTH, problem_of
from tests.unit.api.forecast.inference_requests import (
    JSON,
    Echo,
    ask,
    binary,
    body,
    windows,
)


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
        def lengths(self, interval: str) -> tuple[int, ...]:
            del interval
            return (1,)

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
        def predict(
            self,
            candles: NDArray[np.float64],
            open_ms: NDArray[np.int64],
            context: Closes | None = None,
        ) -> Prediction:
            prediction = super().predict(candles, open_ms, context)
            prediction.volatility[-1, 0] = np.inf
            return prediction

    answer = ask(Overflowing(), body(), **JSON)
    assert answer.status_code == 422
    assert problem_of(answer).errors[0].rule == "not_finite"
