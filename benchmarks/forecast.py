"""Time of the model path alone: features and LSTM, one window and many at once.

``python -m benchmarks forecast`` prints JSON in microseconds a window: the least and the median
of many calls on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared import bundle, features
from shared.forecaster import LstmForecaster

SIZES = (1, 16, 128, 1024)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks forecast", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    quick = parser.parse_args(argv).quick
    loaded = bundle.load(bundle.default_path())
    forecaster = LstmForecaster(loaded)
    config = loaded.config

    def only_features(candles: NDArray[np.float64]) -> object:
        return features.compute(candles, config.features, config.sequence_length)

    result: dict[str, Any] = {"model_version": config.model_version, "us_a_window": {}}
    for size in SIZES:
        candles = windows(size, config.window_length)
        calls = max(20, 20_000 // size // (10 if quick else 1))
        result["us_a_window"][str(size)] = {
            "features": timed(only_features, candles, calls),
            "features_and_lstm": timed(forecaster.predict, candles, calls),
        }
    print(json.dumps(result))
    return 0


def timed(
    call: Callable[[NDArray[np.float64]], object], candles: NDArray[np.float64], calls: int
) -> dict[str, float]:
    """Return least and median time of a call, in microseconds a window."""
    took = []
    for _ in range(calls):
        start = time.perf_counter()
        call(candles)
        took.append(time.perf_counter() - start)
    scale = 1e6 / len(candles)
    return {
        "least": round(min(took) * scale, 1),
        "median": round(statistics.median(took) * scale, 1),
    }


def windows(count: int, length: int) -> NDArray[np.float64]:
    """Return random walks, shape (count, length, 5), of 32-bit prices."""
    rng = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (count, length)), axis=1))
    opened = close * np.exp(rng.normal(0, 0.005, close.shape))
    high, low = np.maximum(opened, close) * 1.005, np.minimum(opened, close) / 1.005
    volume = np.exp(rng.normal(14, 0.5, close.shape))
    made = np.stack([opened, high, low, close, volume], axis=2)
    return made.astype(np.float32).astype(np.float64)
