"""HAR where candles stand still, and HAR that knows the time of day."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shared.candles import DAY_MS
from tests.unit.trainer.test_window_features import SESSIONS, altered, walk
from trainer.dataset import SymbolCandles
from trainer.evaluate.baselines.har import Har, HarTimeOfDay
from trainer.evaluate.baselines.walk import Walk, forecast_symbol, walked
from trainer.evaluate.losses import pinball
from trainer.evaluate.realised import mean_ahead, range_variances

WALK = Walk(first=800, refit=126)
REFITTED = Walk(first=700, refit=100)
METHODS: dict[str, Callable[[], Har]] = {
    "HAR": Har,
    "HAR in levels": lambda: Har(in_levels=True),
    "HAR with time of day": HarTimeOfDay,
}


def test_flat_candles_do_not_rule_the_regression() -> None:
    candles, _ = walk("daily stock", 1200)
    flat = candles.copy()
    flat[::7, :4] = flat[::7, 3:4]  # every seventh candle: no range, its gap into the next
    flat[::7, 4] = 0.0
    flat[1::7, 0] = flat[::7, 3][: len(flat[1::7])]
    flat[:, 1] = flat[:, :4].max(axis=1)
    flat[:, 2] = flat[:, :4].min(axis=1)
    ranges = range_variances(flat)
    mean = Har().forecast(flat, WALK).volatility[:, 2].mean()
    realised = np.sqrt(mean_ahead(ranges, np.arange(800, 1190), 10)).mean()
    assert mean == pytest.approx(realised, rel=0.25)


def test_the_time_of_day_is_worth_something_where_days_have_a_shape() -> None:
    candles, open_ms = walk("5m stock", 1600)
    # livelier at the beginning of a session, at half past two, four times as much as at its end
    lively = 1 + 3 * np.exp(-(open_ms % DAY_MS - 14.5 * 3.6e6) / 3.6e6)
    candles[:, :4] = np.exp(np.cumsum(np.diff(np.log(candles[:, 3]), prepend=0) * lively))[:, None]
    candles[1:, 0] = candles[:-1, 3]
    candles[:, 1] = candles[:, :4].max(axis=1)
    candles[:, 2] = candles[:, :4].min(axis=1)
    move = np.diff(np.log(candles[:, 3]))[800:]
    losses = []
    for method in (Har(), HarTimeOfDay(open_ms)):
        quantiles = method.forecast(candles, WALK).log_return[:-1, 0].astype(np.float64)
        losses.append(pinball(move, quantiles, np.array(WALK.levels)).mean())
    assert losses[1] < 0.995 * losses[0]


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("name", METHODS)
def test_later_candles_and_times_change_nothing_of_any_interval(kind: str, name: str) -> None:
    """The truncation test: cut after a candle, or with another future, its forecast is the same.

    That candle is one at which the method is fitted again, where a later outcome would count most;
    every ninth candle stands still, which the floor of a variance is for.
    """
    candles, open_ms = walk(kind, 1000)
    candles[::9, :3] = candles[::9, 3:4]
    series = SymbolCandles(open_ms, candles)
    last = REFITTED.first + REFITTED.refit
    rows = slice(None, last + 1 - REFITTED.first)
    whole = walked(METHODS[name](), open_ms, candles, REFITTED)
    past = SymbolCandles(open_ms[: last + 1], candles[: last + 1])
    for other in (past, altered(series, last, np.random.default_rng(3))):
        made = walked(METHODS[name](), other.open_ms, other.candles, REFITTED)
        np.testing.assert_array_equal(made.log_return[rows], whole.log_return[rows])
        np.testing.assert_array_equal(made.volatility[rows], whole.volatility[rows])
    assert not np.array_equal(made.log_return[rows.stop :], whole.log_return[rows.stop :])


@pytest.mark.parametrize("kind", [kind for kind in SESSIONS if not kind.startswith("daily")])
def test_times_reach_the_method(kind: str) -> None:
    candles, open_ms = walk(kind, 1000)
    timed, plain = (
        forecast_symbol(method, "A", open_ms, candles, WALK) for method in (HarTimeOfDay(), Har())
    )
    assert not np.array_equal(timed["q0.05"], plain["q0.05"])


def test_daily_candles_have_no_time_of_day() -> None:
    candles, open_ms = walk("daily stock", 1000)
    timed = forecast_symbol(HarTimeOfDay(), "A", open_ms, candles, WALK)
    plain = forecast_symbol(Har(), "A", open_ms, candles, WALK)
    np.testing.assert_array_equal(timed["q0.05"], plain["q0.05"])
