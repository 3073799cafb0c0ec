"""The polling source over days and weeks of virtual time."""

from __future__ import annotations

import asyncio
from datetime import date
from itertools import pairwise

import pytest

from local.yahoo.market import hong_kong, round_the_clock
from producer.source import ActionKind, Kind, Publication
from producer.yahoo.bars import GRACE_MS
from shared.candles import MINUTE_MS
from shared.forecaster import ModelSet
from shared.metrics import ProducerMetrics
from shared.window import Push, Window
from stream_app.pipeline import step
from stream_app.state import SymbolState
from tests.direct_yahoo import Topic, assert_holds, polling
from tests.forecasters import LastMove
from tests.new_york import HALF_DAY, HOLIDAY, at, day_of, hour_of, nyse
from tests.virtual_time import VirtualLoop


def test_three_days_of_minutes_come_once_in_order_seconds_after_their_close(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    listing = nyse("AAPL", date(2026, 11, 4))
    source, yahoo = polling(loop, [listing], metrics)
    topic, late = Topic(), []
    began_ms = loop.now_ms()
    take = topic.take

    def timed(publication: Publication) -> None:
        take(publication)
        close_ms = publication.candle.close_ms
        if close_ms > began_ms:
            late.append(loop.now_ms() - close_ms)

    topic.take = timed  # type: ignore[method-assign]
    end_ms = at(date(2026, 11, 4), 18)
    topic.run(loop, source, end_ms)
    first_ms = min(topic.candles["AAPL"])
    assert_holds(topic.candles["AAPL"], listing.bars("1m", end_ms, (first_ms, end_ms)))
    assert {publication.kind for publication in topic.publications} == {Kind.CLOSED}
    assert min(late) >= GRACE_MS
    assert max(late) <= 2 * MINUTE_MS
    nights = [now_ms for now_ms, *_ in yahoo.requests if not 9 <= hour_of(now_ms) <= 16]
    assert len(nights) < 50  # the night has a heartbeat


@pytest.mark.parametrize("interval", ["1m", "1h", "1d"])
def test_holiday_and_half_day(loop: VirtualLoop, metrics: ProducerMetrics, interval: str) -> None:
    loop.set_ms(at(date(2026, 11, 25), 15, 30))
    listing = nyse("AAPL", date(2026, 11, 30), days=400 if interval == "1d" else 20)
    source, _ = polling(loop, [listing], metrics, interval=interval)
    topic, end_ms = Topic(), at(date(2026, 11, 30), 18)
    topic.run(loop, source, end_ms)
    candles = list(topic.candles["AAPL"].values())
    truth = listing.bars(interval, end_ms, (at(date(2026, 11, 25), 0), end_ms))
    assert [candle.close_ms for candle in candles[-len(truth) :]] == [bar.end_ms for bar in truth]
    closes = {candle.close_ms for candle in candles}
    assert at(HALF_DAY, 13) in closes  # also when it is days ago
    assert not any(day_of(close_ms - 1) == HOLIDAY for close_ms in closes)


def test_a_half_day_of_the_past_ends_by_the_calendar(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    loop.set_ms(at(date(2026, 11, 30), 15))
    listing = nyse("AAPL", date(2026, 11, 30), days=400)
    source, _ = polling(loop, [listing], metrics, interval="1d")
    topic = Topic()
    topic.run(loop, source, at(date(2026, 11, 30), 17))
    closes = [candle.close_ms for candle in topic.candles["AAPL"].values()]
    assert at(HALF_DAY, 13) in closes


@pytest.mark.parametrize("sunday", [date(2026, 3, 8), date(2026, 11, 1)])
def test_the_clocks_change(loop: VirtualLoop, metrics: ProducerMetrics, sunday: date) -> None:
    friday, monday = sunday.toordinal() - 2, date.fromordinal(sunday.toordinal() + 1)
    loop.set_ms(at(date.fromordinal(friday), 15))
    listing = nyse("AAPL", monday)
    source, _ = polling(loop, [listing], metrics, interval="1h")
    topic, end_ms = Topic(), at(monday, 17)
    topic.run(loop, source, end_ms)
    first_ms = min(topic.candles["AAPL"])
    assert_holds(topic.candles["AAPL"], listing.bars("1h", end_ms, (first_ms, end_ms)))
    assert at(monday, 9, 30) in topic.candles["AAPL"]


def test_a_coin_trades_on_at_midnight_and_at_weekends(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    loop.set_ms(at(date(2026, 11, 7), 12))
    listing = round_the_clock("BTC-USD", date(2026, 11, 8), price=60_000.0, days=4)
    source, _ = polling(loop, [listing], metrics)
    topic, end_ms = Topic(), at(date(2026, 11, 8), 15, 0, 20)
    topic.run(loop, source, end_ms)
    opened = sorted(topic.candles["BTC-USD"])
    assert opened == list(range(opened[0], opened[-1] + 1, MINUTE_MS))  # 23:59 among them
    assert opened[-1] == at(date(2026, 11, 8), 14, 59)


@pytest.mark.parametrize("interval", ["1m", "30m", "1h"])
def test_hong_kong_has_lunch(loop: VirtualLoop, metrics: ProducerMetrics, interval: str) -> None:
    listing = hong_kong("0700.HK", date(2026, 11, 4), price=500.0)
    source, _ = polling(loop, [listing], metrics, interval=interval)
    topic, end_ms = Topic(), at(date(2026, 11, 4), 6)
    topic.run(loop, source, end_ms)
    first_ms = min(topic.candles["0700.HK"])
    truth = listing.bars(interval, end_ms, (first_ms, end_ms))
    assert [(candle.open_ms, candle.close_ms) for candle in topic.candles["0700.HK"].values()] == [
        (bar.start_ms, bar.end_ms) for bar in truth
    ]


def test_a_changed_value_and_a_late_minute_are_corrections(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    day = date(2026, 11, 2)
    listing = nyse("AAPL", day)
    listing.overrides[at(day, 10, 0)] = {"volume": 1}
    listing.without.add(at(day, 10, 2))
    source, _ = polling(loop, [listing], metrics)
    topic = Topic()

    async def mend() -> None:
        await asyncio.sleep((at(day, 10, 6) - loop.now_ms()) / 1000)
        listing.overrides.clear()
        listing.without.clear()

    mending = loop.create_task(mend())
    topic.run(loop, source, at(day, 10, 12))
    assert mending.done()
    corrected = topic.of_kind(Kind.CORRECTION)
    opened = [publication.candle.open_ms for publication in corrected]
    assert opened == [at(day, 10, 0), at(day, 10, 2)]
    first_ms, last_ms = min(topic.candles["AAPL"]), max(topic.candles["AAPL"])
    truth = listing.bars("1m", loop.now_ms(), (first_ms, last_ms + 1))
    assert_holds(topic.candles["AAPL"], truth)


@pytest.mark.parametrize("interval", ["1m", "1h", "1d"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_split_brings_the_window_again_on_one_scale(
    loop: VirtualLoop, metrics: ProducerMetrics, interval: str, *, restarted: bool
) -> None:
    day = date(2026, 11, 4)
    split_ms = at(day, 9, 30)
    listing = nyse("AAPL", day, days=400 if interval == "1d" else 60)
    listing.splits.append((split_ms, 4, 1))
    loop.set_ms(at(date(2026, 11, 3), 12))
    topic = Topic()
    if restarted:
        source, _ = polling(loop, [listing], metrics, interval=interval)
        topic.run(loop, source, at(date(2026, 11, 3), 20))
        loop.set_ms(at(day, 16, 30))
    source, _ = polling(loop, [listing], metrics, interval=interval)
    topic.run(loop, source, at(day, 17, 30))
    again = topic.of_kind(Kind.RESCALED)
    assert len(again) == 160
    assert all([action.value for action in pub.actions] == ["4:1"] for pub in again)
    at_split = topic.publications.index(again[0])
    first_new = topic.publications[at_split + 160]
    assert [action.kind for action in first_new.actions] == [ActionKind.SPLIT]
    before = [publication.candle.close_ms for publication in topic.publications[:at_split]]
    assert max(before) <= split_ms
    window = list(topic.candles["AAPL"].values())[-160:]
    truth = listing.bars(interval, loop.now_ms())
    assert [candle.close for candle in window] == [bar.close for bar in truth[-160:]]
    assert_one_scale_at_each_forecast(topic, "AAPL")


def assert_one_scale_at_each_forecast(topic: Topic, symbol: str, length: int = 160) -> None:
    """Take the topic as the worker does: no window that it forecasts from jumps by half."""
    state, models = SymbolState(Window(length)), ModelSet(LastMove(length))
    forecasts = 0
    for offset, publication in enumerate(topic.publications):
        if publication.candle.symbol != symbol:
            continue
        state, outcome = step(state, publication.candle, 0, offset, models)
        assert outcome.push is not Push.TOO_OLD
        if outcome.due is not None:
            forecasts += 1
            closes = outcome.due.window.ohlcv()[:, 3].tolist()
            assert all(0.5 < after / before < 2 for before, after in pairwise(closes))
    assert forecasts > 0


def test_history_that_moves_by_a_factor_without_a_word_is_rescaled_too(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    day = date(2026, 11, 4)
    listing = nyse("AAPL", day)
    loop.set_ms(at(day, 12))
    topic = Topic()
    source, _ = polling(loop, [listing], metrics)
    topic.run(loop, source, at(day, 12, 10))
    listing.price /= 10
    source, _ = polling(loop, [listing], metrics)
    topic.run(loop, source, at(day, 12, 20))
    assert len(topic.of_kind(Kind.RESCALED)) == 160
    assert topic.of_kind(Kind.CORRECTION) == []
    assert_one_scale_at_each_forecast(topic, "AAPL")


def test_a_dividend_is_announced_and_changes_no_price(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    day = date(2026, 11, 4)
    listing = nyse("AAPL", day)
    listing.dividends.append((at(day, 9, 30), 0.25))
    loop.set_ms(at(date(2026, 11, 3), 15))
    source, _ = polling(loop, [listing], metrics)
    topic = Topic()
    topic.run(loop, source, at(day, 10))
    assert {
        publication.candle.open_ms: [action.value for action in publication.actions]
        for publication in topic.publications
        if publication.actions
    } == {at(day, 9, 30): ["0.25"]}
    assert {publication.kind for publication in topic.publications} == {Kind.CLOSED}
