"""A market behind the stand-in of Yahoo, polled once by the real yfinance client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from prometheus_client import CollectorRegistry

from local.yahoo import YahooStandIn
from local.yahoo.market import TrueBar
from producer.source import Publication
from producer.yahoo.bars import Bar
from producer.yahoo.client import Yahoo
from producer.yahoo.fetcher import Asker, as_candle
from producer.yahoo.gate import Gate
from producer.yahoo.polling import PollingSource
from producer.yahoo.published import RECHECKED
from shared.candles import DAY_MS, Candle
from shared.metrics import ProducerMetrics

NEW_YORK = ZoneInfo("America/New_York")
DAY = date(2026, 8, 5)
HALF_DAY = date(2026, 8, 6)


def at(hour: int, minute: int = 0, second: int = 0, day: date = DAY) -> int:
    """Return a time of New York in UTC epoch milliseconds."""
    moment = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=NEW_YORK)
    return int(moment.timestamp()) * 1000


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

    def source(self, *symbols: str, interval: str = "1m") -> PollingSource:
        gate = Gate(self.metrics, rate=1000, burst=100)
        asker = Asker(self.yahoo.poll, interval, gate, self.metrics)
        return PollingSource(
            symbols, asker, poll_ms=60_000, once=True, history=self.history, now_ms=self.clock
        )

    def published(self, symbol: str, open_ms: int, interval: str = "1m") -> list[Candle]:
        """Return the candle that was published last, as it was then."""
        listing = self.stand_in.server.listings[symbol]
        bars = listing.bars(interval, open_ms + DAY_MS)
        found = [
            Bar(one.start_ms, one.end_ms, *one.ohlcv) for one in bars if one.start_ms == open_ms
        ]
        unknown = Bar(open_ms, open_ms + 60_000, 1.0, 1.0, 1.0, 1.0, 0.0)
        return [as_candle(found[0] if found else unknown, symbol, interval)]

    def publications(
        self, *symbols: str, interval: str = "1m", published: dict[str, int] | None = None
    ) -> list[Publication]:
        """Poll once and return all that comes."""
        before = {
            symbol: self.published(symbol, open_ms, interval)
            for symbol, open_ms in (published or {}).items()
        }
        return self.go_on(before, *symbols, interval=interval)

    def go_on(
        self, before: Mapping[str, Sequence[Candle]], *symbols: str, interval: str = "1m"
    ) -> list[Publication]:
        """Poll once after some published candles, and return all that comes."""
        source = self.source(*symbols, interval=interval)

        async def everything() -> list[Publication]:
            return [one async for one in source.candles(before)]

        return asyncio.run(everything())

    def newest_as_of(self, symbol: str, now_ms: int, interval: str) -> list[Candle]:
        """Return the newest candles that a producer had published by a moment, as they were."""
        bars = self.stand_in.server.listings[symbol].closed(interval, now_ms)[-RECHECKED:]
        opened = (lambda at_ms: midnight(day_of(at_ms))) if interval == "1d" else (lambda at: at)
        return [
            as_candle(Bar(opened(one.start_ms), one.end_ms, *one.ohlcv), symbol, interval)
            for one in bars
        ]

    def poll(
        self, *symbols: str, interval: str = "1m", published: dict[str, int] | None = None
    ) -> dict[str, list[Candle]]:
        """Poll once and return the candles by symbol."""
        candles = [
            one.candle
            for one in self.publications(*symbols, interval=interval, published=published)
        ]
        return {symbol: [one for one in candles if one.symbol == symbol] for symbol in symbols}

    def lose_patience(self) -> None:
        """Wait 2 s for an answer from now on, rather than the usual 10."""
        self.yahoo = Yahoo(
            self.cache, self.stand_in.proxy_url, self.stand_in.ca_bundle, timeout_s=2.0
        )

    def truth(self, symbol: str, interval: str = "1m") -> list[TrueBar]:
        return self.stand_in.server.listings[symbol].closed(interval, self.clock.now_ms)

    def polls(self, outcome: str) -> float:
        value = self.registry.get_sample_value("candlecast_polls_total", {"outcome": outcome})
        return value or 0.0


def assert_same(candles: list[Candle], bars: list[TrueBar]) -> None:
    assert [(one.open_ms, one.close_ms) for one in candles] == [
        (bar.start_ms, bar.end_ms) for bar in bars
    ]
    assert [(one.open, one.high, one.low, one.close, one.volume) for one in candles] == [
        bar.ohlcv for bar in bars
    ]


def midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("UTC")).timestamp()) * 1000


def day_of(at_ms: int) -> date:
    """Return the date in New York."""
    return datetime.fromtimestamp(at_ms / 1000, NEW_YORK).date()
