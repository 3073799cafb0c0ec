"""The stand-in's answers without the way there: for many polls in little time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import cache
from typing import Any, TypeVar

from local.yahoo.market import Listing, chart
from producer.source import CandleSource, Kind, Publication, Published
from producer.yahoo.calendars import Calendars
from producer.yahoo.chart import ASKED_AS, parse, rows_read
from producer.yahoo.client import Answer, answer_of
from producer.yahoo.errors import ErrorKind, PollError
from producer.yahoo.fetcher import Asker
from producer.yahoo.gate import Gate
from producer.yahoo.polling import PollingSource
from producer.yahoo.published import Ledger
from producer.yahoo.ranges import Span
from shared.candles import Candle
from shared.metrics import ProducerMetrics
from tests.virtual_time import VirtualLoop

T = TypeVar("T")


@cache
def calendars() -> Calendars:
    """Return the calendars, made once for all tests."""
    return Calendars()


class DirectYahoo:
    """Answers polls as Yahoo would at the moment that its clock tells."""

    def __init__(self, listings: Sequence[Listing], now_ms: Callable[[], int]) -> None:
        self.listings = {one.symbol: one for one in listings}
        self.now_ms = now_ms
        self.asked: list[tuple[int, str, Span]] = []
        self.fault: Callable[[str, int], ErrorKind | None] = lambda _symbol, _now_ms: None

    def poll(self, symbol: str, interval: str, span: Span, newest: int | None = None) -> Answer:
        now_ms = self.now_ms()
        self.asked.append((now_ms, symbol, span))
        fault = self.fault(symbol, now_ms)
        if fault is not None:
            raise PollError(fault, "on order")
        if symbol not in self.listings:
            raise PollError(ErrorKind.UNKNOWN_SYMBOL, "no such listing")
        query = {
            "interval": ASKED_AS.get(interval, interval),
            "period1": str(span[0] // 1000),
            "period2": str(-(-span[1] // 1000)),
        }
        result = chart(self.listings[symbol], query, now_ms)
        document = json.loads(json.dumps({"chart": {"result": [result], "error": None}}))
        found = parse(document, rows_read(interval, newest))
        return answer_of(found, interval, calendars().of(found.exchange))


class Inline(Executor):
    """Does the work at once: these answers wait for nothing, and threads cost more than they do."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 -- whatever it is, the future carries it
            done.set_exception(error)
        return done


def asker_of(yahoo: DirectYahoo, interval: str, metrics: ProducerMetrics) -> Asker:
    """Return an asker that is in nobody's way."""
    gate = Gate(metrics, rate=1000, burst=1000)
    return Asker(yahoo.poll, interval, gate, metrics, pool=Inline())


def polling(
    loop: VirtualLoop,
    listings: Sequence[Listing],
    metrics: ProducerMetrics,
    *,
    interval: str = "1m",
    poll_ms: int = 60_000,
    window: int = 160,
    history: int = 1000,
) -> tuple[PollingSource, DirectYahoo]:
    """Return a polling source in virtual time, and the Yahoo that it asks."""
    yahoo = DirectYahoo(listings, loop.now_ms)
    asker = asker_of(yahoo, interval, metrics)
    symbols = tuple(yahoo.listings)
    source = PollingSource(
        symbols, asker, poll_ms=poll_ms, window=window, history=history, now_ms=loop.now_ms
    )
    return source, yahoo


class Topic:
    """What a topic would hold: takes publications, and checks the order that the port states."""

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
        return {
            symbol: list(Ledger.of(candles[at] for at in sorted(candles)).recent.values())
            for symbol, candles in self.candles.items()
        }

    def of_kind(self, kind: Kind) -> list[Publication]:
        return [one for one in self.publications if one.kind is kind]

    async def fill(
        self, source: CandleSource, until: Callable[[], bool], published: Published | None = None
    ) -> None:
        """Take all that a source gives until a condition holds or it ends."""
        stream = source.candles(self.published() if published is None else published)
        try:
            async for publication in stream:
                self.take(publication)
                if until():
                    break
        finally:
            await stream.aclose()
