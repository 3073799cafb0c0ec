"""Context in training: its features, what a model makes of it, and what it is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.candles import INTERVALS_MS
from shared.context import Contexts, ContextSeries, ContextSpec
from tests.unit.trainer.test_network import DAY_MS, SMALL, made_samples
from tests.unit.trainer.test_window_features import INTERVAL, SESSIONS, altered, walk
from trainer import context, worth
from trainer.blend import widened
from trainer.dataset import Samples, SymbolCandles, samples_at, windows_at
from trainer.evaluate.backtest import predict_all
from trainer.fit import Fitted, fit
from trainer.fit_config import FitConfig
from trainer.protocol import TorchForecaster

SPEC: Final = ContextSpec(symbols=("^GSPC", "^VIX"), interval="1d")
CONFIG: Final = replace(SMALL, context=SPEC, learning_rate=8e-3, dropout=0.2)
COUNT: Final = len(context.FEATURES)


def closes(windows: int, seed: int = 0) -> NDArray[np.float32]:
    """Return random walks, (B, C, K)."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, [0.01, 0.06], (windows, *SPEC.shape))
    return (np.exp(np.cumsum(steps, axis=1)) * [2000, 20]).astype(np.float32)


def made(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the features of contexts, (B, K, 7)."""
    found: NDArray[np.float32] = context.features_of(torch.from_numpy(values)).numpy()
    return found.reshape(-1, values.shape[2], COUNT)


def plainly(series: NDArray[np.float32]) -> list[float]:
    """Return the features of one symbol's closes (C,), all of them known, by NumPy alone."""
    logs = np.log(series.astype(np.float64))
    moves = np.diff(logs)
    month, week = (np.sqrt(np.mean(moves[-span:] ** 2)) for span in (22, 5))
    return [
        1.0, logs[-1] - logs[-2], logs[-1] - logs[-6], logs[-1] - logs[-23],
        logs[-1] - logs.mean(), np.log(week / month), np.log(month / 0.01),
    ]  # fmt: skip


def test_features_equal_a_plain_computation() -> None:
    values = closes(5)
    expected = [[plainly(window[:, symbol]) for symbol in range(2)] for window in values]
    np.testing.assert_allclose(made(values), expected, rtol=1e-5, atol=1e-6)
    assert list(context.inputs_of(SPEC))[COUNT] == "^VIX known"


def test_a_symbol_of_which_too_little_is_known_is_nothing() -> None:
    values = closes(3)
    values[0, :, 1] = np.nan
    values[1, :-22, 0] = 0.0  # 22 closes have 21 returns
    values[2, :-23, 0] = np.nan
    features = made(values)
    assert not features[0, 1].any()
    assert not features[1, 0].any()
    assert features[2, 0, 0] == 1.0
    assert features[2, 0, 4] == pytest.approx(
        np.log(values[2, -1, 0]) - np.log(values[2, -23:, 0]).mean(), abs=1e-5
    ), "the level is of what is known"
    np.testing.assert_array_equal(features[0, 0], made(closes(3))[0, 0])


def test_a_context_that_stands_still_or_jumps_has_finite_features() -> None:
    values = closes(2)
    values[0] = 17.0
    values[1, -1] *= 50.0
    assert np.isfinite(made(values)).all()


def around(count: int, at_ms: int = 0) -> Contexts:
    """Return daily candles from the epoch on, which open and close at a time of day."""
    rng = np.random.default_rng(0)
    opened = np.arange(-200, count, dtype=np.int64) * DAY_MS + at_ms
    series = {
        name: ContextSeries.of(
            "1d", opened, opened + DAY_MS, np.exp(np.cumsum(rng.normal(0, 0.01, len(opened))))
        )
        for name in SPEC.symbols
    }
    return Contexts(SPEC, series)


def test_windows_have_the_context_as_of_their_last_close() -> None:
    candles, open_ms = walk("5m stock", 600)
    contexts = around(4000)
    series = context.join(SymbolCandles(open_ms, candles), "5m", contexts)
    at = np.arange(300, 600, 7)
    [(_, times, read)] = windows_at(series, 200, at)
    expected, newest = contexts.as_of(times[:, -1] + 300_000)
    np.testing.assert_array_equal(read, expected)
    assert (newest[:, 0] % DAY_MS == 0).all()
    assert (newest[:, 0] <= times[:, -1] + 300_000).all(), "today's day is not over"
    [(_, _, cut)] = windows_at(series.until(int(open_ms[500])), 200, at[at < 500])
    np.testing.assert_array_equal(cut, read[: len(cut)])
    share = context.coverage({"A": series}, SPEC)
    assert share == {"^GSPC": 1.0, "^VIX": 1.0}


def test_closes_that_are_known_count_before_nominal_ones() -> None:
    """A stock of an exchange that closes before the index's does not know its day."""
    candles, open_ms = walk("daily stock", 30)
    contexts = around(4000)
    early = SymbolCandles(open_ms, candles, open_ms + DAY_MS - 1)
    for symbol, days in ((SymbolCandles(open_ms, candles), 0), (early, 1)):
        joined = context.join(symbol, "1d", contexts)
        [(_, times, read)] = windows_at(joined, 20, np.array([25]))
        expected, _ = contexts.as_of(times[:, -1] + DAY_MS - days * DAY_MS)
        np.testing.assert_array_equal(read, expected)


def test_samples_hold_its_features_beside_those_of_the_candles() -> None:
    candles, open_ms = walk("daily stock", 600)
    symbol = SymbolCandles(open_ms, candles)
    joined = context.join(symbol, "1d", around(4000))
    at, lengths = np.array([300, 580]), CONFIG.window_lengths("1d")
    own = samples_at(symbol, at, SMALL, lengths).features
    both = samples_at(joined, at, CONFIG, lengths).features
    alone = samples_at(symbol, at, CONFIG, lengths).features
    np.testing.assert_array_equal(both[:, :, : own.shape[2]], own)
    assert (both[:, :, own.shape[2]] == 1.0).all()
    assert not alone[:, :, own.shape[2] :].any()
    assert both.shape[2] == len(CONFIG.inputs) == own.shape[2] + 2 * COUNT


def telling(count: int, seed: int = 0) -> Samples:
    """Return samples whose outcomes are the wilder the higher the first symbol's level is."""
    own = made_samples(count, SMALL, seed)
    rng = np.random.default_rng(seed)
    beside = np.zeros((count, SMALL.sequence_length, 2 * COUNT), np.float32)
    level = rng.choice([-1.0, 1.0], count)
    beside[:, :, [0, COUNT]] = 1.0
    beside[:, :, 4] = level[:, None]
    wild = np.exp(0.9 * level)[:, None]
    return replace(
        own,
        features=np.concatenate([own.features, beside], axis=2),
        log_return=own.log_return * wild,
        variance=own.variance * wild**2,
    )


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    config = replace(CONFIG, hidden=8, max_epochs=6, epoch_steps=40, dropout=0.0, batch=256)
    return fit(telling(4000), config, seed=1)


def test_what_a_telling_context_is_worth_is_found(fitted: Fitted) -> None:
    assert [found.step for found in fitted.worth] == [1, 5, 10]
    for found in fitted.worth:
        assert found.low > 2.0, found
        assert found.low < found.saved < found.high
        assert found.verdict == "helps"
        assert found.metrics()[f"context_saved_{found.step}"] == found.saved


def test_a_model_works_without_the_context_that_it_was_trained_on(fitted: Fitted) -> None:
    """As well as one that was never shown any, but for the noise of two trainings."""
    unseen = telling(3000, seed=5)
    blind = replace(unseen, features=unseen.features.copy())
    blind.features[:, :, len(SMALL.features) :] = 0.0
    config = replace(fitted.config, context=None)
    bare = replace(unseen, features=unseen.features[:, :, : len(SMALL.features)])
    narrow = replace(telling(4000), features=telling(4000).features[:, :, : len(SMALL.features)])
    never = fit(narrow, config, seed=1)
    losses = [
        loss_of(fitted, unseen), loss_of(fitted, blind), loss_of(never, bare),
    ]  # fmt: skip
    assert losses[0] < 0.97 * losses[1]
    assert losses[1] < 1.02 * losses[2]


@torch.no_grad()
def loss_of(model: Fitted, samples: Samples) -> float:
    quantiles, _ = model.model.distribution(torch.from_numpy(samples.features))
    levels = torch.tensor(model.config.quantile_levels)
    error = torch.from_numpy(samples.log_return)[..., None] - quantiles
    return float(torch.maximum(levels * error, (levels - 1) * error).mean())


def test_a_context_that_says_nothing_is_said_to_be_worth_nothing() -> None:
    samples = telling(1500)
    rng = np.random.default_rng(2)
    samples.features[:, :, len(SMALL.features) + 4] = rng.choice([-1.0, 1.0], 1500)[:, None]
    plain = replace(samples, log_return=made_samples(1500, SMALL).log_return)
    found = fit(plain, replace(CONFIG, max_epochs=2), seed=1).worth
    assert all(item.low < 0.3 for item in found)
    assert abs(float(np.mean([item.saved for item in found]))) < 0.3, "the horizons' noise cancels"
    unknown = replace(samples, features=samples.features.copy())
    unknown.features[:, :, len(SMALL.features) :] = 0.0
    model = fit(unknown, replace(CONFIG, max_epochs=1), seed=1)
    assert model.worth == (), "no window knew any"


def test_worth_is_of_paired_losses_by_date() -> None:
    days = np.repeat(np.arange(40), 3)
    rng = np.random.default_rng(0)
    theirs = rng.uniform(1, 2, len(days))
    same = worth.compared(5, days, 0.98 * theirs, theirs)
    assert (same.saved, same.low, same.high) == pytest.approx((2.0, 2.0, 2.0))
    assert same.verdict == "helps"
    assert worth.compared(5, days, 1.01 * theirs, theirs).verdict == "harms"
    noise = worth.compared(5, days, theirs[::-1].copy(), theirs)
    assert noise.low < 0 < noise.high
    assert noise.verdict == "nothing beyond chance"
    assert "5 ahead: pinball 2.00 % lower with context (2.00 to 2.00, 120 windows)" in str(same)


def test_a_built_in_model_can_be_mixed_with_one_that_reads_a_context() -> None:
    """It makes nothing of the context that it takes."""
    narrow = fit(made_samples(400, SMALL), SMALL, seed=1).model
    assert hasattr(narrow, "network")
    samples = telling(100)
    wide = widened(narrow, CONFIG)  # type: ignore[arg-type]
    own = torch.from_numpy(samples.features[:, :, : len(SMALL.features)].copy())
    for got, expected in zip(
        wide.distribution(torch.from_numpy(samples.features)), narrow.distribution(own), strict=True
    ):
        torch.testing.assert_close(got, expected)
    mixed = fit(telling(2000), CONFIG, seed=1, built_in=narrow)  # type: ignore[arg-type]
    assert mixed.choice is not None


def test_training_without_context_draws_what_it_always_drew() -> None:
    first, again = (fit(made_samples(300, SMALL), SMALL, seed=4).model for _ in range(2))
    for weights, same in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(weights, same)


@pytest.mark.parametrize("kind", SESSIONS)
def test_inputs_and_forecasts_never_depend_on_later_candles_of_either(
    kind: str, fitted: Fitted
) -> None:
    """The truncation test with context: its candles after a close, and the symbol's own.

    One of the context's closes a millisecond after the window's last candle.
    """
    candles, open_ms = walk(kind, 1100)
    interval = INTERVAL[SESSIONS[kind][0]]
    forecaster = TorchForecaster(fitted, (interval,))
    symbol = SymbolCandles(open_ms, candles)
    last = 1050
    close_ms = int(open_ms[last]) + INTERVALS_MS[interval]
    at, lengths = np.array([last]), fitted.config.window_lengths(interval)
    known = around(4000, (close_ms + 1) % DAY_MS)
    whole = context.join(symbol, interval, known)
    expected = predict_all(forecaster, whole, last, last + 1, interval)
    inputs = samples_at(whole, at, fitted.config, lengths).features
    assert (inputs[0, :, len(SMALL.features)] == 1.0).all(), "the context is known"
    for other in (altered(symbol, last, np.random.default_rng(1)), symbol.rows(slice(last + 12))):
        for changed in (later(known, close_ms, 9.0), later(known, close_ms, None)):
            series = context.join(other, interval, changed)
            same = predict_all(forecaster, series, last, last + 1, interval)
            np.testing.assert_array_equal(same.log_return, expected.log_return)
            made = samples_at(series, at, fitted.config, lengths).features
            np.testing.assert_array_equal(made, inputs)
    seen = context.join(symbol, interval, later(known, close_ms - DAY_MS, 9.0))
    differs = predict_all(forecaster, seen, last, last + 1, interval)
    assert not np.array_equal(differs.log_return, expected.log_return), "what was known does count"


def later(contexts: Contexts, close_ms: int, factor: float | None) -> Contexts:
    """Return a context that is another after a time, or ends there for None."""
    series = {}
    opened = np.arange(-200, 4000, dtype=np.int64) * DAY_MS + (close_ms + 1) % DAY_MS
    for name, held in contexts.series.items():
        values, _ = held.as_of(opened + DAY_MS, 1)
        after = opened + DAY_MS > close_ms
        kept = ~after if factor is None else np.ones(len(opened), np.bool_)
        changed = np.where(after, values[:, 0] * (factor or 1.0), values[:, 0])
        series[name] = ContextSeries.of("1d", opened[kept], opened[kept] + DAY_MS, changed[kept])
    return Contexts(contexts.spec, series)


def test_a_config_with_context_names_its_inputs() -> None:
    assert FitConfig().inputs == FitConfig().features
    assert CONFIG.inputs[len(CONFIG.features) :] == tuple(context.inputs_of(SPEC))
    assert CONFIG.index("rsi") == SMALL.index("rsi")
