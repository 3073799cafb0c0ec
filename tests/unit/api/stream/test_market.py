from __future__ import annotations

import gc
import json
import math
import tracemalloc

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.stream.market import Market, MarketBounds, StreamEvent
from shared.candles import Candle
from shared.forecaster import Due, ModelSet, forecast
from shared.forecasts import Forecast, Horizon
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
    assert set(market.series) == {("B", "1d"), ("C", "1d")}  # the longest silent one has gone
    for series in market.series.values():
        assert len(series.candles) == 10
        assert len(series.forecasts) == 6
        assert set(series.open_forecasts) <= set(series.forecasts)
        assert all(len(kept) == 4 for kept in series.scores.values())
    assert all(len(kept) == 5 for kept in market.pooled.values())


def test_it_is_bounded_in_bytes_and_the_longest_silent_goes_first() -> None:
    gone: list[None] = []
    market = Market(MarketBounds(size=200_000), forgotten=lambda: gone.append(None))
    for number in range(40):
        candles = walk(20, symbol=f"S{number}")
        play(market, candles, forecasts_of(candles), None)
        market.add_candle(candle(100 + number, symbol="S0"), 10, (0, number))  # not silent
        assert market.size <= 200_000
        assert market.size == sum(series.size for series in market.series.values())
    assert ("S0", "1d") in market.series
    assert ("S39", "1d") in market.series
    assert ("S1", "1d") not in market.series
    assert len(gone) == 40 - len(market.series) > 0


def test_a_series_takes_its_share_alone_once_there_is_no_room() -> None:
    market = Market(MarketBounds(size=400_000))
    small = [f"S{number}" for number in range(20)]
    for symbol in small:
        play(market, walk(6, symbol=symbol), forecasts_of(walk(6, symbol=symbol)), None)
    greedy = walk(500, symbol="GREEDY")
    play(market, greedy, forecasts_of(greedy), None)
    assert {("GREEDY", "1d"), *((symbol, "1d") for symbol in small)} == set(market.series)
    assert market.size <= 400_000


def forecast_of_twelve(symbol: str, as_of: Candle) -> Forecast:
    levels = ("0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95")
    quantiles = {level: as_of.close * (1 + at / 97) for at, level in enumerate(levels, 1)}
    horizons = [
        Horizon(
            step=step, due_ms=as_of.close_ms + step, predicted_close=quantiles["0.5"],
            quantiles=quantiles, volatility=0.0123456789,
        )
        for step in range(1, 13)
    ]  # fmt: skip
    return Forecast(
        id=f"{symbol}{as_of.close_ms}", symbol=symbol, interval="1d", as_of_ms=as_of.close_ms,
        last_close=as_of.close, model_version="lstm-0123456789ab", made_at_ms=as_of.close_ms,
        horizons=tuple(horizons),
    )  # fmt: skip


def test_ten_thousand_symbols_fit_into_400_megabytes() -> None:
    """Each with its share of the lookback: five candles and five forecasts of twelve steps."""
    market = Market()
    tracemalloc.start()
    try:
        for number in range(200):
            symbol = f"S{number}"
            for at, one in enumerate(walk(5, symbol=symbol)):
                market.add_candle(one, 10, (0, at))
                market.add_forecast(forecast_of_twelve(symbol, one), 20, (1, at))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] / len(market.series)
    finally:
        tracemalloc.stop()
    assert taken < 40_000
    estimated = market.size / len(market.series)
    assert 0.7 < estimated / taken < 1.4, (estimated, taken)


def test_what_is_kept_takes_its_own_length() -> None:
    """By the process's memory: an encoder's result holds on to its buffer, unseen by Python."""
    process = psutil.Process()
    market = Market()
    candles = walk(400)
    before = process.memory_info().rss
    kept = []
    for number in range(50):
        for at, one in enumerate(candles):
            kept += market.add_candle(one.model_copy(update={"symbol": f"S{number}"}), 1, (0, at))
    taken = (process.memory_info().rss - before) / len(kept)
    assert len(kept) == 50 * 400
    assert taken < 2_000, taken


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
