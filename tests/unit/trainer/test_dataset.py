"""Data sets: what they hold, what is odd about them, and splits that never leak."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.history import ReadOptions
from shared.window import held
from trainer import dataset
from trainer.dataset import Samples, SymbolCandles
from trainer.evaluate.realised import range_variances
from trainer.features import Candles, extract
from trainer.fit_config import FitConfig

HORIZONS = (1, 4)
STEPS = 3
CONFIG = FitConfig(sequence_length=STEPS, horizons=HORIZONS)
NAMES = CONFIG.features
LENGTH = CONFIG.window_length
LONG = 512
DAY_MS = 86_400_000


def walk(count: int, seed: int = 0) -> SymbolCandles:
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, count)))
    opened = close * np.exp(rng.normal(0, 0.01, count))
    high, low = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    volume = rng.uniform(1e5, 1e6, count)
    candles = np.column_stack([opened, high, low, close, volume])
    return SymbolCandles(np.arange(count, dtype=np.int64) * DAY_MS, candles)


def samples(symbols: dict[str, SymbolCandles]) -> Samples:
    return dataset.samples_of(symbols, CONFIG, "1d")


def test_the_bundled_data_are_clean_but_for_a_real_crash() -> None:
    loaded = dataset.load(None)
    assert {name: len(one.open_ms) for name, one in loaded.symbols.items()} == {
        "AAPL": 3270,
        "GOOG": 2148,
        "IBM": 3270,
        "MSFT": 3270,
    }
    assert loaded.history.rejected == ()
    # AAPL lost half its price on 2000-09-29, by a profit warning.
    assert [(one.first.symbol, one.count, one.first.open_ms[0]) for one in loaded.findings] == [
        ("AAPL", 1, 970_185_600_000)
    ]


def test_symbols_of_the_bundled_data_can_be_chosen() -> None:
    assert set(dataset.load(None, options=ReadOptions(symbols=("IBM",))).symbols) == {"IBM"}


def test_samples_are_windows_with_what_came_after_them() -> None:
    symbol = walk(190)
    made = samples({"A": symbol})
    assert len(made) == 190 - (LENGTH - 1) - max(HORIZONS)
    at = LENGTH - 1 + 7
    window = slice(at + 1 - LENGTH, at + 1)
    candles = Candles(
        torch.from_numpy(held(symbol.candles[window]))[None],
        torch.from_numpy(symbol.open_ms[window])[None],
        STEPS,
    )
    np.testing.assert_allclose(made.features[7], extract(NAMES, candles)[0], rtol=1e-6, atol=1e-6)
    close = symbol.candles[:, 3]
    np.testing.assert_allclose(made.log_return[7], np.log(close[[at + 1, at + 4]] / close[at]))
    variances = range_variances(symbol.candles[at : at + 5])[1:]
    np.testing.assert_allclose(made.variance[7], [variances[0], variances.mean()])
    assert made.open_ms[7] == at * DAY_MS
    assert made.known_ms[7] == (at + 4) * DAY_MS


def test_a_split_embargoes_outcomes_that_are_open_at_the_cut() -> None:
    made = samples({"A": walk(220), "B": walk(200, seed=1)})
    cut_ms = dataset.cut_at(made, 0.7)
    train, rest = dataset.split(made, cut_ms)
    assert train.known_ms.max() < cut_ms <= rest.open_ms.min()
    assert len(made) - len(train) - len(rest) == 2 * max(HORIZONS)
    times = np.unique(made.open_ms)
    assert (times < cut_ms).mean() == pytest.approx(0.7, abs=0.01)


def test_nothing_before_a_cut_depends_on_what_comes_after() -> None:
    whole = walk(250)
    cut_ms = 200 * DAY_MS
    train, _ = dataset.split(samples({"A": whole}), cut_ms)
    truncated = samples({"A": whole.until(cut_ms)})
    np.testing.assert_array_equal(train.features[train.rows], truncated.features)
    np.testing.assert_array_equal(train.log_return, truncated.log_return)
    np.testing.assert_array_equal(train.variance, truncated.variance)
    np.testing.assert_array_equal(train.open_ms, truncated.open_ms)


def test_short_symbols_are_left_out_and_named() -> None:
    symbols = {"A": walk(190), "B": walk(LENGTH + max(HORIZONS) - 1)}
    assert len(samples(symbols)) == len(samples({"A": symbols["A"]}))
    with pytest.raises(ValueError, match=rf"at least {LENGTH + 4}, .* at most {LENGTH + 3}, of B"):
        samples({"B": symbols["B"]})


def test_windows_grow_with_the_candles_that_there_are() -> None:
    symbol = walk(LONG + 40)
    made = samples({"A": symbol})
    for number, length in ((0, LENGTH), (LONG - LENGTH - 1, LENGTH), (LONG - LENGTH, LONG)):
        stop = LENGTH + number
        some = slice(stop - length, stop)
        candles = Candles(
            torch.from_numpy(held(symbol.candles[some]))[None],
            torch.from_numpy(symbol.open_ms[some])[None],
            STEPS,
            LENGTH,
        )
        expected = extract(NAMES, candles)[0]
        np.testing.assert_allclose(made.features[number], expected, rtol=1e-6, atol=1e-6)


def test_of_very_many_windows_each_nth_is_taken_of_each_series_from_another_one_on() -> None:
    spans = [(143, 1143), (143, 150), (143, 1000), (143, 100)]
    places = dataset.thinned(spans, 300)
    assert 260 <= sum(map(len, places)) <= 304
    assert [len(at) and int(at[0]) for at in places] == [143, 144, 145, 0]
    for at, (_, stop) in zip(places, spans, strict=True):
        assert set(np.diff(at)) <= {7}
        assert not len(at) or at[-1] >= stop - 7
    every = dataset.thinned(spans, 10_000)
    assert [at.tolist() for at in every] == [list(range(*span)) for span in spans]


def test_samples_and_checked_windows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = dataset.load(None).symbols
    source = dataset.Source("bundled", "1d", {name: symbols[name] for name in ("IBM", "MSFT")})
    whole = source.samples(CONFIG)
    monkeypatch.setattr(dataset, "MOST_WINDOWS", 500)
    monkeypatch.setattr(dataset, "MOST_CHECKED", 500)
    few = source.samples(CONFIG)
    assert 400 < len(few) <= 502
    at = [int(np.flatnonzero(whole.open_ms == few.open_ms[0])[0])]
    np.testing.assert_array_equal(few.features[:1], whole.features[at])
    lengths = CONFIG.window_lengths("1d")
    assert 400 < sum(len(candles) for candles, _ in source.windows(lengths, 0, 64)) <= 502
