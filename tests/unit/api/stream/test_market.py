from __future__ import annotations

import gc
import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import orjson
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.stream.cursors import Origin
from api.stream.market import Market, MarketBounds, StreamEvent
from shared.candles import Candle
from shared.drift import Drift
from shared.forecaster import Due, ModelSet, forecast
from shared.forecasts import Forecast, Horizon
from shared.score_messages import HorizonScore, Scores
from shared.scores import BETTER, EVEN, WORSE
from shared.window import Window
from tests.candles import candle, walk
from tests.forecasters import LastMove
from tests.streams import Stream, published
from tests.unit.stream_app.test_scoring import days

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


def scores_of(events: list[StreamEvent]) -> dict[tuple[int, int], dict[str, Any]]:
    found = [json.loads(event.data) for event in events if event.kind == "score"]
    return {(score["as_of_ms"], score["step"]): score for one in found for score in one["horizons"]}


@given(st.randoms(use_true_random=False))
def test_what_is_kept_does_not_depend_on_how_the_topics_interleave(random: object) -> None:
    stream = published(STREAM)
    in_turn, mixed = Market(), Market()
    expected = play(in_turn, STREAM, stream)
    got = play(mixed, STREAM, stream, random)
    assert scores_of(got) == scores_of(expected)
    assert len(scores_of(got)) == (30 - 2 - 1) + (30 - 2 - 5)
    [one], [other] = in_turn.series.values(), mixed.series.values()
    assert in_turn.summaries(one) == mixed.summaries(other)
    for at in one.forecasts:
        assert orjson.dumps(one.past(at)) == orjson.dumps(other.past(at))
    assert in_turn.learned("AAPL", "1d") == mixed.learned("AAPL", "1d")


def play(
    market: Market, candles: list[Candle], stream: Stream, random: Any = None
) -> list[StreamEvent]:
    """Give the topics of one series to a market, a message each in turn or as chance will."""
    waiting: list[tuple[list[Any], Callable[[Any, Origin], StreamEvent | None]]] = [
        (list(candles), lambda one, origin: market.add_candle(one, 10, origin)),
        (list(stream.forecasts), lambda one, origin: market.add_forecast(one, 20, origin)),
        (list(stream.scores), market.add_scores),
    ]
    events: list[StreamEvent] = []
    sent = [0, 0, 0]
    while any(left for left, _ in waiting):
        rest = [part for part, (left, _) in enumerate(waiting) if left]
        part = random.choice(rest) if random else max(rest, key=lambda one: len(waiting[one][0]))
        left, add = waiting[part]
        event = add(left.pop(0), (part, sent[part]))
        events += [event] if event else []
        sent[part] += 1
    return events


def test_a_summary_is_that_of_the_messages() -> None:
    """Against numpy over the messages themselves."""
    candles = days(200)
    stream = Stream()
    for one in candles:
        stream.take(one)
    market = Market(MarketBounds(scores=60))
    play(market, candles, stream)
    [summary, *_] = market.summaries(market.series["AAPL", "1d"])
    scores = [one for message in stream.scores for one in message.horizons if one.step == 1][-60:]

    def mean(name: str) -> float:
        return float(np.mean([np.abs(getattr(one, name)) for one in scores]))

    assert summary.count == 60
    assert summary.mean_absolute_error == pytest.approx(mean("error"), rel=1e-6)
    skill = 1 - mean("error") / mean("persistence_error")
    assert summary.persistence_skill == pytest.approx(skill, abs=1e-6)
    skill = 1 - mean("pinball") / mean("baseline_pinball")
    assert summary.baseline_skill == pytest.approx(skill, abs=1e-6)
    for name in ("50", "80", "90"):
        assert summary.coverage[name] == np.mean([one.inside[name] for one in scores])
        assert summary.raw_coverage[name] == np.mean([one.raw_inside[name] for one in scores])
    expected = np.histogram([one.pit for one in scores], bins=10, range=(0, 1))[0] / 60
    assert summary.pit == pytest.approx(expected)
    assert set(summary.coverage) == {"50", "80", "90"}  # the model has no level 0.01


def scored(as_of_ms: int, *, pinball: float = 0.004, corrected: bool = False) -> Scores:
    return Scores.model_construct(
        id=f"{as_of_ms}{pinball}", symbol="AAPL", interval="1d", open_ms=as_of_ms,
        close_ms=as_of_ms + 1, close=100.0, corrected=corrected, made_at_ms=as_of_ms + 2,
        horizons=(
            HorizonScore.model_construct(
                forecast_id="f", step=1, as_of_ms=as_of_ms, model_version="m", last_close=100.0,
                predicted_close=100.0, error=0.0, persistence_error=0.0, pinball=pinball,
                raw_pinball=0.004, baseline_pinball=0.004 + 0.001 * (as_of_ms % 2), qlike=-8.0,
                pit=0.5, raw_pit=0.5, inside={"90": True}, raw_inside={"90": True},
                correction=None,
            ),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("pinball", "verdict"), [(0.003, BETTER), (0.0045, EVEN), (0.006, WORSE)])
def test_skill_is_put_in_words_only_where_it_is_clear(pinball: float, verdict: str) -> None:
    market = Market()
    for at in range(60):
        market.add_scores(scored(at, pinball=pinball), (2, at))
        [summary] = market.summaries(market.series["AAPL", "1d"])
        if at < 9:
            assert summary.against_baseline == EVEN  # too few to tell
    assert summary.against_baseline == verdict
    assert summary.count == 60


def test_a_corrected_candle_takes_the_place_of_its_score() -> None:
    market = Market(MarketBounds(scores=8))
    for at in range(20):
        assert market.add_scores(scored(at), (2, at)) is not None
        assert market.add_scores(scored(at), (2, at)) is None  # sent again
    again = scored(17, pinball=0.104, corrected=True)
    again = again.model_copy(update={"close": 90.0})
    event = market.add_scores(again, (2, 20))
    assert event is not None
    assert json.loads(event.data)["corrected"] is True
    [summary] = market.summaries(market.series["AAPL", "1d"])
    assert summary.count == 8
    assert summary.pinball == pytest.approx(0.004 + 0.1 / 8)
    market.add_scores(scored(3, pinball=9.0, corrected=True), (2, 21))  # long gone
    assert market.summaries(market.series["AAPL", "1d"]) == [summary]


def test_a_score_says_what_came() -> None:
    stream = published(STREAM)
    market = Market()
    events = play(market, STREAM, stream)
    first = stream.forecasts[0]
    score = scores_of(events)[first.as_of_ms, 5]
    came, last = STREAM[2 + 5].close, STREAM[2].close
    assert score["persistence_error"] == pytest.approx(math.log(came / last))
    low, high = first.horizons[1].quantiles["0.05"], first.horizons[1].quantiles["0.95"]
    assert score["inside"] == {"90": low <= came <= high}
    outcomes = market.series["AAPL", "1d"].past(first.as_of_ms)["outcomes"]
    told = [json.loads(orjson.dumps(outcome)) for outcome in outcomes]
    assert [(outcome["step"], outcome["close"]) for outcome in told] == [
        (1, STREAM[3].close), (5, came),
    ]  # fmt: skip


def test_repeats_change_nothing_and_corrections_replace() -> None:
    market = Market()
    stream = published(STREAM)
    play(market, STREAM, stream)
    assert play(market, STREAM, stream) == []
    stream.take(candle(29, 111.0))
    again, scores = stream.forecasts[-1], stream.scores[-1]
    assert scores.corrected
    told = [
        market.add_candle(candle(29, 111.0), 0, (0, 30)),
        market.add_forecast(again, 0, (1, 30)),
        market.add_scores(scores, (2, 30)),
    ]
    assert [event.kind for event in told if event] == ["candle", "forecast", "score"]
    latest = market.series["AAPL", "1d"].latest
    assert latest is not None
    assert latest.id == again.id


def test_it_is_bounded() -> None:
    market = Market(
        MarketBounds(series=2, candles=10, forecasts=6, scores=4, record=4, pooled_scores=5)
    )
    for symbol in ("A", "B", "C"):
        candles = walk(40, symbol=symbol)
        play(market, candles, published(candles))
    assert set(market.series) == {("B", "1d"), ("C", "1d")}  # the longest silent one has gone
    for series in market.series.values():
        assert len(series.candles) == 10
        assert len(series.forecasts) == 6
        assert len(series.outcomes) == 5  # of the newest nothing has come
        assert [one.count for one in market.summaries(series)] == [4, 4]
        assert all(table.size < 1_000 for table in series.scores.values())
    assert [one.count for one in market.overall()["1d"]] == [5, 5]


def test_where_there_is_no_room_for_all_the_longest_silent_goes() -> None:
    gone: list[None] = []
    market = Market(MarketBounds(size=60_000), forgotten=lambda: gone.append(None))
    for number in range(40):
        candles = walk(20, symbol=f"S{number}")
        play(market, candles, published(candles))
        market.add_candle(candle(100 + number, symbol="S0"), 10, (0, number))  # not silent
        assert market.size <= 60_000
        assert market.size == sum(series.size for series in market.series.values())
    assert ("S0", "1d") in market.series
    assert ("S39", "1d") in market.series
    assert ("S1", "1d") not in market.series
    assert len(gone) == 40 - len(market.series) > 0


def test_no_symbol_goes_while_there_is_room_for_its_newest() -> None:
    """Within its bytes it forgot symbols that were silent, though others had more than a share."""
    gone: list[None] = []
    market = Market(MarketBounds(size=400_000), forgotten=lambda: gone.append(None))
    stream = published(STREAM)
    symbols = [f"S{number}" for number in range(50)]
    for at, messages in enumerate(
        zip(STREAM[-20:], stream.forecasts[-20:], stream.scores[-20:], strict=True)
    ):
        for symbol in symbols:  # all close at one instant
            one, made, scored = messages
            market.add_candle(one.model_copy(update={"symbol": symbol}), 10, (0, at))
            market.add_forecast(made.model_copy(update={"symbol": symbol}), 20, (1, at))
            market.add_scores(scored.model_copy(update={"symbol": symbol}), (2, at))
            assert market.size <= 400_000
    assert not gone
    for symbol in symbols:
        series = market.series[symbol, "1d"]
        assert series.latest is not None
        assert series.latest.id == stream.forecasts[-1].id
        assert series.candles[-1].close_ms == STREAM[-1].close_ms
        assert market.learned(symbol, "1d") is not None


def test_a_series_takes_its_share_alone_once_there_is_no_room() -> None:
    market = Market(MarketBounds(size=400_000))
    small = [f"S{number}" for number in range(20)]
    for symbol in small:
        play(market, walk(6, symbol=symbol), published(walk(6, symbol=symbol)))
    greedy = walk(500, symbol="GREEDY")
    play(market, greedy, published(greedy))
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
    """A fiftieth of them in a fiftieth of the bytes, which five forecasts of twelve steps exceed.

    What the process takes without them, and for clients that come back, is 200 MB.
    """
    whole = MarketBounds()
    market = Market(MarketBounds(size=whole.size // 50))
    tracemalloc.start()
    try:
        for at in range(5):
            for number in range(200):
                symbol = f"S{number}"
                one = candle(at, symbol=symbol)
                market.add_candle(one, 10, (0, at))
                market.add_forecast(forecast_of_twelve(symbol, one), 20, (1, at))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(market.series) == 200
    assert all(series.latest for series in market.series.values())
    assert taken * 50 < 200e6
    assert 0.7 < market.size / taken < 1.4, (market.size, taken)


def test_what_is_kept_takes_its_own_length() -> None:
    """By the process's memory: an encoder's result holds on to its buffer, unseen by Python."""
    process = psutil.Process()
    market = Market()
    candles = walk(400)
    before = process.memory_info().rss
    kept = []
    for number in range(50):
        for at, one in enumerate(candles):
            kept.append(
                market.add_candle(one.model_copy(update={"symbol": f"S{number}"}), 1, (0, at))
            )
    taken = (process.memory_info().rss - before) / len(kept)
    assert len(kept) == 50 * 400
    assert taken < 2_000, taken


def test_the_collector_need_not_follow_what_is_kept() -> None:
    market = Market()
    play(market, STREAM, published(STREAM))
    [series] = market.series.values()
    kept = [*series.candles._packed, *series.forecasts.values(), *series.corrections.values()]
    kept += [outcome for outcomes in series.outcomes.values() for outcome in outcomes]
    assert len(kept) > 100
    assert not any(gc.is_tracked(entry) for entry in kept)


def test_latency_is_from_append_to_append() -> None:
    market = Market()
    market.add_candle(STREAM[0], 1_000, (0, 0))
    market.add_candle(STREAM[1], 1_001, (0, 1))
    market.add_candle(STREAM[2], 1_002, (0, 2))
    [made] = forecasts_of(STREAM[:3])
    market.add_forecast(made, 1_011, (1, 0))
    assert list(market.latencies_ms) == [9]


def test_drift_is_that_of_the_newest_candle() -> None:
    market = Market()
    newest, late = scored(7), scored(6)
    drifts = Drift(evidence=20_000, drifting=3, shift=0.1, spread=1.9)
    market.add_scores(newest.model_copy(update={"drift": drifts}), (2, 0))
    market.add_scores(
        late.model_copy(update={"drift": Drift(evidence=1, drifting=0, shift=0, spread=1)}), (2, 1)
    )
    kept = market.series["AAPL", "1d"].drift
    assert kept is not None
    assert msgspec.structs.asdict(kept) == drifts.model_dump()


def test_a_summary_of_a_market_that_stood_still_has_no_skill() -> None:
    market = Market()
    flat = [candle(day) for day in range(10)]
    play(market, flat, published(flat))
    [first, _] = market.summaries(market.series["AAPL", "1d"])
    assert first.persistence_skill is None
    assert first.coverage == {"90": 1.0}
    assert market.overall() == {"1d": market.summaries(market.series["AAPL", "1d"])}
