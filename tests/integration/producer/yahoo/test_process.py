"""The producer as a real process, with a real broker, on the stand-in of Yahoo."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local.broker import Broker
from local.yahoo import Fault, YahooStandIn, real_now_ms
from local.yahoo.market import open_now
from producer.yahoo.bars import GRACE_MS
from shared.candles import DAY_MS, MINUTE_MS
from shared.history import bundled
from shared.leash import Leash
from tests.candles import values_of
from tests.integration.processes import Processes, wait_until
from tests.integration.producer.producers import (
    Producer,
    by_symbol,
    log_of,
    polls_done,
    samples,
    through,
)

pytestmark = pytest.mark.integration

MANY = tuple(f"S{number:02d}" for number in range(20))
HISTORY = 2000  # of each: long enough to be hit in the middle


@pytest.mark.parametrize("interval", ["1m", "1d"])
def test_yahoos_closed_candles_are_published_though_one_symbol_is_bad(
    producer: Producer, yahoo: YahooStandIn, interval: str
) -> None:
    yahoo.server.fail("BAD", Fault.SERVER_ERROR)
    before_ms = real_now_ms()
    process = producer.finish(*through(yahoo, interval, "--once"))
    after_ms = real_now_ms()
    got = by_symbol(producer.candles())
    assert sorted(got) == ["GOOD", "OTHER"]
    for symbol, candles in got.items():
        listing = yahoo.server.listings[symbol]
        truth = {
            min(bar.end_ms, end_of_day(bar.start_ms)): bar.ohlcv
            for bar in listing.closed(interval, after_ms)
        }
        for candle in candles:
            assert values_of(candle) == truth[candle.close_ms]
            assert candle.source == "yfinance"
        ends = [candle.close_ms for candle in candles]
        surely = [end for end in truth if end <= before_ms - GRACE_MS]
        assert ends[-1] >= surely[-1]
        assert ends == list(truth)[-len(ends) :][: len(ends)] or ends == surely[-len(ends) :]
        if interval == "1d":
            assert all(candle.open_ms % DAY_MS == 0 for candle in candles)
    assert "BAD" in log_of(process)
    assert "server_error" in log_of(process)


def end_of_day(opening_ms: int) -> int:
    """Return the end of a session's day in UTC: from 20:00 on the stand-in's trades beyond it."""
    noon_ms = opening_ms + 3 * 60 * MINUTE_MS
    return (noon_ms // DAY_MS + 1) * DAY_MS


def test_polling_goes_on_where_it_stopped_and_ends_on_sigterm(
    producer: Producer, yahoo: YahooStandIn
) -> None:
    """A request that Yahoo leaves unanswered holds up no other symbol, and not the end."""
    yahoo.server.fail("BAD", Fault.NOT_FOUND)
    producer.finish(*through(yahoo, "1m", "--once"))
    first = producer.count()
    yahoo.server.fail("BAD", Fault.SLOW)
    process = producer.start(*through(yahoo, "1m", "--poll-seconds", "1"))
    # before the unanswered request has run into its time-out of 10 s
    wait_until(lambda: polls_done(process) >= 1, 60, "a poll", process=process)
    wait_until(lambda: polls_done(process) >= 8, 9, "polls of two symbols", process=process)
    assert process.stop(10) == 0, log_of(process)
    got = producer.candles()
    assert len(got) >= first
    for candles in by_symbol(got).values():
        opened = [candle.open_ms for candle in candles]
        assert opened == sorted(set(opened))


def test_a_backfill_gives_a_range_once(
    producer: Producer, yahoo: YahooStandIn, tmp_path: Path
) -> None:
    named = tmp_path / "symbols.txt"
    named.write_text("GOOD  # the first\n\n# none\nOTHER\n")
    now_ms = real_now_ms()
    start_ms, end_ms = now_ms - 9 * DAY_MS, now_ms - DAY_MS
    flags = [
        *("--source", "backfill", "--symbols-file", str(named), "--interval", "1m"),
        *("--start", iso(start_ms), "--end", iso(end_ms)),
        *("--proxy", yahoo.proxy_url, "--ca-bundle", str(yahoo.ca_bundle)),
    ]
    producer.finish(*flags)
    got = by_symbol(producer.candles())
    assert sorted(got) == ["GOOD", "OTHER"]
    start_ms, end_ms = start_ms // 1000 * 1000, end_ms // 1000 * 1000
    for symbol, candles in got.items():
        truth = yahoo.server.listings[symbol].bars("1m", now_ms, (start_ms, end_ms))
        assert [candle.open_ms for candle in candles] == [bar.start_ms for bar in truth]
    count = producer.count()
    assert "done: 0 candles" in log_of(producer.finish(*flags))
    assert producer.count() == count


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).isoformat()


def test_a_yahoo_out_of_reach_is_told_and_replaced_only_when_asked(producer: Producer) -> None:
    unreachable = ("--source", "yfinance", "--proxy", "http://127.0.0.1:9", "--symbols", "IBM,^X")
    process = producer.start(*unreachable)
    wait_until(lambda: process.exit_code is not None, 60, "its end")
    assert process.exit_code == 1, log_of(process)
    assert "Yahoo cannot be reached: network" in log_of(process).splitlines()[-1]
    assert "--fallback replay replays stored candles instead" in log_of(process)
    assert "Traceback" not in log_of(process)
    assert producer.count() == 0
    process = producer.finish(*unreachable, "--fallback", "replay")
    assert "replaying stored candles instead" in log_of(process)
    assert producer.count() == len(bundled().candles)


def test_yahoos_cookie_outlives_the_process_and_a_bad_folder_costs_no_candle(
    producer: Producer, yahoo: YahooStandIn, tmp_path: Path
) -> None:
    def cookies_given() -> int:
        return sum(host == "fc.yahoo.com" for host, *_ in yahoo.server.requests)

    flags = through(yahoo, "1m", "--once", "--cache-dir")
    producer.finish(*flags, str(tmp_path / "cache"))
    assert cookies_given() == 1
    producer.finish(*flags, str(tmp_path / "cache"))
    assert cookies_given() == 1
    process = producer.finish(*flags, "/proc/candlecast")  # as on a read-only disk
    assert cookies_given() == 2
    assert "cache_dir: the cookie cannot be kept in /proc/candlecast" in log_of(process)


@pytest.fixture
def many() -> Iterator[YahooStandIn]:
    """Yahoo with twenty shares that have traded for twelve days."""
    now_ms = real_now_ms()
    listings = [open_now(symbol, now_ms, price=10.0 + at) for at, symbol in enumerate(MANY)]
    with YahooStandIn(*listings) as stand_in:
        yield stand_in


def follow(yahoo: YahooStandIn, *args: str) -> list[str]:
    flags = through(yahoo, "1m", "--history", str(HISTORY), *args)
    flags[flags.index("--symbols") + 1] = ",".join(MANY)
    return flags


def assert_holds_all(producer: Producer, yahoo: YahooStandIn) -> None:
    """Every candle of each symbol, from the first one on, is there, in order, as Yahoo has it."""
    got = by_symbol(producer.candles())
    assert sorted(got) == list(MANY)
    now_ms = real_now_ms()
    for symbol, candles in got.items():
        candles = list(dict.fromkeys(candles))  # noqa: PLW2901 -- repeats are allowed
        span = candles[0].open_ms, candles[-1].open_ms + 1
        assert len(candles) >= HISTORY
        assert candles[-1].close_ms >= now_ms - 4 * MINUTE_MS
        truth = yahoo.server.listings[symbol].bars("1m", now_ms, span)
        assert [(candle.open_ms, values_of(candle)) for candle in candles] == [
            (bar.start_ms, bar.ohlcv) for bar in truth
        ]


def test_killed_at_any_instant_again_and_again_it_leaves_no_gap(
    producer: Producer, many: YahooStandIn
) -> None:
    chance = random.Random(6)
    hit = 0
    for _ in range(8):
        before = producer.count()
        target, begun_s = before + chance.randrange(1, 9000), time.monotonic()
        process = producer.start(*follow(many, "--poll-seconds", "1"))
        wait_until(
            lambda target=target, begun_s=begun_s: (  # type: ignore[misc]
                producer.count() >= target or time.monotonic() > begun_s + 10
            ),
            60, "an instant to kill it", process=process,
        )  # fmt: skip
        process.kill()
        hit += before < producer.count() < len(MANY) * HISTORY
    assert hit >= 3  # in the middle of filling
    producer.finish(*follow(many, "--once"))
    assert_holds_all(producer, many)


@pytest.mark.parametrize("killed", [False, True])
def test_without_kafka_it_stops_polling_and_loses_nothing(
    leash: Leash,
    processes: Processes,
    unique_name: Callable[[str], str],
    many: YahooStandIn,
    *,
    killed: bool,
) -> None:
    """The broker is killed in the middle of the fill; with the producer, if so."""
    with Broker(leash=leash) as broker:
        broker.wait_ready()
        producer = Producer(broker.bootstrap, unique_name("candles"), processes)
        flags = follow(many, "--poll-seconds", "1", "--buffer", "300")
        process = producer.start(*flags)
        wait_until(lambda: producer.count() >= 3000, 60, "3000 candles", process=process)
        broker.kill()
        line = "the buffer of 300 candles is full: the source waits"
        wait_until(lambda: line in log_of(process), 30, "its complaint", process=process)
        assert list(samples(process, "candlecast_buffer_full").values()) == [1.0]
        assert list(samples(process, "candlecast_buffered").values()) == [300.0]
        assert_stops_polling(many)
        if killed:
            process.kill()
        broker.start()
        broker.wait_ready()
        if killed:
            process = producer.start(*flags)
        else:
            answers = "Kafka answers again: the source goes on"
            wait_until(lambda: answers in log_of(process), 60, "its relief", process=process)
        full = len(MANY) * HISTORY
        wait_until(lambda: producer.count() >= full, 120, "every candle", process=process)
        wait_until(lambda: polls_done(process) >= len(MANY), 60, "polls", process=process)
        assert process.stop(10) == 0, log_of(process)
        assert_holds_all(producer, many)


def assert_stops_polling(yahoo: YahooStandIn) -> None:
    """No symbol is asked for over some seconds, though each is due every second."""
    seen, since_s = -1, 0.0

    def is_quiet() -> bool:
        nonlocal seen, since_s
        asked = len(yahoo.server.requests)
        if asked != seen:
            seen, since_s = asked, time.monotonic()
        return time.monotonic() > since_s + 3

    wait_until(is_quiet, 20, "three seconds without a request")


def test_the_whole_system_runs_on_yahoos_candles(processes: Processes) -> None:
    """What ``make demo ARGS="--source yfinance"`` runs, with Yahoo's stand-in behind a proxy."""
    listing = open_now("AAPL", real_now_ms(), price=100.0, days=730)
    with YahooStandIn(listing) as stand_in:
        way = {"PROXY": stand_in.proxy_url, "CA_BUNDLE": str(stand_in.ca_bundle)}
        env = {f"CANDLECAST_PRODUCER_{name}": value for name, value in way.items()}
        demo = processes.start(
            "local", "--source", "yfinance", "--symbols", "AAPL", "--exit-when-done", "--json",
            env=env,
        )  # fmt: skip
        wait_until(lambda: demo.exit_code is not None, 180, "the end of the demo")
    assert demo.exit_code == 0, log_of(demo)
    summary = json.loads(next(line for line in log_of(demo).splitlines() if line.startswith("{")))
    assert summary["candles_in"] == 500  # the history that a symbol begins with
    assert summary["forecasts_out"] > 300
    assert summary["missing_forecasts"] == summary["dead_letters"] == 0
