"""The polling source when Yahoo, a symbol or the producer fails, in virtual time."""

from __future__ import annotations

import asyncio
import random
from datetime import date

import pytest

from producer.source import SourceError
from producer.yahoo.errors import ErrorKind
from producer.yahoo.gate import Gate
from shared.candles import MINUTE_MS
from shared.metrics import ProducerMetrics
from tests.direct_yahoo import Topic, assert_holds, polling
from tests.new_york import at, nyse
from tests.virtual_time import VirtualLoop

HOUR_MS = 60 * MINUTE_MS


def test_a_bad_symbol_delays_no_other_and_is_polled_less_and_less(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    day = date(2026, 11, 4)
    loop.set_ms(at(day, 12))
    source, yahoo = polling(loop, [nyse("GOOD", day), nyse("BAD", day)], metrics)
    yahoo.fault = lambda symbol, _: ErrorKind.UNKNOWN_SYMBOL if symbol == "BAD" else None
    topic = Topic()
    topic.run(loop, source, at(day, 14))
    good = [now_ms for now_ms, symbol, _ in yahoo.requests if symbol == "GOOD"]
    bad = [now_ms for now_ms, symbol, _ in yahoo.requests if symbol == "BAD"]
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
    topic.run(loop, source, end_ms)
    during = [now_ms for now_ms, *_ in yahoo.requests if limited_from <= now_ms < limited_to]
    assert len(during) < 20  # of 75 that would have been
    assert "the circuit is open, all symbols pause for" in caplog.text
    for listing in listings:
        candles = topic.candles[listing.symbol]
        truth = listing.bars("1m", end_ms, (min(candles), max(candles) + 1))
        assert_holds(candles, truth)
        assert max(candles) >= at(day, 13, 18)


def test_one_symbol_s_endless_429_pauses_the_others_once(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    day = date(2026, 11, 4)
    loop.set_ms(at(day, 12))
    source, yahoo = polling(loop, [nyse("GOOD", day), nyse("BAD", day)], metrics)
    yahoo.fault = lambda symbol, _: ErrorKind.RATE_LIMITED if symbol == "BAD" else None
    topic = Topic()
    topic.run(loop, source, at(day, 14))
    good = [now_ms for now_ms, symbol, _ in yahoo.requests if symbol == "GOOD"]
    assert len(good) >= 119


def test_a_wait_between_the_parts_of_a_history_closes_no_forming_candle(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    """The first part holds half a minute; ten minutes later that would seem closed."""
    day = date(2026, 11, 4)
    loop.set_ms(at(day, 12, 0, 30))
    listing = nyse("AAPL", day)
    gate = Gate(metrics, rate=1 / 600, burst=1)
    source, yahoo = polling(loop, [listing], metrics, history=3000, gate=gate)
    topic = Topic()
    topic.run(loop, source, at(day, 12, 15))
    assert len(yahoo.requests) == 2
    candles = topic.candles["AAPL"]
    assert_holds(candles, listing.bars("1m", loop.now_ms(), (min(candles), at(day, 12, 0))))


def test_symbols_that_are_all_unknown_are_an_error(
    loop: VirtualLoop, metrics: ProducerMetrics
) -> None:
    source, yahoo = polling(loop, [nyse("A", date(2026, 11, 4))], metrics)
    yahoo.listings.clear()
    with pytest.raises(SourceError, match="Yahoo knows none of the 1 symbols"):
        Topic().run(loop, source, loop.now_ms() + HOUR_MS)


def test_staleness_is_measured_against_the_calendar(
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
    topic.run(loop, source, at(day, 23))
    assert looking.done()
    assert seen["fresh"] == 0
    assert seen["silent"] == pytest.approx(30 * 60, abs=120)
    assert seen["night"] == 0


def test_the_log_tells_a_missing_symbol_from_a_closed_market(
    loop: VirtualLoop, metrics: ProducerMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A night and a holiday log nothing; a session without a trade does."""
    caplog.set_level("INFO")
    loop.set_ms(at(date(2026, 11, 25), 15))
    good, halted, never = (nyse(name, date(2026, 11, 30)) for name in ("GOOD", "HALTED", "NEVER"))
    noon = at(date(2026, 11, 27), 10, 0)  # of the half day after the holiday
    halted.without.update(range(noon, at(date(2026, 11, 30), 11), MINUTE_MS))
    end_ms = at(date(2026, 11, 20), 0)
    never.sessions = [session for session in never.sessions if session[1] < end_ms]
    source, _ = polling(loop, [good, halted, never], metrics)
    Topic().run(loop, source, at(date(2026, 11, 30), 12))
    messages = [record.getMessage() for record in caplog.records]
    warnings = [message for message in messages if "exchange is open" in message]
    assert len(warnings) == 2
    assert warnings[0].startswith("NEVER 1m: no candle for")
    assert warnings[1].startswith("HALTED 1m: no candle for 30 min though its exchange is open")
    again = [message for message in messages if "come again" in message]
    assert again == ["HALTED 1m: candles come again"]


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
    topic.run(loop, source, end_ms)
    for listing in listings:
        candles = topic.candles[listing.symbol]
        assert_holds(candles, listing.bars("1m", end_ms, (min(candles), end_ms)))
