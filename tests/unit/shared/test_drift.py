"""The test for drift: its rate of false alarms, and how soon it notices, on simulated streams."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.drift import (
    ALTERNATIVES,
    MOST,
    THRESHOLD,
    WIDTH,
    Drift,
    after,
    bins_of,
    drifts,
    report,
    start,
)

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
SKEWED = -np.log(1 - np.array(LEVELS))  # of the exponential distribution

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def watch(
    draw: Draw,
    quantiles: NDArray[np.float64],
    series: int,
    candles: int,
    state: NDArray[np.float32],
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return when each series drifted, (candles, series), and the states at the end."""
    random = np.random.default_rng(17)
    raw = np.tile(quantiles, (series, 1))
    drifted = np.empty((candles, series), dtype=bool)
    for at in range(candles):
        state = after(LEVELS, state, draw(random, series), raw)
        drifted[at] = state[:, -1] > 0
    return drifted, state


def normal(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    return random.standard_normal(count)


def exponential(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    return random.exponential(size=count)


@pytest.mark.parametrize(("draw", "quantiles"), [(normal, NORMAL), (exponential, SKEWED)])
def test_a_calibrated_series_has_a_false_alarm_in_10_000_candles_at_most(
    draw: Draw, quantiles: NDArray[np.float64]
) -> None:
    series, candles = 400, 3000
    drifted, _ = watch(draw, quantiles, series, candles, np.stack([start()] * series))
    began = drifted[1:] & ~drifted[:-1]
    assert 0 < began.sum() <= series * candles / THRESHOLD


@pytest.mark.parametrize("before", [0, 300])
@pytest.mark.parametrize(
    ("shift", "scale", "within"), [(0, 2.0, 50), (0, 0.5, 50), (0.5, 1, 150), (-0.5, 1, 150)]
)
def test_a_drift_is_noticed_in_time(before: int, shift: float, scale: float, within: int) -> None:
    series = 400
    _, state = watch(normal, NORMAL, series, before, np.stack([start()] * series))
    calm = state[state[:, -1] == 0]
    drifted, _ = watch(
        lambda random, count: shift + scale * random.standard_normal(count),
        NORMAL, len(calm), within, calm,
    )  # fmt: skip
    assert drifted.any(axis=0).mean() >= 0.95


def test_magnitudes_say_what_has_changed_and_a_drift_that_is_over_ends() -> None:
    series = 200
    _, state = watch(lambda r, n: 0.5 * r.standard_normal(n), NORMAL, series, 120,
                     np.stack([start()] * series))  # fmt: skip
    told = [Drift(**report(row)) for row in state]
    assert all(said.drifting > 0 and said.evidence >= THRESHOLD for said in told)
    assert np.mean([said.spread for said in told]) == pytest.approx(0.55, abs=0.07)
    assert np.mean([said.shift for said in told]) == pytest.approx(0, abs=0.05)
    drifted, state = watch(normal, NORMAL, series, 250, state)
    assert (~drifted).any(axis=0).all()
    assert np.mean([report(row)["spread"] for row in state]) == pytest.approx(1, abs=0.07)


level_lists = st.lists(st.integers(1, 999), max_size=9, unique=True).map(
    lambda some: tuple(sorted({thousandths / 1000 for thousandths in some} | {0.5}))
)


@given(level_lists)
@settings(deadline=None)
def test_each_ratio_is_an_e_value_whatever_the_levels(levels: tuple[float, ...]) -> None:
    expected = np.diff([0.0, *levels, 1.0])
    bins = bins_of(levels)
    assert bins.ratio.shape == (len(ALTERNATIVES), len(levels) + 1)
    assert bins.ratio @ expected == pytest.approx(1.0)
    assert bins.moments @ expected == pytest.approx([0.0, 1.0], abs=1e-9)


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=9), st.integers(0, 8))
@settings(deadline=None, max_examples=60)
def test_a_series_gets_the_same_bits_alone_and_among_others(
    outcomes: list[float], chosen: int
) -> None:
    chosen %= len(outcomes)
    random = np.random.default_rng(len(outcomes))
    state = random.uniform(0, 9, (len(outcomes), WIDTH)).astype(np.float32)
    raw = random.uniform(0.5, 2, (len(outcomes), 1)) * NORMAL
    only = slice(chosen, chosen + 1)
    together = after(LEVELS, state, np.array(outcomes), raw)
    alone = after(LEVELS, state[only], np.array(outcomes[only]), raw[only])
    assert alone.tobytes() == together[only].tobytes()


def test_evidence_is_bounded_and_a_forecast_without_spread_says_nothing() -> None:
    _, state = watch(lambda _, n: np.full(n, 9.0), NORMAL, 1, 300, start()[None])
    assert report(state[0])["evidence"] <= MOST
    assert drifts(state[0])
    flat = np.zeros((1, len(LEVELS)))
    assert (after(LEVELS, state, np.zeros(1), flat) == state).all()
    assert (after(LEVELS, state, np.array([np.nan]), NORMAL[None]) == state).all()
