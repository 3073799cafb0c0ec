"""Which candle owes a forecast, and what the summary says of it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local import accounting
from local.accounting import Accounting, Coverage, Latency, LatencyCounts
from shared.candles import DAY_MS, Candle
from shared.forecasts import Forecast
from shared.score_messages import HorizonScore, Scores
from tests.poison import forecast_of, scores_of

NEEDED = 3
NO_SCORES = (0, 0, Coverage({}, {}))


def scores(day: int, *steps: int, corrected: bool = False, held: bool = True) -> Scores:
    horizons = [
        HorizonScore.model_construct(
            step=step, as_of_ms=(day - step) * DAY_MS, model_version="m", pinball=1.0,
            raw_pinball=2.0, baseline_pinball=4.0, inside={"80": held}, raw_inside={"80": False},
        )
        for step in steps
    ]  # fmt: skip
    return Scores.model_construct(
        id=f"{day} {steps} {corrected}", symbol="AAPL", interval="1d",
        close_ms=day * DAY_MS + 60_000, corrected=corrected, horizons=tuple(horizons),
    )  # fmt: skip


def candle(day: int, symbol: str = "AAPL", interval: str = "1d") -> Candle:
    open_ms = day * DAY_MS
    return Candle(
        symbol=symbol, interval=interval, open_ms=open_ms, close_ms=open_ms + 60_000,
        open=1.0, high=1.0, low=1.0, close=1.0, volume=0.0, source="test",
    )  # fmt: skip


def forecast(day: int, symbol: str = "AAPL", interval: str = "1d", version: str = "m") -> Forecast:
    as_of_ms = day * DAY_MS + 60_000
    return Forecast.trusted(
        id=f"{symbol} {interval} {as_of_ms} {version}", symbol=symbol, interval=interval,
        as_of_ms=as_of_ms, last_close=1.0, model_version=version, made_at_ms=0, horizons=(),
    )  # fmt: skip


def test_the_first_candles_owe_nothing() -> None:
    account = Accounting(NEEDED)
    missing = []
    for day in range(5):
        account.candle(candle(day), append_ms=0)
        missing.append(account.missing)
    assert missing == [0, 0, 1, 2, 3]


def test_each_symbol_and_interval_warms_up_alone() -> None:
    account = Accounting(NEEDED)
    for day in range(2):
        account.candle(candle(day), 0)
        account.candle(candle(day, symbol="MSFT"), 0)
        account.candle(candle(day, interval="1m"), 0)
    assert account.missing == 0
    account.candle(candle(2, symbol="MSFT"), 0)
    assert account.missing == 1


def test_a_forecast_pays_its_candle_and_gives_the_latency() -> None:
    account = Accounting(NEEDED)
    for day in range(4):
        account.candle(candle(day), append_ms=1000 + day)
    account.forecast(forecast(2), append_ms=1010)
    assert account.missing == 1
    account.forecast(forecast(3), append_ms=1023)
    summary = account.summary()
    assert summary == accounting.Summary(4, 2, 0, 0, Latency(8, 20, 20), *NO_SCORES)


def test_repeats_are_counted_once() -> None:
    account = Accounting(NEEDED)
    for day in (0, 1, 2, 2, 1, 3):
        account.candle(candle(day), 0)
    account.forecast(forecast(2), 5)
    account.forecast(forecast(2), 500)
    assert (account.candles, account.repeated_candles) == (6, 2)
    assert (account.forecasts, account.repeated_forecasts) == (1, 1)
    assert account.missing == 1
    assert account.summary().latency_ms == Latency(5, 5, 5)


def test_a_forecast_of_the_warm_up_or_of_a_correction_is_no_early_one() -> None:
    account = Accounting(NEEDED)
    for day in range(3):
        account.candle(candle(day), 0)
    account.forecast(forecast(2), 1)
    account.forecast(forecast(2, version="corrected"), 2)
    account.candle(candle(3), 0)
    assert (account.missing, account.forecasts) == (1, 2)


def test_dead_letters_are_counted() -> None:
    account = Accounting(NEEDED)
    account.dead_letter()
    assert account.summary() == accounting.Summary(
        0, 0, 1, 0, Latency(None, None, None), *NO_SCORES
    )


def test_tells_the_reader_to_wait_only_while_forecasts_can_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accounting, "MOST_WAITING", 2)
    account = Accounting(1)
    for day in range(3):
        account.candle(candle(day), 0)
    assert account.is_ahead
    account.forecast(forecast(9), 0)  # of a candle not read: those before it get none any more
    assert not account.is_ahead


@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.randoms(use_true_random=False))
def test_any_interleaving_gives_the_same_account(
    days: int, lost: set[int], order: random.Random
) -> None:
    """Candles and forecasts keep their own order, but either topic may be read ahead."""
    account = Accounting(NEEDED)
    candles = list(range(days))
    forecasts = [day for day in candles if day >= NEEDED - 1 and day not in lost]
    owed_without = sum(day >= NEEDED - 1 for day in candles) - len(forecasts)
    made = len(forecasts)
    while candles or forecasts:
        if candles and (not forecasts or order.random() < 0.5):
            day = candles.pop(0)
            account.candle(candle(day), append_ms=100 * day)
        else:
            day = forecasts.pop(0)
            account.forecast(forecast(day), append_ms=100 * day + 7)
    expected = 7 if made else None
    assert account.summary() == accounting.Summary(
        days, made, 0, owed_without, Latency(expected, expected, expected), *NO_SCORES
    )


def test_old_ids_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "REMEMBERED_IDS", 10)
    account = Accounting(1)
    for day in range(25):
        account.candle(candle(day), 0)
        account.forecast(forecast(day), 0)
    assert len(account._ids) == 10
    assert not account._waiting
    assert not account._early


@given(st.lists(st.integers(0, 9_999), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_quantiles_agree_with_numpy(latencies: list[int], level: float) -> None:
    counts = LatencyCounts()
    for latency in latencies:
        counts.add(latency)
    assert counts.quantile(level) == np.quantile(latencies, level, method="inverted_cdf")


def test_long_latencies_are_rounded() -> None:
    counts = LatencyCounts()
    counts.add(12_345)
    assert counts.quantile(0.5) == 12_300


def test_each_candle_owes_a_score_of_every_horizon_that_ends_at_it() -> None:
    account = Accounting(NEEDED, (1, 2))
    missing = []
    for day in range(6):
        account.candle(candle(day), append_ms=0)
        missing.append(account.missing_scores)
    assert missing == [0, 0, 0, 1, 3, 5]
    account.score(scores(3, 1))
    account.score(scores(4, 1, 2))
    account.score(scores(4, 1, 2))
    account.score(scores(5, 1, held=False))
    account.score(scores(4, 1, 2, corrected=True))
    assert (account.missing_scores, account.scores) == (1, 4)
    assert account.summary().coverage == Coverage({"80": 0.0}, {"80": 0.75})


def test_scores_may_be_read_before_their_candle() -> None:
    account = Accounting(NEEDED, (1, 2))
    account.score(scores(3, 1))
    account.score(scores(4, 2))
    for day in range(5):
        account.candle(candle(day), append_ms=0)
    assert account.missing_scores == 1
    assert not account._early_scores


def test_forecasts_and_scores_without_a_candle_do_not_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accounting, "MOST_EARLY", 5)
    account = Accounting(3, horizons=(1,))
    for at in range(20):
        fields = {"id": f"{at}", "symbol": f"JUNK{at}"}
        account.forecast(Forecast.decode(json.dumps(forecast_of(**fields)).encode()), 7)
        account.score(Scores.decode(json.dumps(scores_of(**fields)).encode()))
    assert len(account._early) == len(account._early_scores) == 5
    assert account.missing == account.missing_scores == 0
