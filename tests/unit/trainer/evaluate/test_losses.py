"""Losses, calibration and skill against scipy, closed forms and cases counted by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from shared.candles import DAY_MS
from trainer.evaluate import losses as scoring
from trainer.evaluate import skill

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
NAMES = [f"q{level:g}" for level in LEVELS]
numbers = st.floats(-5, 5, allow_nan=False)


def table(rows: int, close: NDArray[np.float64], prices: NDArray[np.float64]) -> pd.DataFrame:
    """Return joined forecasts from a last close of 100, one step ahead."""
    made = pd.DataFrame(
        {
            "symbol": "A",
            "open_ms": np.arange(rows) * DAY_MS,
            "step": 1,
            "last_close": 100.0,
            "predicted_close": prices[:, 3],
            "volatility": 0.02,
            "close": close,
            "realised_variance": 0.0004,
        }
    )
    made[NAMES] = prices
    return made


def normal_table(seed: int, rows: int, scale: float) -> pd.DataFrame:
    """Return outcomes of 2 % volatility, forecast as if it were ``scale`` times that."""
    moves = 0.02 * np.random.default_rng(seed).standard_normal(rows)
    quantiles = np.tile(0.02 * scale * stats.norm.ppf(LEVELS), (rows, 1))
    return table(rows, 100 * np.exp(moves), 100 * np.exp(quantiles))


@given(numbers, numbers, st.floats(0.01, 0.99))
def test_pinball_is_the_tilted_absolute_error(
    outcome: float, forecast: float, level: float
) -> None:
    got = scoring.pinball(np.array([outcome]), np.array([[forecast]]), np.array([level]))
    weight = level if outcome > forecast else 1 - level
    assert got[0, 0] == pytest.approx(weight * abs(outcome - forecast))


def test_pinball_is_least_at_the_true_quantile() -> None:
    sample = np.sort(np.random.default_rng(0).standard_normal(401))
    candidates = np.linspace(-3, 3, 601)
    for level in LEVELS:
        loss = scoring.pinball(
            np.repeat(sample, 601), np.tile(candidates, 401)[:, None], np.array([level])
        )
        best = candidates[loss.reshape(401, 601).mean(axis=0).argmin()]
        assert best == pytest.approx(np.quantile(sample, level), abs=0.02)


@pytest.mark.parametrize("outcome", [-2.0, -0.3, 0.0, 1.5])
def test_crps_by_many_quantiles_is_the_normal_distributions_own(outcome: float) -> None:
    levels = (np.arange(2000) + 0.5) / 2000
    losses = scoring.pinball(np.array([outcome]), stats.norm.ppf(levels)[None], levels)
    got = scoring.crps(losses, levels)[0]
    closed = outcome * (2 * stats.norm.cdf(outcome) - 1) + 2 * stats.norm.pdf(outcome)
    assert got == pytest.approx(closed - 1 / math.sqrt(math.pi), abs=2e-3)
    below, _ = integrate.quad(lambda x: stats.norm.cdf(x) ** 2, -10, outcome)
    above, _ = integrate.quad(lambda x: stats.norm.sf(x) ** 2, outcome, 10)
    assert got == pytest.approx(below + above, abs=2e-3)


def test_crps_weights_of_the_default_levels_by_hand() -> None:
    shares = [0.075, 0.1, 0.2, 0.25, 0.2, 0.1, 0.075]
    losses = np.arange(1.0, 8.0)
    by_hand = 2 * sum(loss * share for loss, share in zip(losses, shares, strict=True))
    assert scoring.crps(losses[None], np.array(LEVELS))[0] == pytest.approx(by_hand)


@given(st.floats(1e-6, 1e-2), st.floats(1e-6, 1e-2))
def test_qlike_is_zero_at_the_truth_and_rises_away_from_it(truth: float, forecast: float) -> None:
    exact, other, further = scoring.qlike(
        np.full(3, truth), np.array([truth, forecast, forecast**2 / truth])
    )
    assert exact == pytest.approx(0, abs=1e-12)
    assert 0 <= other <= further + 1e-12
    whole = truth / forecast - math.log(truth / forecast) - 1
    assert other == pytest.approx(min(whole, scoring.MAX_QLIKE))


def test_a_market_that_stood_still_has_no_qlike() -> None:
    assert np.isnan(scoring.qlike(np.array([0.0]), np.array([1e-4]))).all()


def test_outcomes_are_joined_by_time_and_the_rest_falls_out() -> None:
    candles = np.array(
        [[10, 12, 9, 11, 1], [12, 13, 11, 12, 1], [12, 14, 12, 14, 1], [13, 13, 12, 12, 1]], float
    )
    symbol = SimpleNamespace(open_ms=np.arange(4) * DAY_MS, candles=candles)
    made = pd.DataFrame(
        {"symbol": "A", "open_ms": [0, 0, 2 * DAY_MS, 2 * DAY_MS], "step": [1, 2, 1, 2]}
    )
    joined = scoring.join_outcomes(made, {"A": symbol})
    assert joined[["open_ms", "step", "close"]].to_numpy().tolist() == [
        [0, 1, 12], [0, 2, 14], [2 * DAY_MS, 1, 12],
    ]  # fmt: skip
    variances = [
        math.log(o / before) ** 2
        + math.log(h / low) ** 2 / 2
        - (2 * math.log(2) - 1) * math.log(c / o) ** 2
        for (o, h, low, c, _), before in zip(candles[1:], candles[:-1, 3], strict=True)
    ]
    wanted = [variances[0], (variances[0] + variances[1]) / 2, variances[2]]
    assert joined["realised_variance"].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("open_ms", [5, 9 * DAY_MS])
def test_a_forecast_from_a_time_without_a_candle_is_an_error(open_ms: int) -> None:
    symbol = SimpleNamespace(open_ms=np.arange(3) * DAY_MS, candles=np.full((3, 5), 10.0))
    made = pd.DataFrame({"symbol": "A", "open_ms": [open_ms], "step": [1]})
    with pytest.raises(KeyError, match=f"A: no candle at open_ms {open_ms}"):
        scoring.join_outcomes(made, {"A": symbol})


def test_losses_of_one_row_by_hand() -> None:
    prices = np.array([[95, 96, 98, 101, 103, 105, 106]], float)
    loss = scoring.losses(table(1, np.array([104.0]), prices)).iloc[0]
    outcome = math.log(1.04)
    by_level = [
        (level if outcome > math.log(q / 100) else level - 1) * (outcome - math.log(q / 100))
        for level, q in zip(LEVELS, prices[0], strict=True)
    ]
    assert loss["pinball"] == pytest.approx(np.mean(by_level))
    assert loss["squared"] == pytest.approx(math.log(104 / 101) ** 2)
    assert loss["absolute"] == pytest.approx(math.log(104 / 101))
    assert loss["price_squared"] == pytest.approx(9)
    assert loss["price_absolute"] == pytest.approx(3)
    assert loss["qlike"] == pytest.approx(0)


def test_coverage_reliability_and_pit_by_hand() -> None:
    prices = np.tile([91, 92, 95, 100, 105, 108, 109], (4, 1)).astype(float)
    joined = table(4, np.array([90.0, 93.0, 100.0, 108.0]), prices)
    assert scoring.coverage(joined, (0.05, 0.95)) == {"inside": 0.75, "below": 0.25, "above": 0.0}
    assert scoring.coverage(joined, (0.25, 0.75)) == {"inside": 0.25, "below": 0.5, "above": 0.25}
    assert scoring.reliability(joined).tolist() == [0.25, 0.25, 0.5, 0.75, 0.75, 1.0, 1.0]
    edges, density = scoring.pit_density(joined)
    assert edges.tolist() == [0, *LEVELS, 1]
    assert density == pytest.approx([5, 0, 0.25 / 0.15, 1, 0, 0.25 / 0.15, 0, 0])


def test_intervals_are_those_that_the_levels_have_both_ends_of() -> None:
    assert scoring.central_intervals(LEVELS) == {
        50: (0.25, 0.75), 80: (0.1, 0.9), 90: (0.05, 0.95)
    }  # fmt: skip
    assert list(scoring.central_intervals(LEVELS)) == [50, 80, 90]
    assert scoring.central_intervals((0.01, 0.1, 0.5, 0.75, 0.99)) == {98: (0.01, 0.99)}
    assert scoring.central_intervals((0.5,)) == {}


def test_a_calibrated_forecast_is_found_calibrated_and_a_narrow_one_narrow() -> None:
    right, narrow = normal_table(1, 20_000, 1.0), normal_table(1, 20_000, 0.5)
    assert scoring.reliability(right) == pytest.approx(LEVELS, abs=0.01)
    assert scoring.pit_density(right)[1] == pytest.approx(np.ones(8), abs=0.08)
    share = 1 - 2 * stats.norm.sf(0.5 * stats.norm.ppf(0.95))
    assert scoring.coverage(narrow, (0.05, 0.95))["inside"] == pytest.approx(share, abs=0.01)
    density = scoring.pit_density(narrow)[1]
    assert density[0] > 2
    assert density[-1] > 2


def loss_table(values: NDArray[np.float64], symbols: int = 1) -> pd.DataFrame:
    """Return losses of consecutive dates, the same for every symbol."""
    parts = [
        pd.DataFrame(
            {"symbol": str(i), "open_ms": np.arange(len(values)), "step": 1, "pinball": values}
        )
        for i in range(symbols)
    ]
    return pd.concat(parts, ignore_index=True)


def test_skill_is_the_share_of_the_loss_that_is_gone() -> None:
    rng = np.random.default_rng(0)
    other = rng.exponential(size=500)
    found = skill.compare(loss_table(0.9 * other), loss_table(other), "pinball", 1)
    assert (found.skill, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (found.rows, found.dates) == (500, 500)
    assert found.dm > 5


def test_only_rows_that_both_forecast_count() -> None:
    mine, other = np.full(10, 1.0), np.full(10, 2.0)
    other[0] = np.nan
    found = skill.compare(loss_table(mine)[:6], loss_table(other), "pinball", 1)
    assert (found.rows, found.skill) == (5, 0.5)
    nothing = skill.compare(loss_table(mine)[:1], loss_table(other), "pinball", 1)
    assert nothing.rows == 0
    assert math.isnan(nothing.skill)


def test_symbols_that_move_together_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(3)
    mine, other = rng.exponential(size=400), rng.exponential(size=400)
    one = skill.compare(loss_table(mine), loss_table(other), "pinball", 1)
    four = skill.compare(loss_table(mine, 4), loss_table(other, 4), "pinball", 1)
    assert (four.low, four.high, four.dm) == pytest.approx((one.low, one.high, one.dm))
    assert four.rows == 4 * one.rows


def test_the_bootstrap_interval_is_that_of_a_known_mean() -> None:
    values = np.random.default_rng(5).standard_normal(4000) + 3
    low, high = skill.ratio_interval(values, np.ones(4000))
    error = values.std() / math.sqrt(4000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_the_bootstrap_interval_widens_with_dependence() -> None:
    noise = np.random.default_rng(6).standard_normal(4000)
    slow = np.convolve(noise, np.ones(10), "valid")  # overlapping sums, as of 10 candles ahead
    low, high = skill.ratio_interval(slow, np.ones(len(slow)))
    lag = [np.cov(slow[k:], slow[: len(slow) - k])[0, 1] for k in range(1, 10)]
    error = math.sqrt((slow.var() + 2 * sum(lag)) / len(slow))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert high - low > 2 * (2 * 1.96 * slow.std() / math.sqrt(len(slow)))


def test_blocks_run_on_from_the_end_to_the_start() -> None:
    values = np.arange(5.0)
    sums = skill._block_sums(values, np.array([[3, 4]]), np.array([3, 2]))
    assert sums.tolist() == [(3 + 4 + 0) + (4 + 0)]


def test_diebold_mariano_one_step_ahead_is_students_t_test() -> None:
    difference = np.random.default_rng(7).standard_normal(60) + 0.3
    # no lag: the long-run variance is the plain one, and Harvey's factor makes it a t-test
    statistic = difference.mean() / math.sqrt(skill.newey_west(difference, 0) / 60)
    corrected = statistic * math.sqrt(59 / 60)
    expected = stats.ttest_1samp(difference, 0)
    assert corrected == pytest.approx(expected.statistic)
    got, p_value = skill.diebold_mariano(difference, 1)
    assert p_value == pytest.approx(2 * stats.t.sf(abs(got), 59))


def test_newey_west_by_the_double_sum() -> None:
    values = np.random.default_rng(8).standard_normal(50).cumsum()
    centred, lags = values - values.mean(), 4
    total = sum(
        (1 - abs(i - j) / (lags + 1)) * centred[i] * centred[j] / 50
        for i in range(50)
        for j in range(50)
        if abs(i - j) <= lags
    )
    assert skill.newey_west(values, lags) == pytest.approx(total)


def test_diebold_mariano_holds_its_size() -> None:
    rng = np.random.default_rng(9)
    rejected = 0
    for _ in range(400):
        noise = rng.standard_normal(609)
        _, p_value = skill.diebold_mariano(np.convolve(noise, np.ones(10), "valid"), 10)
        rejected += p_value < 0.05
    assert rejected / 400 < 0.12


def test_equal_methods_have_no_statistic() -> None:
    statistic, p_value = skill.diebold_mariano(np.zeros(50), 1)
    assert math.isnan(statistic)
    assert math.isnan(p_value)
