"""What the online calibration promises of any series: Hypothesis, and simulated ones."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.calibration import (
    MAX_SCALE,
    Grid,
    baseline_codes,
    baseline_quantiles,
    calibrate,
    first_variance,
    learn,
    next_variance,
    quantiles,
)

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
GRID = Grid((1, 5), LEVELS)
NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
ONE = np.array([0])


def run(
    outcomes: NDArray[np.float64], raw: NDArray[np.float64], grid: Grid = GRID
) -> NDArray[np.float64]:
    """Return the calibrated quantiles of one series at each candle, (T, Q), one ahead."""
    state = grid.start()
    made = []
    for outcome, row in zip(outcomes, raw, strict=True):
        both = np.stack([row, row])[None].astype(np.float32)  # (1, H, Q)
        made.append(quantiles(grid, both, calibrate(grid, state[None], both))[0, 0])
        after = learn(
            grid, state[:1], ONE, np.array([outcome]), both[0, :1], np.array([0.01])
        )  # fmt: skip
        state = np.concatenate([after, state[1:]])
    return np.array(made)


outcome_lists = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60)


@given(outcome_lists, st.floats(1e-5, 0.3), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_quantiles_rise_and_keep_to_their_side_and_within_bounds(
    outcomes: list[float], spread: float, shift: int
) -> None:
    raw = np.tile((shift - 2) * spread + spread * NORMAL, (len(outcomes), 1))
    made = run(np.array(outcomes), raw)
    at = GRID.median
    assert (np.diff(made, axis=1) >= 0).all()
    assert made[:, at] == pytest.approx(raw[:, at], rel=1e-6, abs=1e-9)
    distance = np.abs(made - made[:, at : at + 1])
    held = np.abs(raw - raw[:, at : at + 1])
    half = NORMAL[LEVELS.index(0.9)] * spread
    assert (distance <= held * MAX_SCALE + 1.01 * half).all()
    assert (distance >= held / MAX_SCALE - 0.01 * half).all()


@given(outcome_lists, st.sampled_from([2.0**-20, 2.0**-7, 2.0**8]))
@settings(deadline=None, max_examples=40)
def test_the_scale_of_prices_and_moves_does_not_matter(outcomes: list[float], unit: float) -> None:
    raw = np.tile(0.1 * NORMAL, (len(outcomes), 1))
    made = run(np.array(outcomes), raw)
    scaled = run(unit * np.array(outcomes), unit * raw.astype(np.float32).astype(np.float64))
    assert (scaled == unit * made).all()


@given(outcome_lists, st.data())
@settings(deadline=None, max_examples=40)
def test_a_forecast_knows_nothing_of_what_comes(outcomes: list[float], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(outcomes) - 1))
    raw = np.tile(0.1 * NORMAL, (len(outcomes), 1))
    other = [*outcomes[:at], *data.draw(st.permutations(outcomes[at:]))]
    same = run(np.array(outcomes), raw)[: at + 1] == run(np.array(other), raw)[: at + 1]
    assert same.all()


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=9), st.integers(0, 8))
@settings(deadline=None, max_examples=60)
def test_a_series_gets_the_same_bits_alone_and_among_others(
    outcomes: list[float], chosen: int
) -> None:
    count = len(outcomes)
    chosen %= count
    random = np.random.default_rng(count)
    state = np.stack([GRID.start()] * count)
    raw = random.uniform(0.01, 0.1, (count, 1, 1)) * np.stack([NORMAL] * 2)
    horizon = np.arange(count) % 2
    rows = state[np.arange(count), horizon]
    drawn, sigma = np.array(outcomes), random.uniform(0.01, 0.1, count)
    together = learn(GRID, rows, horizon, drawn, raw[np.arange(count), horizon], sigma)
    only = slice(chosen, chosen + 1)
    alone = learn(
        GRID, rows[only], horizon[only], drawn[only], raw[only, horizon[chosen]], sigma[only]
    )
    assert alone.tobytes() == together[only].tobytes()
    assert (
        calibrate(GRID, state[only], raw[only]).tobytes()
        == calibrate(GRID, state, raw)[only].tobytes()
    )


def test_nothing_is_moved_before_anything_is_settled() -> None:
    raw = (0.03 * NORMAL)[None, None].repeat(2, axis=1)
    codes = calibrate(GRID, GRID.start()[None], raw)
    assert quantiles(GRID, raw, codes) == pytest.approx(raw, abs=0.03 * 1.3 / 4096)


@pytest.mark.parametrize("true", [0.5, 1.0, 2.0])
def test_coverage_becomes_nominal_whatever_the_spread(true: float) -> None:
    """Also where tails are heavier than the forecast's, which its offsets learn more slowly."""
    random = np.random.default_rng(7)
    outcomes = 0.01 * true * random.standard_t(5, 6000)
    made = run(outcomes, np.tile(0.01 * NORMAL, (6000, 1)))
    late = slice(2500, None)
    for low, high, nominal, near in ((3, 7, 0.8, 0.015), (2, 8, 0.9, 0.015), (0, 10, 0.98, 0.02)):
        inside = (outcomes >= made[:, low]) & (outcomes <= made[:, high])
        assert inside[late].mean() == pytest.approx(nominal, abs=near)


def test_a_halted_market_and_outliers_do_not_blow_it_up() -> None:
    """Flat candles shrink the intervals to a quarter at the least, and trade brings them back."""
    random = np.random.default_rng(3)
    trade = 0.01 * random.standard_normal(1500)
    outcomes = np.concatenate([trade, np.zeros(5000), trade, [5.0, -5.0, 5.0], trade])
    made = run(outcomes, np.tile(0.01 * NORMAL, (len(outcomes), 1)))
    width = made[:, 7] - made[:, 3]
    nominal = 2 * 0.01 * NORMAL[7]
    assert width.min() >= nominal / MAX_SCALE * 0.99
    assert width.max() <= nominal * (MAX_SCALE + 1.0)
    again = slice(7500, 8000)
    inside = (outcomes >= made[:, 3]) & (outcomes <= made[:, 7])
    assert inside[again].mean() == pytest.approx(0.8, abs=0.06)
    assert inside[-500:].mean() == pytest.approx(0.8, abs=0.06)


def test_a_forecast_without_spread_stays_as_it_is_and_teaches_nothing() -> None:
    raw = np.full((1, 2, len(LEVELS)), 0.01)
    state = GRID.start()
    codes = calibrate(GRID, state[None], raw)
    assert (quantiles(GRID, raw, codes) == 0.01).all()
    after = learn(GRID, state[:1], ONE, np.array([0.5]), raw[0, :1], np.array([0.0]))
    assert (after == state[:1]).all()


def test_the_baseline_learns_the_quantiles_of_standardised_moves() -> None:
    random = np.random.default_rng(5)
    state = GRID.start()[:1]
    raw = (0.01 * NORMAL)[None]
    for move in 0.02 * random.standard_t(4, 5000):
        state = learn(GRID, state, ONE, np.array([move]), raw, np.array([0.02]))
    got = baseline_quantiles(GRID, baseline_codes(GRID, state), np.array([0.02]), ONE)[0]
    many = np.quantile(0.02 * random.standard_t(4, 400_000), LEVELS)
    assert (got[:5] == -got[:-6:-1]).all()
    assert got[GRID.median] == 0.0
    assert got == pytest.approx(many, rel=0.2, abs=0.001)


def test_the_baselines_variance_is_exponentially_weighted() -> None:
    closes = [100.0, 101.0, 99.0]
    moves = np.diff(np.log(closes))
    assert first_variance(closes) == pytest.approx((moves**2).mean())
    assert next_variance(4.0, 1.0) == pytest.approx(0.94 * 4 + 0.06)


def test_another_models_grid_takes_over_what_both_have() -> None:
    state = GRID.start() + np.arange(GRID.shape[1], dtype=np.float32) / np.float32(100)
    other = Grid((5, 7), (0.05, 0.2, 0.5, 0.95))
    carried = other.carry(GRID, state)
    assert (carried[0, :3] == state[1, :3]).all()
    assert (carried[0, [3, 5, 6]] == state[1, [5, 8, 11]]).all()
    assert carried[0, 4] == 0.0
    assert (carried[1] == other.start()[1]).all()


@pytest.mark.parametrize("levels", [(0.5,), (0.05, 0.5, 0.95), (0.3, 0.5, 0.6), LEVELS])
def test_any_levels_do(levels: tuple[float, ...]) -> None:
    grid = Grid((1,), levels)
    raw = np.array([NormalDist().inv_cdf(level) for level in levels])[None]
    state = grid.start()
    for outcome in (0.3, -2.0, 0.0):
        state = learn(grid, state, ONE, np.array([outcome]), raw, np.array([1.0]))
        codes = calibrate(grid, state[None], raw[None])
        assert (np.diff(quantiles(grid, raw[None], codes)) >= 0).all()
        baseline_quantiles(grid, baseline_codes(grid, state), np.array([1.0]), ONE)
