"""The default bundle's forecaster: a window's numbers are its own, however it is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from shared import bundle
from shared.forecaster import OnnxForecaster, Prediction
from shared.window import even_times
from trainer import dataset


@pytest.fixture(scope="module")
def forecaster() -> OnnxForecaster:
    return OnnxForecaster(bundle.load(bundle.default_path()))


@pytest.fixture(scope="module")
def batch(forecaster: OnnxForecaster) -> NDArray[np.float64]:
    candles = dataset.load(None).symbols["IBM"].candles[-400:]
    view = np.lib.stride_tricks.sliding_window_view(candles, forecaster.window_length, axis=0)
    return np.ascontiguousarray(view.transpose(0, 2, 1))  # (B, T, 5)


def predict(forecaster: OnnxForecaster, candles: NDArray[np.float64]) -> Prediction:
    return forecaster.predict(candles, even_times(*candles.shape[:2]))


def assert_equal(one: Prediction, batch: Prediction, at: int) -> None:
    np.testing.assert_array_equal(one.log_return[0], batch.log_return[at])
    np.testing.assert_array_equal(one.volatility[0], batch.volatility[at])


def test_a_window_alone_gets_the_bits_that_it_gets_among_others(
    forecaster: OnnxForecaster, batch: NDArray[np.float64]
) -> None:
    whole = predict(forecaster, batch)
    alone = [predict(forecaster, batch[i : i + 1]) for i in range(len(batch))]
    for i, one in enumerate(alone):  # all asked for before any is looked at
        assert_equal(one, whole, i)


def test_threads_may_ask_at_once(forecaster: OnnxForecaster, batch: NDArray[np.float64]) -> None:
    whole = predict(forecaster, batch)
    order = list(range(len(batch))) * 3
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: predict(forecaster, batch[i : i + 1]), order))
    for i, one in zip(order, made, strict=True):
        assert_equal(one, whole, i)
