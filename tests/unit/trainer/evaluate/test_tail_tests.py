"""Tests of a tail's hits: against scipy, of the right size under the null, and strong beyond it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from trainer.evaluate.tail_tests import christoffersen, dynamic_quantile, kupiec

Floats = NDArray[np.float64]
SERIES = 120


def test_a_rate_of_hits_is_judged_as_scipy_would() -> None:
    rng = np.random.default_rng(0)
    for share in (0.002, 0.01, 0.03):
        hits = rng.random(2000) < share
        count = int(hits.sum())
        free, fixed = (stats.binom.logpmf(count, 2000, p) for p in (count / 2000, 0.01))
        assert kupiec(hits, 0.01) == pytest.approx(stats.chi2.sf(2 * (free - fixed), 1))


def test_hits_in_a_row_are_refused_by_every_test_but_that_of_their_rate() -> None:
    clustered = np.zeros(2000, dtype=bool)
    clustered[500:520] = True
    quantiles = np.full(2000, -0.02)
    assert kupiec(clustered, 0.01) == pytest.approx(1.0)
    assert christoffersen(clustered) < 1e-6
    assert dynamic_quantile(clustered, quantiles, 0.01) == pytest.approx(1 / 200)
    apart = np.arange(2000) % 100 == 50
    assert dynamic_quantile(apart, quantiles, 0.01) > 0.2


def market(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """Return returns whose volatility clusters, and the volatility, (count,) each."""
    shocks = rng.normal(0, 0.25, count)
    volatility = 0.01 * np.exp(np.convolve(shocks, 0.97 ** np.arange(200))[:count])
    return volatility * rng.standard_normal(count), volatility


@pytest.mark.parametrize("level", [0.01, 0.05])
@pytest.mark.parametrize("step", [1, 5])
def test_right_quantiles_are_refused_at_the_rate_stated(step: int, level: float) -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(SERIES):
        moves, volatility = market(rng, 500)
        if step > 1:  # of moves that are alike, for sums have a known quantile then
            sums = np.concatenate([[0.0], np.cumsum(moves / volatility)])
            moves, volatility = sums[step:] - sums[:-step], np.full(501 - step, np.sqrt(step))
        quantiles = volatility * stats.norm.ppf(level)
        refused += dynamic_quantile(moves <= quantiles, quantiles, level, step) <= 0.05
    assert stats.binom.cdf(refused, SERIES, 0.05) > 0.001
    assert stats.binom.sf(refused - 1, SERIES, 0.05) > 0.001


def test_quantiles_that_do_not_know_the_volatility_are_refused() -> None:
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(SERIES):
        moves, _ = market(rng, 500)
        quantiles = np.full(500, np.quantile(moves, 0.05))  # of the right rate
        refused += dynamic_quantile(moves <= quantiles, quantiles, 0.05) <= 0.05
    assert refused > 0.8 * SERIES


def test_quantiles_that_overshoot_in_turmoil_are_refused_where_their_rate_is_right() -> None:
    rng = np.random.default_rng(3)
    moves, volatility = market(rng, 3000)
    quantiles = -(volatility**2)
    quantiles *= np.quantile(moves / quantiles, 0.95)
    hits = moves <= quantiles
    assert kupiec(hits, 0.05) > 0.5
    assert dynamic_quantile(hits, quantiles, 0.05) <= 0.05


def test_a_series_without_a_hit_has_a_p_value() -> None:
    quiet = np.zeros(300, dtype=bool)
    assert dynamic_quantile(quiet, np.full(300, -1.0), 0.01) > 0.05
    assert 0 < dynamic_quantile(np.zeros(2000, dtype=bool), np.full(2000, -1.0), 0.01) <= 0.05
