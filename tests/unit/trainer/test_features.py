"""Features against an independent pandas computation, and what they must not depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from torch import Tensor

from trainer import dataset
from trainer.dataset import SymbolCandles
from trainer.features import FEATURES, Candles, check, extract, feature, resolve, window_length

STEPS = 24
TIMES = ("time-of-day-sin", "time-of-day-cos", "day-of-week-sin", "day-of-week-cos", "gap-length",
         "candles-since-gap")  # fmt: skip
NAMES = tuple(name for name, known in FEATURES.items() if known.reach == known.lookback)
LENGTH = window_length(NAMES, STEPS)
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def real() -> dict[str, SymbolCandles]:
    return dict(dataset.load(None).symbols)


def compute(
    candles: NDArray[np.float64],
    names: Sequence[str] = NAMES,
    steps: int = STEPS,
    open_ms: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Return the features of windows (B, T, 5), whose times are daily unless given, (B, L, F)."""
    if open_ms is None:
        open_ms = np.broadcast_to(np.arange(candles.shape[1]) * DAY_MS, candles.shape[:2])
    series = Candles(torch.from_numpy(candles.copy()), torch.from_numpy(open_ms.copy()), steps)
    values: NDArray[np.float32] = extract(names, series).numpy()
    return values


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
    traded = st.floats(2**-40, 1e9, width=32)  # a turnover below ``TINY`` counts as none
    volume = draw(npst.arrays(np.float64, size, elements=st.just(0.0) | traded))
    return np.column_stack([opened, high, low, closed, volume])


def log(values: pd.Series[float]) -> pd.Series[float]:
    """Return logarithms, as a series."""
    with np.errstate(divide="ignore"):
        return pd.Series(np.log(values.to_numpy()))


def oracle(candles: NDArray[np.float64], open_ms: NDArray[np.int64]) -> pd.DataFrame:
    """Every feature of a history, in the words of pandas."""
    table = pd.DataFrame(candles, columns=["open", "high", "low", "close", "volume"])
    times = pd.Series(pd.to_datetime(open_ms, unit="ms"))
    day = 2 * np.pi * (times - times.dt.normalize()) / pd.Timedelta(days=1)
    week = 2 * np.pi * times.dt.dayofweek / 7
    spacing = times.diff() / pd.Timedelta(milliseconds=1)
    shortest = spacing.rolling(22).min()
    place = pd.Series(np.arange(len(times)), dtype=float)
    last_gap = place.where(spacing >= 1.5 * shortest).rolling(22, min_periods=1).max()
    since = (place - last_gap).fillna(22) / 22
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
    # pandas' own mean keeps a remainder of the large values that have left the window
    usual = turnover.rolling(22).apply(np.mean, raw=True)
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
            "time-of-day-sin": np.sin(day),
            "time-of-day-cos": np.cos(day),
            "day-of-week-sin": np.sin(week),
            "day-of-week-cos": np.cos(week),
            "interval": log(shortest / DAY_MS),
            "usual-gap": log(spacing.rolling(120).mean() / shortest),
            "gap-length": log(spacing / shortest),
            "candles-since-gap": since,
            "return-range-ratio": log((moved.abs().rolling(120).mean() / volatility).clip(0.2)),
        }
    )


def windows(candles: NDArray[np.float64]) -> NDArray[np.float64]:
    view = np.lib.stride_tricks.sliding_window_view(candles, LENGTH, axis=0)
    return view.transpose(0, 2, 1)  # (B, T, 5)


def test_features_equal_pandas_on_real_candles(real: dict[str, SymbolCandles]) -> None:
    for symbol in real.values():
        expected = oracle(symbol.candles, symbol.open_ms)[list(NAMES)].to_numpy()
        steps = np.lib.stride_tricks.sliding_window_view(expected, STEPS, axis=0)
        times = np.lib.stride_tricks.sliding_window_view(symbol.open_ms, LENGTH)
        got = compute(windows(symbol.candles), open_ms=times)
        np.testing.assert_allclose(
            got, steps[LENGTH - STEPS :].transpose(0, 2, 1), rtol=2e-6, atol=2e-6
        )


@settings(max_examples=60)
@given(candle_arrays())
def test_features_equal_pandas_on_made_candles(candles: NDArray[np.float64]) -> None:
    window = candles[-LENGTH:]
    expected = oracle(window, np.arange(LENGTH) * DAY_MS)[list(NAMES)].to_numpy()[-STEPS:]
    np.testing.assert_allclose(compute(window[None])[0], expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([1, 1, 1, 1, 2, 64, 4000]), min_size=LENGTH, max_size=LENGTH))
def test_features_of_time_equal_pandas_on_any_gaps(minutes: list[int]) -> None:
    open_ms = 1_577_836_800_000 + np.cumsum(minutes) * 60_000
    candles = np.ones((LENGTH, 5))
    expected = oracle(candles, open_ms)[list(TIMES)].to_numpy()[-STEPS:]
    got = compute(candles[None], TIMES, open_ms=open_ms[None])[0]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=30)
@given(candle_arrays(), st.integers(1, STEPS - 1))
def test_nothing_before_a_candle_depends_on_later_ones(
    candles: NDArray[np.float64], changed: int
) -> None:
    altered = candles.copy()
    altered[-changed:, :4] *= 7.0
    altered[-changed:, 4] += 1e6
    times = np.arange(len(candles))[None] * DAY_MS
    later = times.copy()
    later[:, -changed:] += 3600_000
    whole = compute(candles[None], open_ms=times)[0, :-changed]
    np.testing.assert_array_equal(compute(altered[None], open_ms=later)[0, :-changed], whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_depends_on_nothing_before_its_lookback(
    name: str, real: dict[str, SymbolCandles]
) -> None:
    lookback = FEATURES[name].lookback
    window = real["IBM"].candles[400 : 400 + LENGTH][None]
    older = window.copy()
    older[:, : LENGTH - lookback, :4] *= 3.0
    value = compute(window, [name], 1)
    np.testing.assert_array_equal(compute(older, [name], 1), value)


def test_only_the_window_counts(real: dict[str, SymbolCandles]) -> None:
    candles = real["IBM"].candles[:400]
    longer = candles.copy()
    longer[: 400 - LENGTH] *= 3.0
    times = np.arange(400)[None] * DAY_MS
    expected = compute(candles[None, -LENGTH:], open_ms=times[:, -LENGTH:])
    got = compute(longer[None], open_ms=times)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_price_and_volume_have_no_unit(real: dict[str, SymbolCandles]) -> None:
    window = real["AAPL"].candles[None, 1000 : 1000 + LENGTH]
    scaled = window * np.array([250.0, 250.0, 250.0, 250.0, 1e-3])
    np.testing.assert_allclose(compute(scaled), compute(window), rtol=1e-5, atol=1e-6)


def test_any_choice_of_features_gives_its_columns_of_all(real: dict[str, SymbolCandles]) -> None:
    batch = windows(real["AAPL"].candles)[:70]
    whole = compute(batch)
    np.testing.assert_array_equal(compute(batch, NAMES[::-1]), whole[:, :, ::-1])
    names = ["rsi", "log-volume", "scaled-gap", "range-volatility-5"]
    columns = whole[:, :, [NAMES.index(name) for name in names]]
    np.testing.assert_array_equal(compute(batch, names), columns)


def test_flat_candles_without_volume_are_finite_and_neutral() -> None:
    candles = np.full((1, LENGTH, 5), 3.7)
    candles[:, :, 4] = 0.0
    last = dict(zip(NAMES, compute(candles)[0, -1], strict=True))
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
    assert np.isfinite(compute(candles[None])).all()


def test_unknown_features_and_no_steps_are_named() -> None:
    with pytest.raises(ValueError, match="macd"):
        window_length(["rsi", "macd"], 5)
    with pytest.raises(ValueError, match="none"):
        window_length([], 5)
    with pytest.raises(ValueError, match="got 0"):
        window_length(["rsi"], 0)
    assert window_length(["rsi"], 5) == 32, "19 candles, rounded up to a multiple of 16"


def test_every_feature_is_documented() -> None:
    for known in FEATURES.values():
        assert known.description.endswith((".", ";")) or ":" in known.description, known.name
        assert known.lookback >= 1


OWN = """
from torch import Tensor
from trainer.features import Candles, feature

@feature(lookback=3)
def {name}(candles: Candles) -> Tensor:
    \"\"\"Mean close of three candles over this one, minus 1.\"\"\"
    return {formula}
"""


def own_file(folder: Path, name: str, formula: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(OWN.format(name=name, formula=formula))
    return f"{path}:{name}"


@patch.dict("trainer.registry._REGISTRY")  # the features of a test are forgotten after it
@pytest.mark.parametrize(
    ("name", "formula", "expected"),
    [
        ("fine", "candles.mean(candles.close, 3) / candles.newest(candles.close) - 1", None),
        ("whole", "candles.close / candles.open - 1", None),
        ("ahead", "candles.newest(candles.close) / candles.close[:, -1:] - 1", "looks ahead"),
        ("far", "candles.mean(candles.close, 9)", "further than its lookback of 3"),
        ("narrow", "candles.close[:, -2:]", "expected float64 of shape"),
        ("newest", "candles.close[:, -1:] / candles.open[:, -1:]", None),
        ("newest_far", "candles.close[:, -1:] / candles.close[:, -9:-8]", "lookback of 3"),
        ("single", "candles.close.float()", "expected float64 of shape"),
        ("odd", "candles.newest(candles.close) * float('inf')", "expected finite values"),
    ],
)
def test_a_file_of_ones_own_is_loaded_and_tried(
    name: str, formula: str, expected: str | None, tmp_path: Path, real: dict[str, SymbolCandles]
) -> None:
    names = resolve(["default", own_file(tmp_path, name, formula)], ("rsi",))
    assert names == ("rsi", name.replace("_", "-"))
    window = torch.from_numpy(windows(real["IBM"].candles)[:3].copy())
    times = torch.arange(LENGTH).expand(3, -1) * DAY_MS
    if expected is None:
        check(names, STEPS, window, times)
    else:
        with pytest.raises(ValueError, match=f"{name.replace('_', '-')}: .*{expected}"):
            check(names, STEPS, window, times)


@patch.dict("trainer.registry._REGISTRY")
def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name")
    with pytest.raises(ValueError, match=r"broken.py: ModuleNotFoundError: .*nothing_of_this"):
        resolve([f"{broken}:x"], ())
    with pytest.raises(ValueError, match=r"missing.py: FileNotFoundError"):
        resolve([f"{tmp_path}/missing.py:x"], ())
    with pytest.raises(ValueError, match="rsi exists already"):
        resolve([own_file(tmp_path, "rsi", "candles.close")], ())

    def undocumented(candles: Candles) -> Tensor:
        return candles.close

    with pytest.raises(ValueError, match="expected a docstring"):
        feature(lookback=1)(undocumented)
