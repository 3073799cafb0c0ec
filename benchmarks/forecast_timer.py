"""Times the model path of one checkout, once for each line of standard input.

Each line ``SIZE CALLS`` is answered by a line of JSON. It imports what any version of the project
has, so that versions can be compared.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared import bundle, forecaster


def predictor() -> tuple[Any, Callable[..., object]]:
    """Return the default bundle's forecaster and a call of it on windows (B, T, 5)."""
    forecaster_class: Any = getattr(forecaster, "OnnxForecaster", None)
    if forecaster_class is None:  # before features were part of the graph
        old: Any = vars(forecaster)["LstmForecaster"](bundle.load(bundle.default_path()))
        return old, old.predict
    new = forecaster_class(bundle.load(bundle.default_path()))

    def predict(candles: NDArray[np.float64]) -> object:
        return new.predict(candles, times(candles))

    return new, predict


def times(candles: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return daily opening times of windows, (B, T)."""
    days = np.arange(candles.shape[1], dtype=np.int64) * 86_400_000
    return np.broadcast_to(days, candles.shape[:2]).copy()


def windows(count: int, length: int) -> NDArray[np.float64]:
    """Return random walks, shape (count, length, 5), of 32-bit prices."""
    rng = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (count, length)), axis=1))
    opened = close * np.exp(rng.normal(0, 0.005, close.shape))
    high, low = np.maximum(opened, close) * 1.005, np.minimum(opened, close) / 1.005
    volume = np.exp(rng.normal(14, 0.5, close.shape))
    candles = np.stack([opened, high, low, close, volume], axis=2)
    return candles.astype(np.float32).astype(np.float64)


def main() -> None:
    """Answer until standard input ends."""
    model, predict = predictor()
    for line in sys.stdin:
        size, calls = (int(part) for part in line.split())
        candles = windows(size, model.window_length)
        took = []
        for _ in range(calls + 3):
            start = time.perf_counter()
            predict(candles)
            took.append(time.perf_counter() - start)
        scale = 1e6 / size
        answer = {
            "model_version": model.model_version,
            "least": round(min(took[3:]) * scale, 1),
            "median": round(statistics.median(took[3:]) * scale, 1),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
