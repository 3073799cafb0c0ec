"""Fetches a range of the past once, in requests that Yahoo allows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final

from producer.source import Kind, Publication, Published, SourceError
from producer.yahoo.bars import Response
from producer.yahoo.errors import ErrorKind, PollError
from producer.yahoo.fetcher import Fetcher
from producer.yahoo.gate import Backoff
from producer.yahoo.published import RecentCandles, due
from producer.yahoo.queue import PublicationQueue
from producer.yahoo.ranges import Span, chunks, from_session_ms

log = logging.getLogger(__name__)

ATTEMPTS: Final = 8
"""Most requests for one part of the range, with pauses that double from 2 s."""

_HOPELESS: Final = frozenset({ErrorKind.UNKNOWN_SYMBOL, ErrorKind.NO_DATA})


class BackfillSource:
    """Yields the candles of a range, and ends."""

    name = "backfill"

    def __init__(self, symbols: tuple[str, ...], fetcher: Fetcher, span: Span) -> None:
        """Take the symbols, how to fetch them, and the range of opening times."""
        self.symbols = symbols
        self.interval = fetcher.interval
        self._fetcher = fetcher
        self._span = span
        self._queue = PublicationQueue()
        self._errors: dict[str, PollError] = {}  # of symbols given up

    async def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        fills = [
            self._fill(symbol, RecentCandles.of(published.get(symbol, ())))
            for symbol in self.symbols
        ]
        try:
            async with aclosing(self._queue.read(fills)) as publications:
                async for publication in publications:
                    yield publication
        finally:
            self._fetcher.close()
        if self._errors:
            detail = "; ".join(f"{symbol}: {error}" for symbol, error in self._errors.items())
            raise SourceError(f"backfill: {len(self._errors)} symbols not complete: {detail}")

    async def _fill(self, symbol: str, recent: RecentCandles) -> None:
        start_ms, end_ms = self._span
        if recent.newest_ms is not None and recent.newest_ms >= start_ms:
            start_ms = recent.newest_ms
            log.info(
                "%s %s: begins after the published candle of %d ms", symbol, self.interval, start_ms
            )
        bars = 0
        try:
            for span in chunks(from_session_ms(start_ms, self.interval), end_ms, self.interval):
                response = await self._fetch(symbol, span)
                await self._publish(symbol, recent, response)
                bars += len(response.bars)
        except PollError as error:
            self._errors[symbol] = error
            return
        if not bars:
            log.warning("%s %s: Yahoo has no candle of this range", symbol, self.interval)

    async def _publish(self, symbol: str, recent: RecentCandles, response: Response) -> None:
        start_ms, end_ms = self._span
        within = [bar for bar in response.bars if start_ms <= bar.open_ms < end_ms]
        make = partial(self._fetcher.candle, symbol)
        for publication in due(recent, replace(response, bars=within), make):
            if publication.kind is Kind.CLOSED:
                recent.note(publication.candle)
                await self._queue.put(publication)

    async def _fetch(self, symbol: str, span: Span) -> Response:
        backoff = Backoff(2.0, 300.0)
        while True:
            try:
                return await self._fetcher.fetch(symbol, span)
            except PollError as error:
                pause_s = backoff.failed()
                if error.kind in _HOPELESS or backoff.failures >= ATTEMPTS:
                    raise
                await asyncio.sleep(pause_s)
