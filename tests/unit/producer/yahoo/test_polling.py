"""The polling source over days and weeks of virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import date, datetime, time
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from prometheus_client import CollectorRegistry

from local.yahoo.market import Listing, TrueBar, hong_kong, new_york, round_the_clock
from producer.source import ActionKind, Kind, SourceError
from producer.yahoo.bars import GRACE_MS
from producer.yahoo.errors import ErrorKind
from producer.yahoo.gate import Gate
from producer.yahoo.polling import PollingSource
from shared.candles import MINUTE_MS, Candle
from shared.metrics import ProducerMetrics
from shared.window import Push, Window
from stream_app.pipeline import step
from stream_app.state import SymbolState
from tests.direct_yahoo import Topic, polling
from tests.virtual_time import VirtualLoop

NEW_YORK = ZoneInfo("America/New_York")
HALF_DAY = date(2026, 11, 27)  # after Thanksgiving
HOLIDAY = date(2026, 11, 26)
HOUR_MS = 60 * MINUTE_MS


def at(day: date, hour: int, minute: int = 0, second: int = 0) -> int:
    moment = datetime.combine(day, time(hour, minute, second), NEW_YORK)
    return int(moment.timestamp()) * 1000


def nyse(symbol: str, last: date, *, price: float = 100.0, days: int = 20) -> Listing:
    listing = new_york(symbol, last, price=price, days=days, half=frozenset({HALF_DAY}))
    listing.sessions = [one for one in listing.sessions if day_of(one[0]) != HOLIDAY]
    return listing


def day_of(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, NEW_YORK).date()


@pytest.fixture
def metrics() -> ProducerMetrics:
    return ProducerMetrics(CollectorRegistry())


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(at(date(2026, 11, 2), 9, 0))
    yield loop
    if not loop.is_closed():
        loop.close()


def run(loop: VirtualLoop, topic: Topic, source: PollingSource, until_ms: int) -> None:
    """Let a source publish until a moment of virtual time."""

    async def to_the_end() -> None:
        filling = asyncio.ensure_future(topic.fill(source, lambda: False))
        sleeping = asyncio.ensure_future(asyncio.sleep((until_ms - loop.now_ms()) / 1000))
        await asyncio.wait([filling, sleeping], return_when=asyncio.FIRST_COMPLETED)
        filling.cancel()
        sleeping.cancel()
        done = await asyncio.gather(filling, return_exceptions=True)
        if done[0] is not None and not isinstance(done[0], asyncio.CancelledError):
            raise done[0]

    loop.run(to_the_end())


def assert_holds(candles: dict[int, Candle], truth: list[TrueBar]) -> None:
    expected = {one.start_ms: (one.end_ms, *one.ohlcv) for one in truth}
    got = {
        one.open_ms: (one.close_ms, one.open, one.high, one.low, one.close, one.volume)
        for one in candles.values()
    }
    assert got == expected


def test_three_days_of_minutes_come_once_in_order_seconds_after_their_close(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    listing = nyse("AAPL", date(2026, 11, 4))
    source, yahoo = polling(loop, [listing], metrics)
    topic, late = Topic(), []
    began_ms = loop.now_ms()
    take = topic.take

    def timed(publication: object) -> None:
        take(publication)  # type: ignore[arg-type]
        close_ms = topic.publications[-1].candle.close_ms
        if close_ms > began_ms:
            late.append(loop.now_ms() - close_ms)

    topic.take = timed  # type: ignore[method-assign]
    end_ms = at(date(2026, 11, 4), 18)
    run(loop, topic, source, end_ms)
    first_ms = min(topic.candles["AAPL"])
    assert_holds(topic.candles["AAPL"], listing.bars("1m", end_ms, (first_ms, end_ms)))
    assert {one.kind for one in topic.publications} == {Kind.CLOSED}
    assert min(late) >= GRACE_MS
    assert max(late) <= 2 * MINUTE_MS
    nights = [now_ms for now_ms, *_ in yahoo.asked if not 9 <= hour_of(now_ms) <= 16]
    assert len(nights) < 50  # the night has a heartbeat


def hour_of(now_ms: int) -> int:
    return datetime.fromtimestamp(now_ms / 1000, NEW_YORK).hour


@pytest.mark.parametrize("interval", ["1m", "1h", "1d"])
def test_holiday_and_half_day(loop: VirtualLoop, metrics: ProducerMetrics, interval: str) -> None:
    loop.set_ms(at(date(2026, 11, 25), 15, 30))
    listing = nyse("AAPL", date(2026, 11, 30), days=400 if interval == "1d" else 20)
    source, _ = polling(loop, [listing], metrics, interval=interval)
    topic, end_ms = Topic(), at(date(2026, 11, 30), 18)
    run(loop, topic, source, end_ms)
    candles = list(topic.candles["AAPL"].values())
    truth = listing.bars(interval, end_ms, (at(date(2026, 11, 25), 0), end_ms))
    assert [one.close_ms for one in candles[-len(truth) :]] == [one.end_ms for one in truth]
    closes = {one.close_ms for one in candles}
    assert at(HALF_DAY, 13) in closes  # also when it is days ago
    assert not any(day_of(one - 1) == HOLIDAY for one in closes)


def test_a_half_day_of_the_past_ends_by_the_calendar(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    loop.set_ms(at(date(2026, 11, 30), 15))
    listing = nyse("AAPL", date(2026, 11, 30), days=400)
    source, _ = polling(loop, [listing], metrics, interval="1d")
    topic = Topic()
    run(loop, topic, source, at(date(2026, 11, 30), 17))
    closes = [one.close_ms for one in topic.candles["AAPL"].values()]
    assert at(HALF_DAY, 13) in closes


@pytest.mark.parametrize("sunday", [date(2026, 3, 8), date(2026, 11, 1)])
def test_the_clocks_change(loop: VirtualLoop, metrics: ProducerMetrics, sunday: date) -> None:
    friday, monday = sunday.toordinal() - 2, date.fromordinal(sunday.toordinal() + 1)
    loop.set_ms(at(date.fromordinal(friday), 15))
    listing = nyse("AAPL", monday)
    source, _ = polling(loop, [listing], metrics, interval="1h")
    topic, end_ms = Topic(), at(monday, 17)
    run(loop, topic, source, end_ms)
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
    run(loop, topic, source, end_ms)
    opened = sorted(topic.candles["BTC-USD"])
    assert opened == list(range(opened[0], opened[-1] + 1, MINUTE_MS))  # 23:59 among them
    assert opened[-1] == at(date(2026, 11, 8), 14, 59)


@pytest.mark.parametrize("interval", ["1m", "30m", "1h"])
def test_hong_kong_has_lunch(loop: VirtualLoop, metrics: ProducerMetrics, interval: str) -> None:
    listing = hong_kong("0700.HK", date(2026, 11, 4), price=500.0)
    source, _ = polling(loop, [listing], metrics, interval=interval)
    topic, end_ms = Topic(), at(date(2026, 11, 4), 6)
    run(loop, topic, source, end_ms)
    first_ms = min(topic.candles["0700.HK"])
    truth = listing.bars(interval, end_ms, (first_ms, end_ms))
    assert [(one.open_ms, one.close_ms) for one in topic.candles["0700.HK"].values()] == [
        (one.start_ms, one.end_ms) for one in truth
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
    run(loop, topic, source, at(day, 10, 12))
    assert mending.done()
    corrected = topic.of_kind(Kind.CORRECTION)
    assert [one.candle.open_ms for one in corrected] == [at(day, 10, 0), at(day, 10, 2)]
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
        run(loop, topic, source, at(date(2026, 11, 3), 20))
        loop.set_ms(at(day, 16, 30))
    source, _ = polling(loop, [listing], metrics, interval=interval)
    run(loop, topic, source, at(day, 17, 30))
    again = topic.of_kind(Kind.RESCALED)
    assert len(again) == 160
    assert all([one.value for one in pub.actions] == ["4:1"] for pub in again)
    at_split = topic.publications.index(again[0])
    first_new = topic.publications[at_split + 160]
    assert [one.kind for one in first_new.actions] == [ActionKind.SPLIT]
    assert all(one.candle.close_ms <= split_ms for one in topic.publications[:at_split])
    window = list(topic.candles["AAPL"].values())[-160:]
    truth = listing.bars(interval, loop.now_ms())
    assert [one.close for one in window] == [one.close for one in truth[-160:]]
    assert_one_scale_at_each_forecast(topic, "AAPL")


def assert_one_scale_at_each_forecast(topic: Topic, symbol: str, length: int = 160) -> None:
    """Take the topic as the worker does: no window that it forecasts from jumps by half."""
    state = SymbolState(Window(length))
    forecasts = 0
    for offset, publication in enumerate(topic.publications):
        if publication.candle.symbol != symbol:
            continue
        state, outcome = step(state, publication.candle, offset)
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
    run(loop, topic, source, at(day, 12, 10))
    listing.price /= 10
    source, _ = polling(loop, [listing], metrics)
    run(loop, topic, source, at(day, 12, 20))
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
    run(loop, topic, source, at(day, 10))
    told = [one for one in topic.publications if one.actions]
    assert [(one.candle.open_ms, one.actions[0].value) for one in told] == [
        (at(day, 9, 30), "0.25")
    ]
    assert {one.kind for one in topic.publications} == {Kind.CLOSED}


def test_a_bad_symbol_delays_no_other_and_is_asked_less_and_less(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    day = date(2026, 11, 4)
    loop.set_ms(at(day, 12))
    source, yahoo = polling(loop, [nyse("GOOD", day), nyse("BAD", day)], metrics)
    yahoo.fault = lambda symbol, _: ErrorKind.UNKNOWN_SYMBOL if symbol == "BAD" else None
    topic = Topic()
    run(loop, topic, source, at(day, 14))
    good = [now_ms for now_ms, symbol, _ in yahoo.asked if symbol == "GOOD"]
    bad = [now_ms for now_ms, symbol, _ in yahoo.asked if symbol == "BAD"]
    assert len(good) >= 121
    assert len(bad) <= 12
    assert topic.candles["GOOD"][at(day, 13, 58)]


def test_429_pauses_all_symbols_longer_each_time_and_loses_nothing(
    loop: VirtualLoop, metrics: ProducerMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    day = date(2026, 11, 4)
    loop.set_ms(at(day, 12))
    listings = [nyse(f"S{i}", day) for i in range(5)]
    source, yahoo = polling(loop, listings, metrics)
    limited_from, limited_to = at(day, 12, 30), at(day, 12, 45)
    yahoo.fault = lambda _, now_ms: (
        ErrorKind.RATE_LIMITED if limited_from <= now_ms < limited_to else None
    )
    topic, end_ms = Topic(), at(day, 13, 20, 30)
    run(loop, topic, source, end_ms)
    during = [now_ms for now_ms, *_ in yahoo.asked if limited_from <= now_ms < limited_to]
    assert len(during) < 20  # of 75 that would have been
    assert "the circuit is open, all symbols pause for" in caplog.text
    for listing in listings:
        candles = topic.candles[listing.symbol]
        truth = listing.bars("1m", end_ms, (min(candles), max(candles) + 1))
        assert_holds(candles, truth)
        assert max(candles) >= at(day, 13, 18)


def test_one_symbol_s_429_for_ever_pauses_the_others_once(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    day = date(2026, 11, 4)
    loop.set_ms(at(day, 12))
    source, yahoo = polling(loop, [nyse("GOOD", day), nyse("BAD", day)], metrics)
    yahoo.fault = lambda symbol, _: ErrorKind.RATE_LIMITED if symbol == "BAD" else None
    topic = Topic()
    run(loop, topic, source, at(day, 14))
    good = [now_ms for now_ms, symbol, _ in yahoo.asked if symbol == "GOOD"]
    assert len(good) >= 119


def test_symbols_that_are_all_unknown_are_an_error(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    source, yahoo = polling(loop, [nyse("A", date(2026, 11, 4))], metrics)
    yahoo.listings.clear()
    with pytest.raises(SourceError, match="Yahoo knows none of the 1 symbols"):
        run(loop, Topic(), source, loop.now_ms() + HOUR_MS)


def test_a_bucket_spreads_the_requests(loop: VirtualLoop, metrics: ProducerMetrics) -> None:
    gate = Gate(metrics, rate=10, burst=5)
    times: list[float] = []

    async def call() -> None:
        times.append(loop.time())

    async def all_calls() -> None:
        await asyncio.gather(*(gate.ask(str(i), call) for i in range(45)))

    loop.run(all_calls())
    assert times[:5] == [0.0] * 5
    assert times[-1] == pytest.approx(4.0)


def test_staleness_is_told_against_the_calendar(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    day = date(2026, 11, 4)
    loop.set_ms(at(day, 12))
    listing = nyse("AAPL", date(2026, 11, 5))
    source, yahoo = polling(loop, [listing], metrics)
    topic = Topic()

    def stale_s() -> float:
        [metric] = metrics.staleness.collect()
        return metric.samples[0].value

    seen: dict[str, float] = {}

    async def look() -> None:
        for name, moment in (
            ("fresh", at(day, 12, 30, 30)),
            ("silent", at(day, 13, 30, 30)),
            ("night", at(day, 22)),
        ):
            await asyncio.sleep((moment - loop.now_ms()) / 1000)
            seen[name] = stale_s()

    yahoo.fault = lambda _, now_ms: (
        ErrorKind.TIMEOUT if at(day, 13) <= now_ms < at(day, 14) else None
    )
    looking = loop.create_task(look())
    run(loop, topic, source, at(day, 23))
    assert looking.done()
    assert seen["fresh"] == 0
    assert seen["silent"] == pytest.approx(30 * 60, abs=120)
    assert seen["night"] == 0


def test_a_missing_symbol_is_told_from_a_closed_market(
    loop: VirtualLoop, metrics: ProducerMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a night nor a holiday is a word in the log; a session without a trade is one."""
    caplog.set_level("INFO")
    loop.set_ms(at(date(2026, 11, 25), 15))
    good, halted, never = (nyse(name, date(2026, 11, 30)) for name in ("GOOD", "HALTED", "NEVER"))
    noon = at(date(2026, 11, 27), 10, 0)  # of the half day after the holiday
    halted.without.update(range(noon, at(date(2026, 11, 30), 11), MINUTE_MS))
    never.sessions = [one for one in never.sessions if one[0] < at(date(2026, 11, 20), 0)]
    source, _ = polling(loop, [good, halted, never], metrics)
    run(loop, Topic(), source, at(date(2026, 11, 30), 12))
    told = [one.getMessage() for one in caplog.records if "exchange is open" in one.getMessage()]
    assert len(told) == 2
    assert told[0].startswith("NEVER 1m: no candle for")
    assert told[1].startswith("HALTED 1m: no candle for 30 min though its exchange is open")
    assert [one.getMessage() for one in caplog.records if "come again" in one.getMessage()] == [
        "HALTED 1m: candles come again"
    ]


def test_a_crash_at_any_instant_leaves_no_gap(loop: VirtualLoop, metrics: ProducerMetrics) -> None:
    """Each life ends after some publications; the next goes on from what the topic holds."""
    chance = random.Random(6)
    day = date(2026, 11, 4)
    loop.set_ms(at(day, 9, 35))
    listings = [nyse("AAPL", day, days=3), nyse("MSFT", day, price=50.0, days=3)]
    topic = Topic()
    for _ in range(12):
        lives = chance.randrange(1, 60)
        left = iter(range(lives))
        source, _ = polling(loop, listings, metrics)
        loop.run(topic.fill(source, lambda left=left: next(left, None) is None))  # type: ignore[misc]
        loop.set_ms(loop.now_ms() + chance.randrange(0, 8) * MINUTE_MS)
        if loop.now_ms() > at(day, 15, 30):
            break
    end_ms = at(day, 17)
    source, _ = polling(loop, listings, metrics)
    run(loop, topic, source, end_ms)
    for listing in listings:
        candles = topic.candles[listing.symbol]
        assert_holds(candles, listing.bars("1m", end_ms, (min(candles), end_ms)))
