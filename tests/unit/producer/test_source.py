"""Every source of candles holds to the port's contract, whatever it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import date

import pytest
from prometheus_client import CollectorRegistry

from producer.replay import ReplaySource
from producer.source import CandleSource, Kind, Publication, SourceError
from producer.yahoo.backfill import BackfillSource
from producer.yahoo.bars import Bar
from producer.yahoo.errors import ErrorKind
from producer.yahoo.fetcher import as_candle
from producer.yahoo.live import LiveSource
from producer.yahoo.polling import PollingSource
from producer.yahoo.ticker import StreamEvent
from producer.yahoo.ticks import Tick
from shared.candles import MINUTE_MS, decode_candle
from shared.files.series import History
from shared.metrics import ProducerMetrics
from tests.direct_yahoo import DirectYahoo, Topic, fetcher_of
from tests.new_york import at, nyse
from tests.virtual_time import VirtualLoop

DAY = date(2026, 11, 4)
NOW_MS = at(DAY, 12)
SYMBOLS = ("AAPL", "MSFT")


class Market:
    """Yahoo with two shares, its clock, and sources that read it."""

    def __init__(self) -> None:
        self.loop = VirtualLoop(NOW_MS)
        self.listings = [nyse(symbol, DAY, days=5) for symbol in SYMBOLS]
        self.yahoo = DirectYahoo(self.listings, self.loop.now_ms)
        self.metrics = ProducerMetrics(CollectorRegistry())

    def polling(self, *, once: bool = True) -> PollingSource:
        fetcher = fetcher_of(self.yahoo, "1m", self.metrics)
        return PollingSource(
            SYMBOLS, fetcher, poll_ms=MINUTE_MS, window=160, history=700, once=once
        )


class Ticks:
    """A stream with a tick of each symbol every ten seconds."""

    def __init__(self, market: Market) -> None:
        self._market = market

    async def events(self) -> AsyncGenerator[Tick | StreamEvent, None]:
        yield StreamEvent.CONNECTED
        while True:
            await asyncio.sleep(10)
            now_ms = self._market.loop.now_ms()
            for listing in self._market.listings:
                yield Tick(listing.symbol, now_ms, listing.price_at(now_ms), 0)
            yield StreamEvent.BEAT


def polled(market: Market) -> CandleSource:
    return market.polling()


def followed(market: Market) -> CandleSource:
    return market.polling(once=False)


def live(market: Market) -> CandleSource:
    return LiveSource(market.polling(once=False), Ticks(market))


def backfilled(market: Market) -> CandleSource:
    span = (at(date(2026, 11, 3), 0), NOW_MS)
    fetcher = fetcher_of(market.yahoo, "1m", market.metrics)
    return BackfillSource(SYMBOLS, fetcher, span)


def replayed(market: Market) -> CandleSource:
    candles = [
        as_candle(Bar(bar.start_ms, bar.end_ms, *bar.ohlcv), listing.symbol, "1m", "file")
        for listing in market.listings
        for bar in listing.closed("1m", NOW_MS)
    ]
    candles.sort(key=lambda candle: (candle.open_ms, candle.symbol))
    return ReplaySource(History.of("test", candles, "1m"))


Make = Callable[[Market], CandleSource]
FINITE: tuple[Make, ...] = (replayed, polled, backfilled)
ALL: tuple[Make, ...] = (*FINITE, followed, live)
OF_YAHOO: tuple[Make, ...] = (polled, backfilled, followed, live)


@pytest.fixture
def market() -> Market:
    return Market()


def take(market: Market, source: CandleSource, topic: Topic, minutes: int = 30) -> None:
    """Take what a source yields in some virtual minutes, or until it ends."""

    async def within() -> None:
        try:
            async with asyncio.timeout(minutes * 60):
                await topic.fill(source, lambda: False)
        except TimeoutError:
            pass

    market.loop.run(within())


@pytest.mark.parametrize("make", ALL)
def test_candles_are_valid_closed_in_order_and_once(market: Market, make: Make) -> None:
    source, topic = make(market), Topic()
    began_ms = market.loop.now_ms()
    seen: list[tuple[Publication, int]] = []
    stock = topic.take

    def timed(publication: Publication) -> None:
        seen.append((publication, market.loop.now_ms()))
        stock(publication)

    topic.take = timed  # type: ignore[method-assign]
    take(market, source, topic)
    assert source.interval == "1m"
    assert set(source.symbols) == set(topic.candles) == set(SYMBOLS)
    assert seen
    for publication, now_ms in seen:
        candle = publication.candle
        assert candle.close_ms <= now_ms
        assert decode_candle(candle.symbol.encode(), candle.encode(), now_ms) == candle
    assert began_ms <= market.loop.now_ms()


@pytest.mark.parametrize("make", ALL)
def test_nothing_is_left_out_between_two_candles(market: Market, make: Make) -> None:
    topic = Topic()
    take(market, make(market), topic)
    for listing in market.listings:
        held = topic.candles[listing.symbol]
        truth = listing.bars("1m", NOW_MS + 60 * MINUTE_MS, (min(held), max(held) + 1))
        assert sorted(held) == [bar.start_ms for bar in truth]


@pytest.mark.parametrize("make", ALL)
def test_it_begins_after_what_is_published(market: Market, make: Make) -> None:
    first = Topic()
    take(market, make(market), first, minutes=5)
    count = len(first.publications)
    again = Topic()
    for publication in first.publications:
        again.take(publication)
    again.publications.clear()
    take(market, make(market), again, minutes=5)
    new = [publication for publication in again.publications if publication.kind is Kind.CLOSED]
    for publication in new:
        assert publication.candle.open_ms > max(first.candles[publication.candle.symbol])
    assert len(again.publications) < count / 4


@pytest.mark.parametrize("make", OF_YAHOO)
def test_a_bad_symbol_stops_no_other(market: Market, make: Make) -> None:
    market.yahoo.fault = lambda symbol, _: ErrorKind.UNKNOWN_SYMBOL if symbol == "AAPL" else None
    topic = Topic()
    source = make(market)
    if make is backfilled:
        with pytest.raises(SourceError, match="AAPL: unknown_symbol"):
            take(market, source, topic)
    else:
        take(market, source, topic)
    assert set(topic.candles) == {"MSFT"}


@pytest.mark.parametrize("make", [backfilled, followed, live])
def test_an_error_that_passes_leaves_no_gap(market: Market, make: Make) -> None:
    market.yahoo.fault = lambda symbol, now_ms: (
        ErrorKind.TIMEOUT if symbol == "AAPL" and now_ms % 180_000 < 90_000 else None
    )
    topic = Topic()
    take(market, make(market), topic, minutes=40)
    held = topic.candles["AAPL"]
    listing = market.listings[0]
    truth = listing.bars("1m", NOW_MS + 60 * MINUTE_MS, (min(held), max(held) + 1))
    assert sorted(held) == [bar.start_ms for bar in truth]


@pytest.mark.parametrize("make", ALL)
def test_it_reads_on_only_as_candles_are_taken(market: Market, make: Make) -> None:
    """A sink that waits holds the source back, and closing it then takes no time."""

    async def slowly() -> int:
        async with aclosing(make(market).candles({})) as stream:
            await anext(stream)
            await asyncio.sleep(600)
            requests = len(market.yahoo.requests)
            await asyncio.sleep(3600)
            return len(market.yahoo.requests) - requests

    assert market.loop.run(slowly()) == 0


@pytest.mark.parametrize("make", FINITE)
def test_a_finite_source_ends(market: Market, make: Make) -> None:
    async def count() -> int:
        return len([candle async for candle in make(market).candles({})])

    assert market.loop.run(count()) > 0


@pytest.mark.parametrize("make", OF_YAHOO)
def test_nothing_at_all_is_an_error(market: Market, make: Make) -> None:
    market.yahoo.listings.clear()
    with pytest.raises(SourceError):
        take(market, make(market), Topic())
