"""Responses of the stand-in of Yahoo without the network, for many polls in little time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import cache
from typing import Any, TypeVar

from local.yahoo.market import Listing, TrueBar, chart
from producer.source import CandleSource, Kind, Publication, Published
from producer.yahoo.bars import Response, response_of
from producer.yahoo.calendars import Calendars
from producer.yahoo.chart import REQUESTED_AS, parse, row_count
from producer.yahoo.errors import ErrorKind, PollError
from producer.yahoo.fetcher import Fetcher
from producer.yahoo.gate import Gate
from producer.yahoo.polling import PollingSource
from producer.yahoo.published import RecentCandles
from producer.yahoo.ranges import Span
from shared.candles import Candle
from shared.metrics import ProducerMetrics
from tests.candles import values_of
from tests.virtual_time import VirtualLoop

T = TypeVar("T")


@cache
def calendars() -> Calendars:
    """Return the calendars, made once for all tests."""
    return Calendars()


class DirectYahoo:
    """Responds to polls as Yahoo would at the moment of its clock."""

    def __init__(self, listings: Sequence[Listing], now_ms: Callable[[], int]) -> None:
        self.listings = {listing.symbol: listing for listing in listings}
        self.now_ms = now_ms
        self.requests: list[tuple[int, str, Span]] = []
        self.fault: Callable[[str, int], ErrorKind | None] = lambda _symbol, _now_ms: None

    def poll(self, symbol: str, interval: str, span: Span, newest: int | None = None) -> Response:
        now_ms = self.now_ms()
        self.requests.append((now_ms, symbol, span))
        fault = self.fault(symbol, now_ms)
        if fault is not None:
            raise PollError(fault, "on order")
        if symbol not in self.listings:
            raise PollError(ErrorKind.UNKNOWN_SYMBOL, "no such listing")
        query = {
            "interval": REQUESTED_AS.get(interval, interval),
            "period1": str(span[0] // 1000),
            "period2": str(-(-span[1] // 1000)),
        }
        result = chart(self.listings[symbol], query, now_ms)
        document = json.loads(json.dumps({"chart": {"result": [result], "error": None}}))
        parsed = parse(document, row_count(interval, newest))
        return response_of(parsed, interval, calendars().of(parsed.exchange))


class Inline(Executor):
    """Runs the work at once: these responses take no time, and threads cost more than they do."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 -- whatever it is, the future carries it
            done.set_exception(error)
        return done


def fetcher_of(
    yahoo: DirectYahoo, interval: str, metrics: ProducerMetrics, gate: Gate | None = None
) -> Fetcher:
    """Return a fetcher with the clock of its Yahoo, by default behind a gate that never waits."""
    gate = gate or Gate(metrics, rate=1000, burst=1000)
    return Fetcher(yahoo.poll, interval, gate, metrics, pool=Inline(), now_ms=yahoo.now_ms)


def polling(
    loop: VirtualLoop,
    listings: Sequence[Listing],
    metrics: ProducerMetrics,
    *,
    interval: str = "1m",
    poll_ms: int = 60_000,
    window: int = 160,
    history: int = 1000,
    gate: Gate | None = None,
) -> tuple[PollingSource, DirectYahoo]:
    """Return a polling source in virtual time, and the Yahoo that it polls."""
    yahoo = DirectYahoo(listings, loop.now_ms)
    fetcher = fetcher_of(yahoo, interval, metrics, gate)
    symbols = tuple(yahoo.listings)
    source = PollingSource(symbols, fetcher, poll_ms=poll_ms, window=window, history=history)
    return source, yahoo


class Topic:
    """A topic in memory: takes publications, and checks the order that the port promises."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self.candles: dict[str, dict[int, Candle]] = {}
        self._newest_ms: dict[str, int] = {}

    def take(self, publication: Publication) -> None:
        candle = publication.candle
        held = self.candles.setdefault(candle.symbol, {})
        newest_ms = self._newest_ms.get(candle.symbol, -1)
        if publication.kind in {Kind.CLOSED, Kind.PROVISIONAL}:
            assert candle.open_ms > newest_ms, f"{candle} after {newest_ms}"
        else:
            assert candle.open_ms <= newest_ms, f"{publication.kind} {candle}"
        held[candle.open_ms] = candle
        self._newest_ms[candle.symbol] = max(candle.open_ms, newest_ms)
        self.publications.append(publication)

    def published(self) -> Published:
        """Return what a restarted producer would read."""
        newest = {
            symbol: RecentCandles.of(by_time[at] for at in sorted(by_time))
            for symbol, by_time in self.candles.items()
        }
        return {symbol: list(recent.by_open_ms.values()) for symbol, recent in newest.items()}

    def of_kind(self, kind: Kind) -> list[Publication]:
        return [publication for publication in self.publications if publication.kind is kind]

    async def fill(
        self, source: CandleSource, until: Callable[[], bool], published: Published | None = None
    ) -> None:
        """Take all that a source yields until a condition holds or it ends."""
        stream = source.candles(self.published() if published is None else published)
        try:
            async for publication in stream:
                self.take(publication)
                if until():
                    break
        finally:
            await stream.aclose()

    def run(self, loop: VirtualLoop, source: CandleSource, until_ms: int) -> None:
        """Take what a source yields until a moment of virtual time."""

        async def to_the_end() -> None:
            filling = asyncio.ensure_future(self.fill(source, lambda: False))
            sleeping = asyncio.ensure_future(asyncio.sleep((until_ms - loop.now_ms()) / 1000))
            await asyncio.wait([filling, sleeping], return_when=asyncio.FIRST_COMPLETED)
            filling.cancel()
            sleeping.cancel()
            [error] = await asyncio.gather(filling, return_exceptions=True)
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error

        loop.run(to_the_end())


def assert_holds(candles: dict[int, Candle], bars: list[TrueBar]) -> None:
    """Assert that candles are bars, each once, with the same times, prices and volume."""
    expected = {bar.start_ms: (bar.end_ms, *bar.ohlcv) for bar in bars}
    assert expected == {
        candle.open_ms: (candle.close_ms, *values_of(candle)) for candle in candles.values()
    }  # fmt: skip
