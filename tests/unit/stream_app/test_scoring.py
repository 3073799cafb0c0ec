"""Scores against an independent oracle that reads the published forecasts and the candles."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.candles import Candle
from shared.forecaster import ModelSet
from shared.forecasts import Forecast
from shared.score_messages import HorizonScore, InvalidScore, Scores
from stream_app.ledger import CORRECTABLE, layouts_in
from stream_app.state import SymbolState
from tests.candles import candle
from tests.forecasters import LastMove
from tests.poison import SCORES, horizon_score_of, scores_of
from tests.streams import Stream


def prices(count: int, seed: int = 0) -> list[float]:
    random = np.random.default_rng(seed)
    return [float(price) for price in 100 * np.exp(np.cumsum(random.normal(0, 0.01, count)))]


def days(count: int, symbol: str = "AAPL", seed: int = 0) -> list[Candle]:
    return [candle(day, price, symbol=symbol) for day, price in enumerate(prices(count, seed))]


def pinball(outcome: float, quantiles: Sequence[float], levels: Sequence[float]) -> float:
    """Koenker and Bassett's loss, level by level."""
    losses = [
        max(level * (outcome - quantile), (level - 1) * (outcome - quantile))
        for level, quantile in zip(levels, quantiles, strict=True)
    ]
    return sum(losses) / len(levels)


def pit(outcome: float, quantiles: Sequence[float], levels: Sequence[float]) -> float:
    """The forecast probability of a lower outcome, linear between the quantiles."""
    at = bisect_left(quantiles, outcome)
    if at == 0:
        return levels[0] / 2
    if at == len(quantiles):
        return (1 + levels[-1]) / 2
    return float(np.interp(outcome, quantiles, levels))


def expected(forecasts: list[Forecast], candles: list[Candle]) -> dict[Any, dict[str, Any]]:
    """Return the scores that are due, by forecast and step, computed from what was published."""
    due = {}
    place = {one.close_ms: at for at, one in enumerate(candles)}
    for forecast in forecasts:
        for horizon in forecast.horizons:
            at = place[forecast.as_of_ms] + horizon.step
            if at >= len(candles):
                continue
            close = candles[at].close
            move = math.log(close / forecast.last_close)
            levels = [float(level) for level in horizon.quantiles]
            made: dict[str, Any] = {}
            for name, quantiles in (("", horizon.quantiles), ("raw_", horizon.raw_quantiles)):
                assert quantiles is not None
                returns = [math.log(price / forecast.last_close) for price in quantiles.values()]
                made[f"{name}pinball"] = pinball(move, returns, levels)
                made[f"{name}pit"] = pit(move, returns, levels)
                made[f"{name}inside"] = {
                    "50": quantiles["0.25"] <= close <= quantiles["0.75"],
                    "80": quantiles["0.1"] <= close <= quantiles["0.9"],
                    "90": quantiles["0.05"] <= close <= quantiles["0.95"],
                }
            variance = horizon.volatility**2
            made |= {
                "close": close,
                "error": math.log(close / horizon.predicted_close),
                "persistence_error": move,
                "qlike": math.log(variance) + move**2 / (horizon.step * variance),
            }
            due[forecast.id, horizon.step] = made
    return due


def found(scores: list[Scores]) -> dict[Any, dict[str, Any]]:
    return {
        (horizon.forecast_id, horizon.step): {"close": one.close, **horizon.model_dump()}
        for one in scores
        for horizon in one.horizons
    }


def test_every_due_horizon_is_scored_once_as_the_published_forecast_says() -> None:
    candles = days(70)
    stream = Stream()
    for one in candles:
        stream.take(one)
    due, got = expected(stream.forecasts, candles), found(stream.scores)
    assert got.keys() == due.keys()
    assert sum(len(one.horizons) for one in stream.scores) == len(due)
    for key, values in due.items():
        for name, value in values.items():
            near = value if isinstance(value, dict) else pytest.approx(value, rel=1e-5, abs=1e-7)
            assert got[key][name] == near, (key, name)
    assert not any(one.corrected for one in stream.scores)
    assert [one.open_ms for one in stream.scores] == [one.open_ms for one in candles[20:]]


def test_calibrated_and_raw_quantiles_part_and_the_median_stays() -> None:
    stream = Stream()
    stream.take(*days(70))
    last = stream.forecasts[-1].horizons[0]
    assert last.raw_quantiles is not None
    assert last.quantiles != last.raw_quantiles
    assert last.predicted_close == pytest.approx(last.raw_quantiles["0.5"], rel=1e-6)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
@settings(deadline=None, max_examples=20)
def test_batches_of_any_size_and_other_series_change_no_bit(sizes: list[int]) -> None:
    mine, other = days(50), days(50, "MSFT", seed=1)
    whole = Stream()
    for one in mine:
        whole.take(one)
    cut = Stream()
    mixed = [one for pair in zip(mine, other, strict=True) for one in pair]
    at = 0
    for size in [*sizes, len(mixed)]:
        cut.take(*mixed[at : at + size])
        at += size
    cut.forecasts = [one for one in cut.forecasts if one.symbol == "AAPL"]
    cut.scores = [one for one in cut.scores if one.symbol == "AAPL"]
    assert cut.forecasts == whole.forecasts
    assert cut.scores == whole.scores


@pytest.mark.parametrize("back", [0, 1, CORRECTABLE])
def test_a_corrected_candle_is_scored_again_and_marked(back: int) -> None:
    candles = days(60)
    stream = Stream()
    stream.take(*candles)
    settled = stream.scores[-1 - back]
    before = len(stream.scores)
    place = len(candles) - 1 - back
    assert settled.open_ms == candles[place].open_ms
    stream.take(candle(place, 123.0))
    [again] = stream.scores[before:]
    assert again.corrected
    assert (again.open_ms, again.close) == (settled.open_ms, 123.0)
    assert again.id != settled.id
    assert [(one.forecast_id, one.step) for one in again.horizons] == [
        (one.forecast_id, one.step) for one in settled.horizons
    ]
    assert again.horizons[0].error != settled.horizons[0].error


def test_a_correction_of_the_newest_candle_replaces_its_pending_forecast() -> None:
    candles = days(40)
    stream = Stream()
    stream.take(*candles)
    stream.take(candle(39, 123.0))
    replaced, made = stream.forecasts[-2:]
    assert made.as_of_ms == replaced.as_of_ms
    before = len(stream.scores)
    stream.take(candle(40, 120.0))
    scored = {one.forecast_id for one in stream.scores[before].horizons}
    assert made.id in scored
    assert replaced.id not in scored


def test_a_correction_teaches_nothing() -> None:
    corrected, plain = Stream(), Stream()
    candles = days(40)
    corrected.take(*candles[:-1], candle(37, 300.0), candles[-1])
    plain.take(*candles[:-1], candle(37, 300.0), candles[-1])
    wild = Stream()
    wild.take(*candles[:-1], candles[-1])
    assert corrected.forecasts == plain.forecasts
    last = [stream.scores[-1].horizons[-1] for stream in (corrected, wild)]
    assert last[0] == last[1]  # made before the correction


def test_the_newest_corrections_are_what_the_worker_calibrates_by() -> None:
    """So a reader of the topic can correct a forecast as the worker's next one, bit for bit."""
    stream = Stream()
    for one in days(70):
        stream.take(one)
    newest = {
        horizon.step: horizon.correction
        for scores in stream.scores
        for horizon in scores.horizons
        if horizon.correction is not None
    }
    ledger = SymbolState.decode(stream.table[b"AAPL|1d"], 20).ledger
    grid = layouts_in(ledger.layouts)[0].grid
    offsets_end = 3 + len(grid.levels)  # the baseline's quantiles follow
    restored = grid.restored(newest)[:, :offsets_end]
    assert np.array_equal(restored, ledger.state()[:, :offsets_end])
    assert restored[0, 0] == 70 - 20


def test_a_late_candle_and_a_duplicate_settle_nothing() -> None:
    stream = Stream()
    candles = days(40)
    stream.take(*candles[:30], *candles[31:])
    before = len(stream.scores)
    stream.take(candles[30])
    stream.take(candles[-1])
    assert len(stream.scores) == before


def test_the_warm_up_settles_nothing() -> None:
    stream = Stream()
    stream.take(*days(20))
    assert stream.scores == []
    stream.take(days(21)[-1])
    [scores] = stream.scores
    assert [one.step for one in scores.horizons] == [1]


def test_flat_candles_are_scored() -> None:
    stream = Stream(ModelSet(LastMove(window_length=3)))
    stream.take(*[candle(day, 100.0) for day in range(80)])
    assert len(stream.scores) == 77
    last = stream.scores[-1].horizons[0]
    assert last.inside == {"90": True}
    assert last.persistence_error == 0.0
    assert stream.forecasts[-1].horizons[0].quantiles["0.95"] > 100.0


@pytest.mark.parametrize("name", SCORES)
def test_what_is_not_a_score_is_refused_by_name(name: str) -> None:
    value, said = SCORES[name]
    with pytest.raises(InvalidScore, match=said) as refused:
        Scores.decode(value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_the_scores_that_the_poison_is_made_of_are_valid() -> None:
    fields = scores_of(horizon_score_of(1), horizon_score_of(5))
    made = Scores.decode(json.dumps(fields).encode())
    assert Scores.decode(made.encode()) == made
    assert set(HorizonScore.model_fields) == set(horizon_score_of())
