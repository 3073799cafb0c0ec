"""Features against an independent pandas computation, and what they must not depend on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from shared.features import FEATURES, SLICE, compute, range_variance, window_length
from trainer import dataset

STEPS = 24
NAMES = tuple(FEATURES)
LENGTH = window_length(NAMES, STEPS)


@pytest.fixture(scope="module")
def real() -> dict[str, NDArray[np.float64]]:
    return {name: one.candles for name, one in dataset.load(None).symbols.items()}


@st.composite
def candle_arrays(draw: st.DrawFn) -> NDArray[np.float64]:
    """Draw a window of valid candles: moves of up to 20 %, some flat, some without volume."""
    size = LENGTH + draw(st.integers(0, 6))
    unit = npst.arrays(np.float64, (size, 4), elements=st.floats(-1, 1, width=32))
    moves = draw(unit) * draw(st.sampled_from([0.001, 0.02, 0.2]))
    start = draw(st.floats(0.01, 1e5))
    opened = start * np.exp(np.clip(np.cumsum(moves[:, 0] + moves[:, 1]), -3, 3))
    closed = opened * np.exp(moves[:, 1])
    high = np.maximum(opened, closed) * np.exp(np.abs(moves[:, 2]))
    low = np.minimum(opened, closed) * np.exp(-np.abs(moves[:, 3]))
    volume = draw(npst.arrays(np.float64, size, elements=st.floats(0, 1e9, width=32)))
    return np.column_stack([opened, high, low, closed, volume])


def log(values: pd.Series[float]) -> pd.Series[float]:
    """Return logarithms, as a series."""
    with np.errstate(divide="ignore"):
        return pd.Series(np.log(values.to_numpy()))


def oracle(candles: NDArray[np.float64]) -> pd.DataFrame:
    """Every feature of a history, in the words of pandas."""
    table = pd.DataFrame(candles, columns=["open", "high", "low", "close", "volume"])
    before = table["close"].shift()
    gap = log(table["open"] / before)
    moved = log(table["close"] / before)
    variance = (
        gap**2
        + np.log(table["high"] / table["low"]) ** 2 / 2
        - (2 * np.log(2) - 1) * np.log(table["close"] / table["open"]) ** 2
    ).clip(lower=0)
    month = variance.rolling(22).mean().clip(lower=1e-10)
    change = table["close"].diff()
    gains = change.clip(lower=0).rolling(14).mean()
    falls = (-change).clip(lower=0).rolling(14).mean()
    turnover = table["close"] * table["volume"]
    usual = turnover.rolling(22).mean()
    deviation = log((turnover / usual.where(usual > 0)).clip(lower=0.02).fillna(1.0))
    volatility = np.sqrt(variance).rolling(120).mean().clip(lower=1e-5)
    level = variance.rolling(120).mean().clip(lower=1e-10)

    def largest(newest: int, oldest: int) -> pd.Series[float]:
        found: pd.Series[float] = variance.rolling(oldest - newest + 1).max().shift(newest)
        return found

    def quarter(last: tuple[int, int], before: tuple[int, int]) -> pd.Series[float]:
        event = largest(*last).combine(largest(*before), min)
        return log(event.combine(level * 0.05, max)) / 2

    return pd.DataFrame(
        {
            "log-return": moved,
            "scaled-return": moved / np.sqrt(month),
            "scaled-gap": gap / np.sqrt(month),
            "range-volatility-1": log(variance.combine(month * 0.01, max)) / 2,
            "range-volatility-5": log(variance.rolling(5).mean().combine(month * 0.01, max)) / 2,
            "range-volatility-22": log(month) / 2,
            "range-volatility-120": log(level) / 2,
            "quarter-volatility-1": quarter((61, 64), (122, 129)),
            "quarter-volatility-5": quarter((57, 64), (114, 129)),
            "quarter-volatility-10": quarter((49, 64), (114, 129)),
            "sma-ratio": table["close"] / table["close"].rolling(20).mean() - 1,
            "rsi": (100 * gains / (gains + falls)).where(gains + falls > 0, 50.0),
            "log-volume": deviation.where(usual > 0, 0.0),
            "return-range-ratio": log((moved.abs().rolling(120).mean() / volatility).clip(0.2)),
        }
    )


def windows(candles: NDArray[np.float64]) -> NDArray[np.float64]:
    view = np.lib.stride_tricks.sliding_window_view(candles, LENGTH, axis=0)
    return view.transpose(0, 2, 1)  # (B, T, 5)


def test_features_equal_pandas_on_real_candles(real: dict[str, NDArray[np.float64]]) -> None:
    for candles in real.values():
        expected = oracle(candles)[list(NAMES)].to_numpy()
        steps = np.lib.stride_tricks.sliding_window_view(expected, STEPS, axis=0)
        got = compute(windows(candles), NAMES, STEPS)
        np.testing.assert_allclose(
            got, steps[LENGTH - STEPS :].transpose(0, 2, 1), rtol=2e-6, atol=2e-6
        )


@settings(max_examples=60)
@given(candle_arrays())
def test_features_equal_pandas_on_made_candles(candles: NDArray[np.float64]) -> None:
    window = candles[-LENGTH:]
    expected = oracle(window)[list(NAMES)].to_numpy()[-STEPS:]
    np.testing.assert_allclose(
        compute(window[None], NAMES, STEPS)[0], expected, rtol=1e-4, atol=1e-4
    )


@settings(max_examples=30)
@given(candle_arrays(), st.integers(1, 20))
def test_nothing_before_a_candle_depends_on_later_ones(
    candles: NDArray[np.float64], changed: int
) -> None:
    names = NAMES
    stop = len(candles) - changed
    steps = stop - window_length(names, 1) + 1
    altered = candles.copy()
    altered[stop:, :4] *= 7.0
    altered[stop:, 4] += 1e6
    whole = compute(candles[None], names, steps + changed)[0, :steps]
    np.testing.assert_array_equal(compute(altered[None], names, steps + changed)[0, :steps], whole)
    np.testing.assert_allclose(compute(candles[None, :stop], names, steps)[0], whole, rtol=1e-5)


def test_only_the_window_counts(real: dict[str, NDArray[np.float64]]) -> None:
    candles = real["IBM"][:400]
    longer = candles.copy()
    longer[: 400 - LENGTH] *= 3.0
    expected = compute(candles[None, -LENGTH:], NAMES, STEPS)
    np.testing.assert_array_equal(compute(longer[None], NAMES, STEPS), expected)


def test_price_and_volume_have_no_unit(real: dict[str, NDArray[np.float64]]) -> None:
    window = real["AAPL"][None, 1000 : 1000 + LENGTH]
    scaled = window * np.array([250.0, 250.0, 250.0, 250.0, 1e-3])
    np.testing.assert_allclose(
        compute(scaled, NAMES, STEPS), compute(window, NAMES, STEPS), rtol=1e-5, atol=1e-6
    )


def test_a_window_gets_the_same_bits_in_any_batch(real: dict[str, NDArray[np.float64]]) -> None:
    batch = windows(real["MSFT"])[:1000]
    whole = compute(batch, NAMES, STEPS)
    for i in (0, 1, 499, 999):
        np.testing.assert_array_equal(compute(batch[i : i + 1], NAMES, STEPS)[0], whole[i])
    for start, stop in ((0, 2), (3, 10), (0, SLICE), (5, 6 + SLICE), (100, 357)):
        np.testing.assert_array_equal(compute(batch[start:stop], NAMES, STEPS), whole[start:stop])


def test_threads_do_not_write_into_each_others_numbers(
    real: dict[str, NDArray[np.float64]],
) -> None:
    batch = windows(real["MSFT"])[:400]
    whole = compute(batch, NAMES, STEPS)

    def alone(i: int) -> NDArray[np.float32]:
        return compute(batch[i : i + 1], NAMES, STEPS)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(alone, range(len(batch))))
    np.testing.assert_array_equal(np.concatenate(made), whole)


def test_features_are_put_where_they_are_wanted(real: dict[str, NDArray[np.float64]]) -> None:
    batch = windows(real["MSFT"])[: SLICE + 2]
    place = np.zeros((len(batch), STEPS, len(NAMES)), np.float32)
    assert compute(batch, NAMES, STEPS, place) is place
    np.testing.assert_array_equal(place, compute(batch, NAMES, STEPS))


def test_any_choice_of_features_gives_its_columns_of_all(
    real: dict[str, NDArray[np.float64]],
) -> None:
    batch = windows(real["AAPL"])[:70]
    whole = compute(batch, NAMES, STEPS)
    np.testing.assert_array_equal(compute(batch, NAMES[::-1], STEPS), whole[:, :, ::-1])
    names = ["rsi", "log-volume"]
    columns = whole[:, :, [NAMES.index(name) for name in names]]
    np.testing.assert_allclose(compute(batch, names, STEPS), columns, rtol=1e-5, atol=1e-6)


def test_flat_candles_without_volume_are_finite_and_neutral() -> None:
    candles = np.full((1, LENGTH, 5), 3.7)
    candles[:, :, 4] = 0.0
    last = dict(zip(NAMES, compute(candles, NAMES, STEPS)[0, -1], strict=True))
    assert np.isfinite(list(last.values())).all()
    assert last["log-return"] == last["scaled-return"] == last["log-volume"] == 0.0
    assert last["rsi"] == 50.0


def test_a_halt_after_wild_days_is_finite() -> None:
    rng = np.random.default_rng(3)
    close = np.exp(np.cumsum(rng.normal(0, 0.3, LENGTH)))
    candles = np.column_stack(
        [close, close * 1.5, close / 1.5, close, rng.uniform(0, 1e12, LENGTH)]
    )
    candles[-60:] = [close[-1]] * 4 + [0.0]
    assert np.isfinite(compute(candles[None], NAMES, STEPS)).all()


def test_range_variance_by_hand() -> None:
    candles = np.array([[[9.0, 11, 8, 10, 1], [11.0, 13, 10, 12, 1]]])
    expected = np.log(1.1) ** 2 + np.log(1.3) ** 2 / 2
    expected -= (2 * np.log(2) - 1) * np.log(12 / 11) ** 2
    np.testing.assert_allclose(range_variance(candles), [[expected]])


def test_bad_requests_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="macd"):
        window_length(["rsi", "macd"], 5)
    with pytest.raises(ValueError, match="none"):
        window_length([], 5)
    with pytest.raises(ValueError, match="got 0"):
        window_length(["rsi"], 0)
    with pytest.raises(ValueError, match=f"at least {LENGTH} a window, got 20"):
        compute(np.ones((1, 20, 5)), NAMES, STEPS)
