"""Requests of the Open Inference Protocol, and a model that shows every bit of them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS
from shared.context import Closes
from shared.forecaster import Prediction
from tests.unit.api.client import LENGTH, application, call, history

URL = "/v2/models/echo/infer"
JSON = {"content-type": "application/json"}


class Echo:
    """A forecaster whose numbers show every bit of its inputs; keeps what it got."""

    model_version = "echo"
    intervals = ("1d",)
    context = None
    window_length = LENGTH
    horizons = (1, 5)
    quantile_levels = (0.05, 0.5, 0.95)

    def __init__(self) -> None:
        self.candles: list[NDArray[np.float64]] = []
        self.open_ms: list[NDArray[np.int64]] = []

    def lengths(self, interval: str) -> tuple[int, ...]:
        del interval
        return (LENGTH,)

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        del context
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
