"""Features of whole windows: slots, habits and the long level, against a plain computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.bundle import default_path, load
from shared.candles import INTERVALS_MS, WEEKEND
from shared.forecaster import OnnxForecaster
from shared.window import held
from trainer.dataset import SymbolCandles, samples_at
from trainer.evaluate.backtest import predict_all
from trainer.evaluate.realised import range_variances
from trainer.features import FEATURES, Candles, extract
from trainer.fit_config import DEFAULT_FEATURES, DRIFT, HABITS, SLOTS, YEARS, FitConfig

MINUTE_MS = 60_000
DAY_MS = 86_400_000
LEAST = 144
CONFIG = FitConfig()
LEVEL = "range-volatility-120"
SPANS = {
    "slot-ahead-1": (1, 1),
    "slot-ahead-5": (1, 5),
    "slot-ahead-10": (1, 10),
    "slot-before-1": (0, 0),
    "slot-before-5": (-4, 0),
    "slot-before-22": (-21, 0),
}

INTERVAL = {1440: "1d", 60: "1h", 15: "15m", 5: "5m", 1: "1m"}
OF_WINDOW = {YEARS, *SLOTS, "slots-known", *HABITS, DRIFT}
FORECASTER = OnnxForecaster(load(default_path()))

SESSIONS = {  # class -> minutes of a candle, candles of a day, days of a week
    "daily stock": (1440, 1, 5),
    "daily coin": (1440, 1, 7),
    "hourly stock": (60, 7, 5),
    "hourly currency": (60, 24, 5),
    "hourly coin": (60, 24, 7),
    "15m stock": (15, 26, 5),
    "5m stock": (5, 78, 5),
    "5m coin": (5, 288, 7),
    "1m stock": (1, 390, 5),
    "1m coin": (1, 1440, 7),
}


def times(kind: str, count: int) -> NDArray[np.int64]:
    minutes, of_day, of_week = SESSIONS[kind]
    trading = [day for day in range(4000) if of_week == 7 or day % 7 not in WEEKEND]
    days = trading[: count // of_day + 2]
    start = 0 if of_day * minutes == 1440 else 14 * 60 + 30
    opened = [day * 1440 + start + i * minutes for day in days for i in range(of_day)]
    return np.array(opened[-count:], dtype=np.int64) * MINUTE_MS


def walk(kind: str, count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return candles (count, 5), livelier at the beginning of a day, and their times."""
    open_ms = times(kind, count)
    rng = np.random.default_rng(seed)
    scale = 0.01 * (1 + 2 * np.exp(-(open_ms % DAY_MS) / 3.6e6 / 4))
    close = 50 * np.exp(np.cumsum(rng.normal(0, scale)))
    opened = close * np.exp(rng.normal(0, scale / 3))
    high = np.maximum(opened, close) * np.exp(np.abs(rng.normal(0, scale)))
    low = np.minimum(opened, close) * np.exp(-np.abs(rng.normal(0, scale)))
    volume = rng.uniform(0, 1e6, count)
    return held(np.column_stack([opened, high, low, close, volume])), open_ms


def compute(
    candles: NDArray[np.float64], open_ms: NDArray[np.int64], names: tuple[str, ...]
) -> dict[str, float]:
    """Return the newest values of features of one window."""
    series = Candles(
        torch.from_numpy(candles[None].copy()), torch.from_numpy(open_ms[None].copy()), 12, LEAST
    )
    return dict(zip(names, extract(names, series)[0, -1].tolist(), strict=True))


def variances_of(candles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the range variances of a window's candles; the first one's is without its gap."""
    variance = range_variances(candles)
    first = np.log(candles[0])
    variance[0] = (
        0.5 * (first[1] - first[2]) ** 2 - (2 * np.log(2) - 1) * (first[3] - first[0]) ** 2
    )
    return variance


def slot_oracle(variance: NDArray[np.float64], open_ms: NDArray[np.int64]) -> dict[str, float]:
    """Return the slots' features of a window, candle by candle; 0 variance before the first."""
    now, newest = open_ms[-1], len(open_ms) - 1
    intraday = np.diff(open_ms)[-22:].min() < DAY_MS
    like = [
        i for i, at in enumerate(open_ms)
        if intraday and 0 < now - at <= 28 * DAY_MS and (now - at) % DAY_MS == 0
    ]  # fmt: skip
    level = max(variance[-120:].mean(), 1e-10)
    found = {}
    for name, (first, last) in SPANS.items():
        known = [
            variance[i + d] for i in like for d in range(first, last + 1) if 0 <= i + d <= newest
        ]
        mean = max(float(np.mean(known)), 0.01 * level) if known else level
        found[name] = 0.5 * np.log(mean)
    return {**found, "slots-known": min(len(like) / 20, 1.0)}


@pytest.mark.parametrize("length", [144, 512, 2048])
@pytest.mark.parametrize("kind", SESSIONS)
def test_slots_and_the_long_level_equal_a_plain_computation(kind: str, length: int) -> None:
    candles, open_ms = walk(kind, length)
    variance = variances_of(candles)
    got = compute(candles, open_ms, (YEARS, *SLOTS, "slots-known"))
    expected = {YEARS: 0.5 * np.log(variance[-480:].mean()), **slot_oracle(variance, open_ms)}
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=2e-3), name


def habits_oracle(candles: NDArray[np.float64], variance: NDArray[np.float64]) -> dict[str, float]:
    """Return how a series moves, in plain terms of all its newest 480 candles."""
    close, volatility = np.log(candles[:, 3]), np.sqrt(variance[-480:])
    unit = volatility.mean()
    found = {}
    for span in (1, 5, 10):
        moves = (close[span:] - close[:-span])[-480:]
        found[f"move-ratio-{span}"] = np.log(np.abs(moves).mean() / (unit * np.sqrt(span)))
    found["still-share"] = float((np.diff(candles[:, 3])[-480:] == 0).mean())
    found["volatility-spread"] = np.log(np.sqrt((volatility**2).mean()) / unit)
    capped = np.minimum(volatility, 4 * unit)
    apart = capped - capped.mean()
    for lag in (1, 10):
        together = (apart[lag:] * apart[:-lag]).sum() / len(apart)
        found[f"volatility-memory-{lag}"] = together / ((apart**2).mean() + (0.1 * unit) ** 2)
    returns = np.diff(close)[-480:]
    found[DRIFT] = returns.sum() / np.sqrt(len(returns)) / unit
    return found


@pytest.mark.parametrize("length", [144, 512, 2048])
@pytest.mark.parametrize("kind", SESSIONS)
def test_habits_equal_a_plain_computation(kind: str, length: int) -> None:
    candles, open_ms = walk(kind, length)
    still = np.arange(0, length, 7)[1:]
    candles[still, 3] = candles[still - 1, 3]
    candles[:, 1], candles[:, 2] = candles[:, :4].max(axis=1), candles[:, :4].min(axis=1)
    variance = variances_of(candles)
    got = compute(candles, open_ms, (*HABITS, DRIFT))
    for name, value in habits_oracle(candles, variance).items():
        assert got[name] == pytest.approx(value, abs=2e-3), name


def test_a_market_that_comes_back_at_every_candle_moves_no_further_over_many() -> None:
    _, open_ms = walk("daily stock", 512)
    price = np.where(np.arange(512) % 2, 51.0, 50.0)
    got = compute(held(np.column_stack([price] * 4 + [np.ones(512)])), open_ms, HABITS)
    assert got["move-ratio-1"] == pytest.approx(0.0, abs=5e-3)  # the gap is all that moves
    assert got["move-ratio-5"] == pytest.approx(-0.5 * np.log(5), abs=5e-3)
    assert got["move-ratio-10"] == pytest.approx(np.log(0.2)), "the floor: it does not move at all"
    assert got["still-share"] == 0.0


def test_a_market_that_falls_at_every_candle_has_a_drift_of_many_deviations() -> None:
    _, open_ms = walk("daily stock", 512)
    price = 1000.0 * np.exp(-0.01 * np.arange(512))
    got = compute(held(np.column_stack([price] * 4 + [np.ones(512)])), open_ms, (DRIFT,))
    assert got[DRIFT] == pytest.approx(-np.sqrt(480), rel=1e-3)  # each return is its volatility
    rising = compute(held(np.column_stack([1.0 / price] * 4 + [np.ones(512)])), open_ms, (DRIFT,))
    assert rising[DRIFT] == pytest.approx(np.sqrt(480), rel=1e-3)


def test_as_many_slots_of_four_weeks_are_known_as_the_window_holds() -> None:
    for kind, length, slots in [
        ("15m stock", 1024, 20), ("5m stock", 512, 6), ("5m coin", 2048, 7), ("1m stock", 2048, 5),
        ("1m coin", 2048, 1), ("1m stock", 144, 0), ("daily stock", 512, 0),
    ]:  # fmt: skip
        candles, open_ms = walk(kind, length)
        known = compute(candles, open_ms, ("slots-known",))["slots-known"]
        assert known == pytest.approx(slots / 20), kind


def altered(series: SymbolCandles, at: int, rng: np.random.Generator) -> SymbolCandles:
    """Return a series that has another future after the candle at a position: prices and times."""
    candles, open_ms = series.candles.copy(), series.open_ms.copy()
    later = len(candles) - at - 1
    candles[at + 1 :] *= rng.uniform(0.2, 5.0, (later, 1))
    open_ms[at + 1 :] += rng.integers(1, 9, later).cumsum() * MINUTE_MS
    return SymbolCandles(open_ms, held(candles))


@pytest.mark.parametrize("kind", SESSIONS)
def test_inputs_at_a_candle_never_depend_on_later_ones(kind: str) -> None:
    """The truncation test: with another future, or cut after it, a candle's inputs are the same.

    Of every length of window that the class has, through what makes the windows of training.
    """
    rng = np.random.default_rng(5)
    interval, lengths = INTERVAL[SESSIONS[kind][0]], CONFIG.window_lengths("1m")
    longest = max(CONFIG.horizons)
    candles, open_ms = walk(kind, 2200)
    whole = SymbolCandles(open_ms, candles)
    for length in CONFIG.window_lengths(interval):
        # the first candle of that length, the last before the next, one between
        longer = next((more for more in lengths if more > length), 2150)
        at = np.array([length - 1, (length + longer) // 2, longer - 2])
        expected = samples_at(whole, at, CONFIG, CONFIG.window_lengths(interval)).features
        for row, last in enumerate(at):
            cut = SymbolCandles(open_ms[: last + longest + 1], candles[: last + longest + 1])
            for other in (cut, altered(whole, last, rng)):
                some = samples_at(other, at[row : row + 1], CONFIG, CONFIG.window_lengths(interval))
                np.testing.assert_array_equal(some.features[0], expected[row])
            past = SymbolCandles(open_ms[: last + 1], candles[: last + 1])
            known = predict(past, last, interval)
            np.testing.assert_array_equal(predict(altered(whole, last, rng), last, interval), known)
            np.testing.assert_array_equal(predict(whole, last, interval), known)


@pytest.mark.parametrize("interval", INTERVALS_MS)
def test_inputs_of_every_interval_know_nothing_of_later_candles(interval: str) -> None:
    """The truncation test of intervals that no class above has: the model serves them too."""
    candles, _ = walk("1m coin", 700)
    open_ms = np.arange(700, dtype=np.int64) * INTERVALS_MS[interval]
    whole, lengths = SymbolCandles(open_ms, candles), CONFIG.window_lengths(interval)
    at, longest = np.array([650]), max(CONFIG.horizons)
    expected = samples_at(whole, at, CONFIG, lengths).features
    for other in (whole.rows(slice(651 + longest)), altered(whole, 650, np.random.default_rng(7))):
        np.testing.assert_array_equal(samples_at(other, at, CONFIG, lengths).features, expected)
    earlier = samples_at(altered(whole, 649, np.random.default_rng(7)), at, CONFIG, lengths)
    assert not np.array_equal(earlier.features, expected), "the newest candle counts"


def predict(series: SymbolCandles, last: int, interval: str) -> NDArray[np.floating[Any]]:
    """Return the built-in model's quantiles after one candle, as the back-test makes them."""
    return predict_all(FORECASTER, series, last, last + 1, interval).log_return


@pytest.mark.parametrize("kind", SESSIONS)
def test_a_step_of_a_window_knows_no_later_step(kind: str) -> None:
    """Steps before the newest change with later candles in the features of the whole window alone.

    Those are of the newest candle by intent, and every step is given them.
    """
    candles, open_ms = walk(kind, 2048)
    later = altered(SymbolCandles(open_ms, candles), 2042, np.random.default_rng(6))  # 5 candles
    names = tuple(name for name in DEFAULT_FEATURES if name not in OF_WINDOW)
    before, after = (
        extract(names, Candles(torch.from_numpy(series.candles[None]),
                               torch.from_numpy(series.open_ms[None]), 12, LEAST))[0]
        for series in (SymbolCandles(open_ms, candles), later)
    )  # fmt: skip
    np.testing.assert_array_equal(before[:-5], after[:-5])
    assert not torch.equal(before[-5:], after[-5:])


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("length", [144, 512, 2048])
@pytest.mark.parametrize("oddity", ["flat", "halted", "no volume", "wild then halted"])
def test_odd_windows_have_finite_features(kind: str, length: int, oddity: str) -> None:
    candles, open_ms = walk(kind, length)
    if oddity == "flat":
        candles[:] = [3.7, 3.7, 3.7, 3.7, 0.0]
    elif oddity == "no volume":
        candles[:, 4] = 0.0
    else:
        if oddity != "halted":
            candles[:, 1] *= 3.0
            candles[:, 2] /= 3.0
        candles[-100:, :4] = candles[-101, 3]
        candles[-100:, 4] = 0.0
    made = compute(held(candles), open_ms, tuple(FEATURES))
    assert np.isfinite(list(made.values())).all()
    assert all(abs(value) < 150 for value in made.values())


def test_only_features_of_the_window_see_that_it_is_longer() -> None:
    candles, open_ms = walk("1m stock", 2048)
    candles[-400] = candles[-401]  # a still candle among the newest 480, not the newest 144
    whole = compute(candles, open_ms, DEFAULT_FEATURES)
    short = compute(candles[-LEAST:], open_ms[-LEAST:], DEFAULT_FEATURES)
    changed = {name for name in DEFAULT_FEATURES if whole[name] != short[name]}
    assert changed == OF_WINDOW


def test_lengths_of_windows_by_interval() -> None:
    assert CONFIG.window_length == LEAST
    assert CONFIG.window_lengths("1d") == (144, 512)
    assert CONFIG.window_lengths("1h") == (144, 512)
    assert CONFIG.window_lengths("15m") == (144, 512, 1024)
    assert CONFIG.window_lengths("1m") == CONFIG.window_lengths("5m") == (144, 512, 1024, 2048)
    plain = FitConfig(features=(*DEFAULT_FEATURES[:4], "return-range-ratio"))
    assert plain.window_lengths("1m") == (144,), "no feature reads more"
