"""A month of minutes of 20 symbols by the real client, with faults at random."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from local.yahoo import Fault, YahooStandIn
from local.yahoo.market import Listing
from producer.source import Kind, Publication
from producer.yahoo.client import Yahoo
from producer.yahoo.fetcher import Fetcher
from producer.yahoo.gate import Gate
from producer.yahoo.polling import PollingSource
from shared.candles import MINUTE_MS
from shared.metrics import ProducerMetrics
from tests import yfinance_state
from tests.direct_yahoo import Topic, assert_holds
from tests.new_york import at, nyse
from tests.virtual_time import VirtualLoop

pytestmark = pytest.mark.integration

FIRST: Final = date(2026, 10, 26)  # the clocks change on November 1; a holiday and a half day
LAST: Final = date(2026, 11, 27)
COUNT: Final = 20
POLL_MS: Final = int(os.environ.get("CANDLECAST_SOAK_POLL_MINUTES", "10")) * MINUTE_MS
"""Time from poll to poll; ``make soak`` polls each minute, which takes some minutes longer."""

FAULTS: Final = [fault for fault in Fault if fault is not Fault.SLOW]


class Chaos:
    """Faults, blank bars filled late, minutes without trades: all from one seed."""

    def __init__(self, stand_in: YahooStandIn, listings: list[Listing], seed: int) -> None:
        self._chance = random.Random(seed)
        self._server = stand_in.server
        self._listings = listings
        self._now_ms = stand_in.server.now_ms
        self.failed = self.blanked = 0
        for listing in listings:
            for _ in range(30):
                start, end = self._chance.choice(listing.sessions)
                listing.without.add(
                    start + self._chance.randrange((end - start) // MINUTE_MS) * MINUTE_MS
                )

    async def rage(self) -> None:
        """Break something every quarter of an hour, mostly for one symbol."""
        while True:
            await asyncio.sleep(600)
            listing = self._chance.choice(self._listings)
            await self._leave_blank(self._chance.choice(self._listings))
            if self._chance.random() < 0.4:
                self._server.fail(
                    listing.symbol, self._chance.choice(FAULTS), self._chance.randrange(1, 4)
                )
                self.failed += 1
            if self._chance.random() < 0.05:
                for each in self._listings:
                    self._server.fail(each.symbol, Fault.RATE_LIMIT, 2)

    async def _leave_blank(self, listing: Listing) -> None:
        """Let the minute that begins now have no prices, or no bar, for some minutes."""
        now_ms = self._now_ms()
        if not any(start <= now_ms < end for start, end in listing.sessions):
            return
        minute_ms = now_ms - now_ms % MINUTE_MS
        if self._chance.random() < 0.5:
            listing.overrides[minute_ms] = dict.fromkeys(("open", "high", "low", "close"))
        elif minute_ms not in listing.without:
            listing.without.add(minute_ms)
        else:
            return
        self.blanked += 1
        try:
            await asyncio.sleep(self._chance.randrange(60, 300))
        finally:  # the producer may be killed meanwhile
            if not listing.overrides.pop(minute_ms, None):
                listing.without.remove(minute_ms)


@pytest.mark.timeout(1800)
def test_a_month_ends_with_every_closed_candle_as_yahoo_has_it() -> None:
    yfinance_state.forget()
    loop = VirtualLoop(at(FIRST, 9))
    listings = [nyse(f"S{i:02d}", LAST, price=10.0 + i, days=45) for i in range(COUNT)]
    split_ms = at(date(2026, 11, 10), 9, 30)
    listings[3].splits.append((split_ms, 4, 1))
    listings[4].dividends.append((split_ms, 0.5))
    topic, lives = Topic(), 0
    with YahooStandIn(*listings, now_ms=loop.now_ms) as stand_in, temporary() as cache:
        chaos = Chaos(stand_in, listings, seed=6)
        yahoo = Yahoo(Path(cache), stand_in.proxy_url, stand_in.ca_bundle)
        end_ms = at(LAST, 16)
        while loop.now_ms() < end_ms:
            loop.run(
                live(loop, yahoo, listings, topic, chaos, min(end_ms, loop.now_ms() + WEEK_MS))
            )
            lives += 1
    yfinance_state.forget()
    assert chaos.failed > 100
    assert chaos.blanked > 300
    assert len(topic.of_kind(Kind.CORRECTION)) > 10  # filled so late that others went before
    assert lives > 3  # killed and started again
    total = 0
    for listing in listings:
        held = topic.candles[listing.symbol]
        truth = listing.bars("1m", end_ms, (min(held), end_ms))
        before_ms = split_ms if listing.splits else 0
        # after the split the window came again, not what lay before it
        recent = {open_ms: held[open_ms] for open_ms in held if open_ms >= before_ms}
        assert_holds(recent, [bar for bar in truth if bar.start_ms >= before_ms])
        assert sorted(held) == [bar.start_ms for bar in truth]
        total += len(held)
    assert total > 160_000
    assert len(topic.of_kind(Kind.RESCALED)) == 160
    assert any(publication.actions for publication in topic.of_kind(Kind.CLOSED))


WEEK_MS: Final = int(timedelta(days=6.3).total_seconds() * 1000)


def temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="soak-")


async def live(
    loop: VirtualLoop,
    yahoo: Yahoo,
    listings: list[Listing],
    topic: Topic,
    chaos: Chaos,
    until_ms: int,
) -> None:
    """Run one life of a producer, which ends without warning."""
    metrics = ProducerMetrics(CollectorRegistry())
    gate = Gate(metrics, rate=1000, burst=COUNT)
    pool = ThreadPoolExecutor(8)
    fetcher = Fetcher(yahoo.poll, "1m", gate, metrics, pool=pool, now_ms=loop.now_ms)
    symbols = tuple(listing.symbol for listing in listings)
    source = PollingSource(symbols, fetcher, poll_ms=POLL_MS, window=160, history=160)
    stock = topic.take

    def take(publication: Publication) -> None:
        assert publication.candle.close_ms <= loop.now_ms()
        stock(publication)

    topic.take = take  # type: ignore[method-assign]
    raging = asyncio.ensure_future(chaos.rage())
    with suppress(TimeoutError):
        async with asyncio.timeout((until_ms - loop.now_ms()) / 1000):
            await topic.fill(source, lambda: False)
    raging.cancel()
    topic.take = stock  # type: ignore[method-assign]
