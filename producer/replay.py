"""Replays a stored history in the order of its market, at any speed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Final

from producer.source import Publication, Published
from shared.history import History

log = logging.getLogger(__name__)

_SHORTEST_SLEEP_S: Final = 0.001


class ReplaySource:
    """Yields a finite history; the same history always yields the same candles in order."""

    name = "replay"

    def __init__(self, history: History, interval: str, speed: float | None = None) -> None:
        """Take a history and its interval.

        Args:
            history: what to replay.
            interval: of all its candles.
            speed: candles a second, or None for as fast as they are taken.
        """
        self.interval = interval
        self.symbols = tuple(sorted({candle.symbol for candle in history.candles}))
        self._history = history
        self._speed = speed

    async def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        newest_ms = {
            symbol: max(candle.open_ms for candle in candles)
            for symbol, candles in published.items()
            if candles
        }
        remaining = [
            candle
            for candle in self._history.candles
            if candle.open_ms > newest_ms.get(candle.symbol, -1)
        ]
        total = len(self._history.candles)
        log.info("%s: %d of %d candles to publish", self._history.name, len(remaining), total)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for index, candle in enumerate(remaining):
            if self._speed is not None:
                ahead = start + index / self._speed - loop.time()
                if ahead >= _SHORTEST_SLEEP_S:
                    await asyncio.sleep(ahead)
            yield Publication(candle)
