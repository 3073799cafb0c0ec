"""Candles from Yahoo's live stream a few seconds after their end, put right by polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from pydantic import ValidationError

from producer.source import Publication, Published
from producer.yahoo.bars import Bar
from producer.yahoo.fetcher import as_candle
from producer.yahoo.polling import PollingSource, real_now_ms
from producer.yahoo.ticker import Sign
from producer.yahoo.ticks import Tick, TickBars
from shared.candles import INTERVALS_MS

log = logging.getLogger(__name__)


class Stream(Protocol):
    """Where ticks come from."""

    def events(self) -> AsyncGenerator[Tick | Sign, None]:
        """Yield ticks, beats, and when listening began and ended."""
        ...


class LiveSource:
    """The candles of a polling source, and before them provisional ones made from ticks.

    The polls fill the history, give what the stream has missed, and correct the provisional
    candles; without a stream it is as good as polling alone.
    """

    name = "live"

    def __init__(
        self,
        polling: PollingSource,
        stream: Stream,
        now_ms: Callable[[], int] = real_now_ms,
    ) -> None:
        """Take the polling source and the stream of the same symbols."""
        self.symbols = polling.symbols
        self.interval = polling.interval
        self._polling = polling
        self._stream = stream
        self._now_ms = now_ms
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
        async with aclosing(self._stream.events()) as events:
            async for event in events:
                if isinstance(event, Tick):
                    await self._tick(event)
                elif event is Sign.BEAT:
                    await self._end_bars()
                else:
                    for bars in self._bars.values():
                        bars.listen(self._now_ms())

    async def _tick(self, tick: Tick) -> None:
        bars = self._bars.get(tick.symbol)
        if bars is not None:
            await self._give(tick.symbol, bars.tick(tick, self._polling.sessions(tick.symbol)))

    async def _end_bars(self) -> None:
        now_ms = self._now_ms()
        for symbol, bars in self._bars.items():
            await self._give(symbol, bars.ended(now_ms))

    async def _give(self, symbol: str, bar: Bar | None) -> None:
        if bar is None:
            return
        try:
            candle = as_candle(bar, symbol, self.interval, self.name)
        except ValidationError as error:
            log.warning("%s: ticks make no candle: %s", symbol, error)
            return
        await self._polling.provisional(candle)
