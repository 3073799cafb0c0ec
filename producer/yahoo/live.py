"""Provisional candles from Yahoo's ticks seconds after their end, corrected by polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from pydantic import ValidationError

from producer.source import Publication, Published
from producer.yahoo.bars import Bar
from producer.yahoo.fetcher import as_candle
from producer.yahoo.polling import PollingSource
from producer.yahoo.ticker import StreamEvent
from producer.yahoo.ticks import Tick, TickBars
from shared.candles import INTERVALS_MS, refusal

log = logging.getLogger(__name__)


class TickFeed(Protocol):
    """A stream of ticks."""

    def events(self) -> AsyncGenerator[Tick | StreamEvent, None]:
        """Yield ticks, beats, and when the connection began and ended."""
        ...


class LiveSource:
    """Yields the candles of a polling source, and before them provisional ones made from ticks.

    The polls fill the history, yield the candles that the stream missed, and correct the
    provisional ones; without a stream it is as good as polling alone.
    """

    name = "live"

    def __init__(self, polling: PollingSource, feed: TickFeed) -> None:
        """Take the polling source and the ticks of the same symbols."""
        self.symbols = polling.symbols
        self.interval = polling.interval
        self._polling = polling
        self._feed = feed
        self._now_ms = polling.now_ms
        step_ms = INTERVALS_MS[self.interval]
        self._bars = {symbol: TickBars(step_ms) for symbol in self.symbols}

    async def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        listening = asyncio.create_task(self._listen())
        try:
            async with aclosing(self._polling.candles(published)) as publications:
                async for publication in publications:
                    yield publication
                    if listening.done():
                        listening.result()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self) -> None:
        async with aclosing(self._feed.events()) as events:
            async for event in events:
                if isinstance(event, Tick):
                    await self._tick(event)
                elif event is StreamEvent.BEAT:
                    await self._end_bars()
                else:
                    for bars in self._bars.values():
                        bars.start(self._now_ms())

    async def _tick(self, tick: Tick) -> None:
        bars = self._bars.get(tick.symbol)
        if bars is not None:
            await self._publish(tick.symbol, bars.tick(tick, self._polling.sessions(tick.symbol)))

    async def _end_bars(self) -> None:
        now_ms = self._now_ms()
        for symbol, bars in self._bars.items():
            await self._publish(symbol, bars.ended(now_ms))

    async def _publish(self, symbol: str, bar: Bar | None) -> None:
        if bar is None:
            return
        try:
            candle = as_candle(bar, symbol, self.interval, self.name)
        except ValidationError as error:
            log.warning("%s %s: ticks: %s", symbol, self.interval, refusal(error).detail)
            return
        await self._polling.provisional(candle)
