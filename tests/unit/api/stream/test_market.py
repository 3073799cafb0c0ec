from __future__ import annotations

import gc
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.stream.market import Market, MarketBounds, StreamEvent
from shared.candles import Candle
from shared.forecaster import Due, ModelSet, forecast
from shared.forecasts import Forecast
from shared.scores import drift, pinball, pit, summarise
from shared.window import Window
from tests.candles import candle, walk
from tests.forecasters import LastMove

STREAM = walk(30)


def forecasts_of(candles: list[Candle]) -> list[Forecast]:
    model = LastMove()
    window = Window(model.window_length)
    made = []
    for closed in candles:
        window, _ = window.push(closed)
        if window.is_full:
            due = Due(closed.symbol, closed.interval, closed.close_ms, closed.close, window)
            made += forecast(ModelSet(model), [due], now_ms=closed.close_ms + 7)
    return made


def scores_of(events: list[StreamEvent]) -> dict[tuple[int, int], dict[str, object]]:
    found = [json.loads(event.data) for event in events if event.kind == "score"]
    return {(score["as_of_ms"], score["step"]): score for score in found}


@given(st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_how_the_topics_interleave(random: object) -> None:
    expected = scores_of(play(Market(), STREAM, forecasts_of(STREAM), None))
    got = scores_of(play(Market(), STREAM, forecasts_of(STREAM), random))
    assert got == expected
    assert len(got) == (30 - 2 - 1) + (30 - 2 - 5)


def play(
    market: Market, candles: list[Candle], made: list[Forecast], random: object
) -> list[StreamEvent]:
    waiting: tuple[list[Candle], list[Forecast]] = (list(candles), list(made))
    events: list[StreamEvent] = []
    while waiting[0] or waiting[1]:
        second = not waiting[0] or (bool(waiting[1]) and bool(random and random.random() < 0.5))  # type: ignore[attr-defined]
        if second:
            origin = (1, len(made) - len(waiting[1]))
            events += market.add_forecast(waiting[1].pop(0), 20, origin)
        else:
            origin = (0, len(candles) - len(waiting[0]))
            events += market.add_candle(waiting[0].pop(0), 10, origin)
    return events


def test_a_score_says_what_came() -> None:
    made = forecasts_of(STREAM)
    events = play(Market(), STREAM, made, None)
    score = scores_of(events)[made[0].as_of_ms, 5]
    came, last = STREAM[2 + 5].close, STREAM[2].close
    horizon = made[0].horizons[1]
    assert score["close"] == came
    assert score["error"] == pytest.approx(math.log(came / horizon.predicted_close))
    assert score["baseline_error"] == pytest.approx(math.log(came / last))
    low, high = horizon.quantiles["0.05"], horizon.quantiles["0.95"]
    assert score["inside"] == {"90": low <= came <= high}


def test_repeats_change_nothing_and_corrections_replace() -> None:
    market = Market()
    play(market, STREAM, forecasts_of(STREAM), None)
    assert play(market, STREAM, forecasts_of(STREAM), None) == []
    corrected = [*STREAM[:-1], candle(29, 111.0)]
    again = forecasts_of(corrected)[-1]
    kinds = [event.kind for event in market.add_candle(corrected[-1], 0, (0, 30))]
    assert kinds == ["candle"]
    assert [event.kind for event in market.add_forecast(again, 0, (1, 30))] == ["forecast"]
    latest = market.series["AAPL", "1d"].latest
    assert latest is not None
    assert latest.id == again.id


def test_it_is_bounded() -> None:
    market = Market(MarketBounds(series=2, candles=10, forecasts=6, scores=4, pooled_scores=5))
    for symbol in ("A", "B", "C"):
        candles = walk(40, symbol=symbol)
        play(market, candles, forecasts_of(candles), None)
    assert set(market.series) == {("A", "1d"), ("B", "1d")}
    for series in market.series.values():
        assert len(series.candles) == 10
        assert len(series.forecasts) == 6
        assert set(series.open_forecasts) <= set(series.forecasts)
        assert all(len(kept) == 4 for kept in series.scores.values())
    assert all(len(kept) == 5 for kept in market.pooled.values())


def test_the_collector_need_not_follow_what_is_kept() -> None:
    market = Market()
    play(market, STREAM, forecasts_of(STREAM), None)
    [series] = market.series.values()
    kept = [*series.candles, *series.forecasts.values(), *series.scores[1]]
    assert len(kept) > 80
    assert not any(gc.is_tracked(entry) for entry in kept)


def test_latency_is_from_append_to_append() -> None:
    market = Market()
    market.add_candle(STREAM[0], 1_000, (0, 0))
    market.add_candle(STREAM[1], 1_001, (0, 1))
    market.add_candle(STREAM[2], 1_002, (0, 2))
    [made] = forecasts_of(STREAM[:3])
    market.add_forecast(made, 1_011, (1, 0))
    assert list(market.latencies_ms) == [9]


LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5, unique=True), st.floats(-2, 2))
def test_losses_equal_an_independent_computation(quantiles: list[float], outcome: float) -> None:
    quantiles = sorted(quantiles)
    error = outcome - np.array(quantiles)
    levels = np.array(LEVELS)
    expected = np.where(error > 0, levels * error, (levels - 1) * error).mean()
    assert pinball(outcome, quantiles, LEVELS) == pytest.approx(expected)
    if quantiles[0] < outcome <= quantiles[-1]:
        assert pit(outcome, quantiles, LEVELS) == pytest.approx(
            np.interp(outcome, quantiles, LEVELS)
        )
    assert 0 < pit(outcome, quantiles, LEVELS) < 1


def test_drift_is_small_when_calibrated_and_large_when_not() -> None:
    rng = np.random.default_rng(3)
    calm = drift(rng.uniform(size=400).tolist(), step=1)
    assert calm.magnitude < calm.threshold < 0.07
    assert drift([0.9] * 400, step=1).magnitude > 0.7
    assert drift([0.5] * 8, step=5).threshold > 1


def test_a_summary_of_a_market_that_stood_still_has_no_skill() -> None:
    market = Market()
    flat = [candle(day) for day in range(10)]
    play(market, flat, forecasts_of(flat), None)
    [first, _] = market.summaries(market.series["AAPL", "1d"])
    assert first.skill is None
    assert first.coverage == {"90": 1.0}
    assert summarise(market.pooled[1]) == first
