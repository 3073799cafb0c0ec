"""Expected shortfall against distributions whose own is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared.forecaster import HorizonWriter
from shared.forecasts import LOW_PRICE
from shared.shortfall import shortfalls

GRID = (0.01, 0.025, 0.05, 0.5, 0.95)
FINITE = st.floats(-50, 50)


@pytest.mark.parametrize(
    ("law", "error"), [(stats.laplace(), 1e-9), (stats.norm(), 0.03), (stats.t(5), 0.1)]
)
def test_it_is_near_that_of_known_laws(law: Any, error: float) -> None:
    """Exact for an exponential tail; a normal's is thinner, Student's thicker."""
    found = shortfalls(GRID, law.ppf(GRID))
    for level, got in zip((0.01, 0.025), found, strict=True):
        expected = law.expect(lambda x: x, ub=law.ppf(level), conditional=True)
        assert got == pytest.approx(expected, rel=error)


@given(st.lists(FINITE, min_size=len(GRID), max_size=len(GRID)).map(sorted))
def test_it_is_below_its_quantile_and_the_worse_the_rarer(quantiles: list[float]) -> None:
    first, second = shortfalls(GRID, np.array(quantiles))
    assert first <= quantiles[0]
    assert second <= quantiles[1]
    assert first <= second


def test_a_message_says_it_as_prices_within_its_bounds() -> None:
    writer = HorizonWriter((1,), GRID)
    returns = np.array([[[-0.1, -0.05, -0.02, 0.0, 0.02]], [[-130.0, -1.0, -0.5, 0.0, 0.5]]])
    first, second = writer.shortfalls(np.array([100.0, 1.0]), returns)
    assert first is not None
    assert second is not None
    [near], [far] = first, second
    assert near == pytest.approx((100 * np.exp(shortfalls(GRID, returns[0, 0]))).tolist())
    assert far[0] == LOW_PRICE
    [row] = writer.rows([[90.0, 95.0, 98.0, 100.0, 102.0]], [0.01], [1], None, [near])
    assert row["expected_shortfall"] == {"0.01": near[0], "0.025": near[1]}
    assert HorizonWriter((1,), (0.05, 0.5)).shortfalls(np.ones(2), returns) == [None, None]
