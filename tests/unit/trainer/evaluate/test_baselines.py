"""Baselines: causal, of the right shape, and equal to what a slow, plain computation gives."""

from __future__ import annotations

import math
import warnings
from functools import cache

import numpy as np
import pytest
from arch import arch_model
from numpy.typing import NDArray

from shared.forecaster import Prediction
from trainer.evaluate.baselines import garch, walk
from trainer.evaluate.baselines.automatic import Arima
from trainer.evaluate.baselines.empirical import (
    Drift,
    Ewma,
    Persistence,
    RollingQuantiles,
    ewma_variance,
)
from trainer.evaluate.baselines.garch import Fit, Garch
from trainer.evaluate.baselines.har import Har, fitted_variance, har_inputs
from trainer.evaluate.baselines.run import BASELINES
from trainer.evaluate.baselines.walk import Walk, forecast_symbol
from trainer.evaluate.realised import mean_ahead, range_variances

WALK = Walk(first=300, refit=60)


def market(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Return candles of a market whose volatility clusters (GARCH), shape (n, 5)."""
    rng = np.random.default_rng(seed)
    rows, close, variance = [], 100.0, 1e-4
    for _ in range(count):
        path = np.cumsum(math.sqrt(variance / 8) * rng.standard_normal(8))
        prices = close * np.exp(path)
        rows.append((prices[0], prices.max(), prices.min(), prices[-1], 1e6 * rng.random()))
        variance = 5e-6 + 0.1 * path[-1] ** 2 + 0.85 * variance
        close = prices[-1]
    return np.array(rows)


CANDLES = market(400)


@cache
def whole(name: str) -> Prediction:
    return BASELINES[name]().forecast(CANDLES, WALK)


@pytest.mark.parametrize("name", BASELINES)
def test_cutting_the_data_changes_no_forecast_before(name: str) -> None:
    cut = BASELINES[name]().forecast(CANDLES[:345], WALK)  # inside the first refit's block
    assert cut.log_return.shape == (45, 3, 7)
    np.testing.assert_array_equal(cut.log_return, whole(name).log_return[:45])
    np.testing.assert_array_equal(cut.volatility, whole(name).volatility[:45])


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_gives_the_long_table(name: str) -> None:
    class Known:
        def __init__(self) -> None:
            self.name = name

        def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
            assert candles is CANDLES
            assert walk is WALK
            return whole(name)

    times = np.arange(400, dtype=np.int64)
    table = forecast_symbol(Known(), "A", times, CANDLES, WALK)
    assert len(table) == 100 * 3
    assert table["open_ms"].tolist() == np.repeat(np.arange(300, 400), 3).tolist()
    np.testing.assert_array_equal(table["last_close"], np.repeat(CANDLES[300:, 3], 3))
    assert (table["predicted_close"] > 0).all()
    quantiles = table[[f"q{level:g}" for level in WALK.levels]].to_numpy()
    assert np.isnan(quantiles[:, 0]).all() or (np.diff(quantiles, axis=1) >= 0).all()


def test_too_short_a_history_gives_no_rows() -> None:
    for make in BASELINES.values():
        assert forecast_symbol(make(), "A", np.arange(9), CANDLES[:9], WALK).empty


def test_blocks_cover_every_origin_once() -> None:
    assert list(WALK.blocks(425)) == [(300, 360), (360, 420), (420, 425)]
    assert list(WALK.blocks(300)) == []


def test_mean_ahead_and_trailing_mean_by_hand() -> None:
    values = np.array([np.nan, 1.0, 2.0, 3.0, 4.0])
    assert mean_ahead(values, np.arange(3), 2).tolist() == [1.5, 2.5, 3.5]
    assert walk.trailing_mean(values, 2)[2:].tolist() == [1.5, 2.5, 3.5]
    assert np.isnan(walk.trailing_mean(values, 2)[:2]).all()


def test_persistence_and_drift_by_hand() -> None:
    assert (Persistence().forecast(CANDLES, WALK).log_return[:, :, 3] == 0).all()
    got = Drift().forecast(CANDLES, WALK).log_return[10, :, 3]
    mean = math.log(CANDLES[310, 3] / CANDLES[0, 3]) / 310
    assert got == pytest.approx([mean, 5 * mean, 10 * mean])


@pytest.mark.parametrize(("j", "step"), [(0, 1), (1, 5), (2, 10)])
def test_rolling_quantiles_are_those_of_the_newest_250_moves(j: int, step: int) -> None:
    got = RollingQuantiles().forecast(CANDLES, WALK)
    for origin in (300, 357, 399):
        logs = np.log(CANDLES[: origin + 1, 3])
        moves = [logs[i] - logs[i - step] for i in range(origin - 249, origin + 1)]
        assert got.log_return[origin - 300, j] == pytest.approx(np.quantile(moves, WALK.levels))


def test_ewma_variance_by_the_recursion() -> None:
    returns = np.random.default_rng(2).standard_normal(50)
    variance, expected = returns[0] ** 2, [returns[0] ** 2]
    for one in returns:
        variance = 0.94 * variance + 0.06 * one**2
        expected.append(variance)
    assert ewma_variance(returns, 0.94) == pytest.approx(expected)


def test_garch_variances_are_those_of_arch() -> None:
    returns = 100 * np.diff(np.log(CANDLES[:, 3]))
    for asymmetric in (False, True):
        model = arch_model(
            returns, mean="Constant", vol="GARCH", p=1, o=int(asymmetric), q=1, dist="t",
            rescale=False,
        )  # fmt: skip
        result = model.fit(disp="off", show_warning=False)
        fit = Garch(asymmetric=asymmetric)._fit(returns)
        got = fit.variances(returns)
        assert np.sqrt(got[:-1]) == pytest.approx(np.asarray(result.conditional_volatility))
        assert got[-1] == pytest.approx(result.forecast(horizon=1).variance.iloc[-1, 0])  # type: ignore[attr-defined]


def test_simulated_quantiles_are_those_of_the_closed_form_without_feedback() -> None:
    fit = Fit(mean=0.1, omega=4.0, alpha=0.0, gamma=0.0, beta=0.0, first=4.0)
    residuals = np.random.default_rng(3).standard_normal(5000)
    got = Garch(paths=20_000)._quantiles(fit, residuals, np.full(2, 4.0), WALK)
    for j, step in enumerate(WALK.horizons):
        spread = 2 * math.sqrt(step)
        assert got[:, j, 5] == pytest.approx(0.1 * step + spread * 1.2816, abs=0.04 * spread)
        assert got[:, j, 0] == pytest.approx(0.1 * step - spread * 1.6449, abs=0.04 * spread)


def test_expected_variance_is_the_mean_of_simulated_paths() -> None:
    fit = Fit(mean=0.0, omega=0.05, alpha=0.05, gamma=0.1, beta=0.85, first=1.0)
    rng = np.random.default_rng(4)
    residuals = rng.standard_t(6, 2000) / math.sqrt(1.5)
    now = np.array([0.4, 3.0])
    variance, total = np.repeat(now[:, None], 100_000, axis=1), np.zeros(2)
    for _ in range(10):
        total += variance.mean(axis=1)
        drawn = rng.choice(residuals, variance.shape)
        news = (fit.alpha + fit.gamma * (drawn < 0)) * variance * drawn**2
        variance = fit.omega + news + fit.beta * variance
    got = garch.mean_variances(fit, residuals, now, (1, 10))
    assert got[:, 0] == pytest.approx(now)
    assert got[:, 1] == pytest.approx(total / 10, rel=0.02)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("oddity", ["still, then a jump", "mostly halted", "crash"])
def test_garch_is_bounded_where_a_market_stands_still_and_jumps(
    oddity: str, *, asymmetric: bool
) -> None:
    """GJR's variance fell below 0 for halted candles, and forecasts were 1e8 a candle."""
    rng = np.random.default_rng(1)
    moves = rng.normal(0, 0.01, 900)
    if oddity == "mostly halted":
        moves[rng.random(900) < 0.9] = 0.0
    elif oddity == "crash":
        moves[700] = -12.0
    else:
        moves[:250] = 0.0
        moves[300:302] = 8.0, -8.0
    close = 50 * np.exp(np.cumsum(moves))
    opened = np.concatenate([close[:1], close[:-1]])
    columns = [opened, np.maximum(opened, close), np.minimum(opened, close), close, np.ones(900)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        made = Garch(asymmetric=asymmetric, paths=50).forecast(
            np.column_stack(columns), Walk(first=500, refit=200)
        )
    assert np.isfinite(made.log_return).all()
    assert (made.volatility > 0).all()
    assert made.volatility.max() < 100 * np.abs(moves).max()


def test_har_finds_the_weights_of_a_har_world() -> None:
    rng = np.random.default_rng(5)
    logs = list(rng.standard_normal(30) * 0.1 - 9)
    for _ in range(20_000):
        means = [np.log(np.mean(np.exp(logs[-k:]))) for k in (1, 5, 22)]
        logs.append(-0.9 + 0.4 * means[0] + 0.3 * means[1] + 0.2 * means[2] + 0.3 * rng.normal())
    variances = np.concatenate([[np.nan], np.exp(logs)])
    inputs = har_inputs(variances)
    known = slice(22, len(variances) - 1)
    realised = mean_ahead(variances, np.arange(known.start, known.stop), 1)
    weights = np.linalg.lstsq(inputs[known], 0.5 * np.log(realised), rcond=None)[0]
    assert weights[1:] == pytest.approx([0.4, 0.3, 0.2], abs=0.05)
    got = fitted_variance(inputs, known, realised)[known]
    assert np.mean(realised / got) == pytest.approx(1)


def test_volatility_has_the_level_of_the_range_variance() -> None:
    candles = market(1500, seed=6)
    origins = np.arange(WALK.first, len(candles) - 5)
    realised = mean_ahead(range_variances(candles), origins, 5)
    for baseline in (RollingQuantiles(), Ewma(), Garch(), Har()):
        variance = baseline.forecast(candles, WALK).volatility[: len(realised), 1] ** 2
        assert np.mean(realised / variance) == pytest.approx(1, abs=0.15), baseline.name


def test_distributions_of_a_garch_world_are_calibrated() -> None:
    candles = market(1400, seed=7)
    logs = np.log(candles[:, 3])
    for baseline in (
        RollingQuantiles(),
        Ewma(),
        Garch(),
        Garch(asymmetric=True),
        Har(),
        Har(in_levels=True),
    ):
        got = baseline.forecast(candles, WALK).log_return[:-10]
        for j, step in enumerate(WALK.horizons):
            moves = logs[300 + step : 1390 + step] - logs[300:1390]
            below = (moves[:, None] <= got[:, j]).mean(axis=0)
            assert below == pytest.approx(WALK.levels, abs=0.07), (baseline.name, step)


def test_arima_knows_a_line() -> None:
    candles = CANDLES.copy()
    noise = 1e-3 * np.random.default_rng(8).standard_normal(400)
    candles[:, 3] = np.exp(4 + 0.01 * np.arange(400) + noise)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        got = Arima().forecast(candles, WALK).log_return[:, :, 3]
    assert got.mean(axis=0) == pytest.approx([0.01, 0.05, 0.10], abs=0.002)
