"""A range of the past once, in parts that Yahoo allows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

from producer.source import Kind, Publication, Published, SourceError
from producer.yahoo.client import Answer
from producer.yahoo.errors import ErrorKind, PollError
from producer.yahoo.fetcher import Asker
from producer.yahoo.gate import Backoff
from producer.yahoo.polling import real_now_ms
from producer.yahoo.published import Ledger, Seen, due
from producer.yahoo.queue import Handover
from producer.yahoo.ranges import Span, chunks
from shared.candles import DAY_MS, INTERVALS_MS

log = logging.getLogger(__name__)

ATTEMPTS: Final = 8
"""At one part of the range, with pauses that double from 2 s; then the symbol is given up."""

_HOPELESS: Final = frozenset({ErrorKind.UNKNOWN_SYMBOL, ErrorKind.NO_DATA})


class BackfillSource:
    """Gives the candles of a range, symbol by symbol, and ends."""

    name = "backfill"

    def __init__(
        self,
        symbols: tuple[str, ...],
        asker: Asker,
        span: Span,
        now_ms: Callable[[], int] = real_now_ms,
    ) -> None:
        """Take the symbols, how to ask for them, and the range of opening times."""
        self.symbols = symbols
        self.interval = asker.interval
        self._asker = asker
        self._span = span
        self._now_ms = now_ms
        self._handover = Handover()
        self._given_up: dict[str, PollError] = {}

    async def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        fills = [self._fill(one, Ledger.of(published.get(one, ()))) for one in self.symbols]
        try:
            async with aclosing(self._handover.read(fills)) as publications:
                async for publication in publications:
                    yield publication
        finally:
            self._asker.close()
        if self._given_up:
            detail = "; ".join(f"{symbol}: {error}" for symbol, error in self._given_up.items())
            raise SourceError(f"backfill: {len(self._given_up)} symbols not complete: {detail}")

    async def _fill(self, symbol: str, ledger: Ledger) -> None:
        start_ms, end_ms = self._span
        if ledger.newest_ms is not None and ledger.newest_ms >= start_ms:
            start_ms = ledger.newest_ms
            log.info(
                "%s %s: begins after the published candle of %d ms", symbol, self.interval, start_ms
            )
        length = INTERVALS_MS[self.interval]
        # a day's row is stamped with its session, which may begin before its midnight UTC
        before_ms = length if length >= DAY_MS else 0
        found = 0
        try:
            for span in chunks(start_ms - before_ms, end_ms, self.interval):
                answer = await self._patiently(symbol, span)
                await self._give(symbol, ledger, answer)
                found += len(answer.bars)
        except PollError as error:
            self._given_up[symbol] = error
            return
        if not found:
            log.warning("%s %s: Yahoo has no candle of this range", symbol, self.interval)

    async def _give(self, symbol: str, ledger: Ledger, answer: Answer) -> None:
        start_ms, end_ms = self._span
        bars = [one for one in answer.bars if start_ms <= one.open_ms < end_ms]
        seen = Seen(bars, answer.actions, answer.market_ms, self._now_ms())
        for one in due(ledger, seen, partial(self._asker.candle, symbol)):
            if one.kind is Kind.CLOSED:
                ledger.note(one.candle)
                await self._handover.put(one)

    async def _patiently(self, symbol: str, span: Span) -> Answer:
        backoff = Backoff(2.0, 300.0)
        while True:
            try:
                return await self._asker.ask(symbol, span)
            except PollError as error:
                pause_s = backoff.failed()
                if error.kind in _HOPELESS or backoff.failures >= ATTEMPTS:
                    raise
                await asyncio.sleep(pause_s)
