"""A market behind the stand-in of Yahoo, polled once by the real yfinance client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from prometheus_client import CollectorRegistry

from local.yahoo import YahooStandIn
from local.yahoo.market import TrueBar
from producer.source import RECHECKED, Publication
from producer.yahoo.bars import Bar
from producer.yahoo.client import Yahoo
from producer.yahoo.fetcher import Fetcher, as_candle
from producer.yahoo.gate import Gate
from producer.yahoo.polling import PollingSource
from shared.candles import DAY_MS, Candle, midnight_ms
from shared.metrics import ProducerMetrics
from tests import new_york
from tests.candles import values_of
from tests.new_york import day_of

DAY = date(2026, 8, 5)
HALF_DAY = date(2026, 8, 6)


def at(hour: int, minute: int = 0, second: int = 0, day: date = DAY) -> int:
    """Return a time of New York in UTC epoch milliseconds, by default of ``DAY``."""
    return new_york.at(day, hour, minute, second)


@dataclass
class Clock:
    """The time of both the stand-in and the source."""

    now_ms: int = at(15, 43, 27)

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class Market:
    """A stand-in with its clock, and sources that poll it."""

    stand_in: YahooStandIn
    clock: Clock
    yahoo: Yahoo
    cache: Path
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    history: int = 160

    def __post_init__(self) -> None:
        self.metrics = ProducerMetrics(self.registry)

    def fetcher(self, interval: str) -> Fetcher:
        gate = Gate(self.metrics, rate=1000, burst=100)
        pool = ThreadPoolExecutor(4)
        return Fetcher(self.yahoo.poll, interval, gate, self.metrics, pool=pool, now_ms=self.clock)

    def published(self, symbol: str, open_ms: int, interval: str = "1m") -> list[Candle]:
        """Return the candle that was published last, as it was then."""
        listing = self.stand_in.server.listings[symbol]
        bars = {bar.start_ms: bar for bar in listing.bars(interval, open_ms + DAY_MS)}
        if open_ms in bars:
            true = bars[open_ms]
            bar = Bar(true.start_ms, true.end_ms, *true.ohlcv)
        else:
            bar = Bar(open_ms, open_ms + 60_000, 1.0, 1.0, 1.0, 1.0, 0.0)
        return [as_candle(bar, symbol, interval)]

    def publications(
        self, *symbols: str, interval: str = "1m", published: dict[str, int] | None = None
    ) -> list[Publication]:
        """Poll once and return all publications."""
        before = {
            symbol: self.published(symbol, open_ms, interval)
            for symbol, open_ms in (published or {}).items()
        }
        return self.resume(before, *symbols, interval=interval)

    def resume(
        self, before: Mapping[str, Sequence[Candle]], *symbols: str, interval: str = "1m"
    ) -> list[Publication]:
        """Poll once after some published candles, and return all publications."""
        source = PollingSource(
            symbols, self.fetcher(interval), poll_ms=60_000, window=160, history=self.history,
            once=True,
        )  # fmt: skip

        async def everything() -> list[Publication]:
            return [publication async for publication in source.candles(before)]

        return asyncio.run(everything())

    def newest_as_of(self, symbol: str, now_ms: int, interval: str) -> list[Candle]:
        """Return the newest candles that a producer had published by a moment, as they were."""
        bars = self.stand_in.server.listings[symbol].closed(interval, now_ms)[-RECHECKED:]
        opened = (lambda at_ms: midnight_ms(day_of(at_ms))) if interval == "1d" else int
        return [
            as_candle(Bar(opened(bar.start_ms), bar.end_ms, *bar.ohlcv), symbol, interval)
            for bar in bars
        ]

    def poll(
        self, *symbols: str, interval: str = "1m", published: dict[str, int] | None = None
    ) -> dict[str, list[Candle]]:
        """Poll once and return the candles by symbol."""
        publications = self.publications(*symbols, interval=interval, published=published)
        candles = [publication.candle for publication in publications]
        return {
            symbol: [candle for candle in candles if candle.symbol == symbol] for symbol in symbols
        }

    def lose_patience(self) -> None:
        """Wait 2 s for a response from now on, rather than the usual 10."""
        self.yahoo = Yahoo(
            self.cache, self.stand_in.proxy_url, self.stand_in.ca_bundle, timeout_s=2.0
        )

    def truth(self, symbol: str, interval: str = "1m") -> list[TrueBar]:
        return self.stand_in.server.listings[symbol].closed(interval, self.clock.now_ms)

    def polls(self, outcome: str) -> float:
        value = self.registry.get_sample_value("candlecast_polls_total", {"outcome": outcome})
        return value or 0.0


def assert_same(candles: list[Candle], bars: list[TrueBar]) -> None:
    assert [(candle.open_ms, candle.close_ms) for candle in candles] == [
        (bar.start_ms, bar.end_ms) for bar in bars
    ]
    assert [values_of(candle) for candle in candles] == [bar.ohlcv for bar in bars]
