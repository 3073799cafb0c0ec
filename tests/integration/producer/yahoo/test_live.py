"""``--source live`` as a real process: real minutes of ticks, on the stand-in's websocket."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from aiohttp import web

from local.process import Process
from local.yahoo import Fault, YahooStandIn, real_now_ms
from producer.source import Kind
from producer.yahoo.ticks import Tick
from shared.candles import MINUTE_MS, Candle, decode_candle
from tests.candles import values_of
from tests.integration import topics
from tests.integration.processes import wait_until
from tests.integration.producer.producers import Producer, log_of, samples, through
from tests.ticker_frames import GARBAGE, aborts, closes, falls_silent, frame, raves

pytestmark = pytest.mark.integration

SYMBOLS = ("GOOD", "OTHER")
IDLE_S = 3


class Tape:
    """Two ticks a second of each symbol, as long as a connection lasts; keeps them.

    The day's volume is reset in the middle of each minute but the one that the connection
    begins in: had that been reset by its last tick, the next could not fall below.
    """

    def __init__(self) -> None:
        self.ticks: list[Tick] = []

    async def play(self, socket: web.WebSocketResponse) -> None:
        volume, number = 5000, 0
        reset_minute = real_now_ms() // MINUTE_MS
        while True:
            now_ms = real_now_ms()
            number, volume = number + 1, volume + 10
            minute, within_ms = divmod(now_ms, MINUTE_MS)
            if within_ms > MINUTE_MS // 2 and minute != reset_minute:
                reset_minute, volume = minute, 40
            for symbol, price in zip(SYMBOLS, (128.0, 16.0), strict=True):
                # sixty-fourths, which Yahoo's 32-bit prices hold exactly
                tick = Tick(symbol, now_ms, price + number % 11 / 64, volume)
                self.ticks.append(tick)
                await socket.send_str(frame(tick))
            await asyncio.sleep(0.5)

    def candle(self, symbol: str, open_ms: int) -> tuple[float, float, float, float, float]:
        """Return open, high, low, close and volume of a minute by its ticks."""
        ticks = [tick for tick in self.ticks if tick.symbol == symbol]
        within = [tick for tick in ticks if open_ms <= tick.at_ms < open_ms + MINUTE_MS]
        prices = [tick.price for tick in within]
        before = [tick for tick in ticks if tick.at_ms < open_ms][-1]
        volumes = [before.day_volume, *(tick.day_volume for tick in within)]
        assert min(volumes) < volumes[0]  # it was reset within the minute
        rise = sum(max(later - earlier, 0) for earlier, later in pairwise(volumes))
        return prices[0], max(prices), min(prices), prices[-1], rise


def of_kind(records: list[topics.Record], kind: Kind) -> dict[tuple[str, int], Candle]:
    """Return the candles that were published as such, by symbol and opening time."""
    now_ms = real_now_ms()
    candles = [
        decode_candle(record.key, record.value, now_ms)
        for record in records
        if record.headers["ce_kind"] == kind.value.encode()
    ]
    return {(candle.symbol, candle.open_ms): candle for candle in candles}


@pytest.mark.timeout(450)  # it waits for a whole minute, and the one that has begun
def test_a_minute_of_ticks_is_published_at_its_end_and_corrected_by_the_poll(
    producer: Producer, yahoo: YahooStandIn
) -> None:
    """After a stream of garbage, an abort, a clean close and a silence: none costs a candle."""
    tape = Tape()
    yahoo.server.scripts += [raves, aborts, closes, falls_silent, tape.play]
    yahoo.server.fail("BAD", Fault.SERVER_ERROR)
    flags = through(yahoo, "1m", "--idle-seconds", str(IDLE_S))
    flags[flags.index("yfinance")] = "live"
    process = producer.start(*flags)
    wait_until(lambda: tape.ticks, 90, "ticks", process=process)
    # the minute that has begun, a whole one, and the poll after it
    records = wait_until(lambda: corrected(producer), 240, "a correction", process=process)
    provisional = of_kind(records, Kind.PROVISIONAL)
    opened = min(open_ms for _, open_ms in provisional)
    assert opened > tape.ticks[0].at_ms  # not the minute whose first ticks are missing
    for symbol in SYMBOLS:
        candle = provisional[symbol, opened]
        assert values_of(candle) == tape.candle(symbol, opened)
        assert candle.source == "live"
        listing = yahoo.server.listings[symbol]
        [true] = listing.bars("1m", opened + 2 * MINUTE_MS, (opened, opened + 1))
        final = of_kind(records, Kind.CORRECTION)[symbol, opened]
        assert list(values_of(final)) == list(true.ohlcv)
        assert final.source == "yfinance"
        assert_no_gap(records, symbol, yahoo)
    lags_ms = [
        record.timestamp_ms - (opened + MINUTE_MS)
        for record in records
        if record.headers["ce_kind"] == b"provisional"
    ]
    assert 0 < min(lags_ms) <= max(lags_ms) < 8000  # the poll comes after 15 s
    assert_says_what_happened(process)
    assert process.stop(10) == 0, log_of(process)
    assert "Traceback" not in log_of(process)


def corrected(producer: Producer) -> list[topics.Record]:
    """Return all records once both symbols have a candle that was provisional and corrected."""
    records = producer.records()
    both = of_kind(records, Kind.PROVISIONAL).keys() & of_kind(records, Kind.CORRECTION).keys()
    return records if {symbol for symbol, _ in both} == set(SYMBOLS) else []


def assert_no_gap(records: list[topics.Record], symbol: str, yahoo: YahooStandIn) -> None:
    now_ms = real_now_ms()
    opened = list(
        dict.fromkeys(
            decode_candle(record.key, record.value, now_ms).open_ms
            for record in records
            if record.key == symbol.encode()
        )
    )
    truth = yahoo.server.listings[symbol].bars("1m", now_ms, (opened[0], opened[-1] + 1))
    assert opened == [bar.start_ms for bar in truth]


def assert_says_what_happened(process: Process) -> None:
    ticks = samples(process, "candlecast_ticks")
    assert ticks["unreadable"] == len(GARBAGE) + 1  # and a binary frame
    assert ticks["lost"] == 4
    assert ticks["ok"] > 100
    kinds = samples(process, "candlecast_publications")
    assert kinds["provisional"] >= 2
    assert kinds["correction"] >= 2
    assert f"live stream lost: TimeoutError: silent for {IDLE_S} s" in log_of(process)
