from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.forecast.interpolate import Curve
from shared.forecaster import Prediction

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
CURVE = Curve((2, 5, 10), LEVELS)


def prediction(seed: int, batch: int = 3) -> Prediction:
    rng = np.random.default_rng(seed)
    rising = np.sort(rng.normal(size=(batch, 3, len(LEVELS))) * 0.02, axis=2)
    return Prediction(rising, rng.uniform(0.01, 0.03, (batch, 3)))


def test_trained_steps_keep_their_numbers() -> None:
    made = prediction(1)
    assert CURVE.at(made, (2, 5, 10)) is made
    got = CURVE.at(made, (5,))
    np.testing.assert_array_equal(got.log_return[:, 0], made.log_return[:, 1])
    np.testing.assert_array_equal(got.volatility[:, 0], made.volatility[:, 1])


@given(st.integers(0, 10_000))
def test_quantiles_stay_in_order(seed: int) -> None:
    got = CURVE.at(prediction(seed), range(1, 11))
    assert (np.diff(got.log_return, axis=2) >= 0).all()
    assert (got.volatility > 0).all()


def test_a_random_walk_is_interpolated_exactly() -> None:
    steps = np.arange(1, 11)
    spread = np.array([-1.64, -0.67, 0.0, 0.67, 1.64]) * 0.02
    walk = 0.001 * steps[:, None] + np.sqrt(steps)[:, None] * spread  # (10, Q)
    trained = Prediction(walk[[1, 4, 9]][None], np.full((1, 3), 0.02))
    got = CURVE.at(trained, steps.tolist())
    np.testing.assert_allclose(got.log_return[0], walk, rtol=1e-12)
    np.testing.assert_allclose(got.volatility, 0.02, rtol=1e-12)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_it_is_what_the_document_says(step: int) -> None:
    made = prediction(7, batch=1)
    a, b = {1: (0, 2), 3: (2, 5), 7: (5, 10)}[step]
    at = dict(zip(CURVE.horizons, made.log_return[0], strict=True)) | {0: np.zeros(5)}
    volatility = dict(zip(CURVE.horizons, made.volatility[0], strict=True)) | {0: 0.0}
    w = (step - a) / (b - a)
    median = (1 - w) * at[a][2] + w * at[b][2]
    distance = np.sqrt((1 - w) * (at[a] - at[a][2]) ** 2 + w * (at[b] - at[b][2]) ** 2)
    got = CURVE.at(made, (step,))
    expected = median + np.array([-1, -1, 0, 1, 1]) * distance
    np.testing.assert_allclose(got.log_return[0, 0], expected)
    variance = (1 - w) * a * volatility[a] ** 2 + w * b * volatility[b] ** 2
    assert got.volatility[0, 0] == pytest.approx(np.sqrt(variance / step))
