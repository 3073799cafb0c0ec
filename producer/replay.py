"""Replays a stored history in the order of its market, at any speed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Final

import numpy as np

from producer.source import Kind, Publication, Published
from shared.candles import Candle
from shared.files.findings import in_words
from shared.files.series import History

log = logging.getLogger(__name__)

_SHORTEST_SLEEP_S: Final = 0.001


class ReplaySource:
    """Yields a finite history; the same history always yields the same candles in order."""

    name = "replay"

    def __init__(
        self, history: History, speed: float | None = None, *, again: bool = False
    ) -> None:
        """Take a history.

        Args:
            history: what to replay.
            speed: candles a second, or None for as fast as they are taken.
            again: whether candles that are not newer than the topic's are published too, as
                corrections.
        """
        self.interval = history.interval
        self.symbols = history.symbols
        self._history = history
        self._speed = speed
        self._again = again

    async def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        newest_ms = {
            symbol: max(candle.open_ms for candle in candles)
            for symbol, candles in published.items()
            if candles
        }
        self._log_start(newest_ms, published)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for index, publication in enumerate(self._publications(newest_ms, published)):
            if self._speed is not None:
                ahead = start + index / self._speed - loop.time()
                if ahead >= _SHORTEST_SLEEP_S:
                    await asyncio.sleep(ahead)
            yield publication

    def _publications(
        self, newest_ms: Mapping[str, int], published: Published
    ) -> Iterator[Publication]:
        if not self._again:
            for candle in self._history.stream(newest_ms):
                yield Publication(candle)
            return
        known = {
            (candle.symbol, candle.open_ms): candle
            for candles in published.values()
            for candle in candles
        }
        for candle in self._history.stream():
            before = known.get((candle.symbol, candle.open_ms))
            if before is not None and _same(before, candle):
                continue
            is_late = candle.open_ms <= newest_ms.get(candle.symbol, candle.open_ms - 1)
            yield Publication(candle, Kind.CORRECTION if is_late else Kind.CLOSED)

    def _log_start(self, newest_ms: Mapping[str, int], published: Published) -> None:
        """Log how many candles there are to publish, and why the others are not."""
        old = {
            rows.symbol: int(np.searchsorted(rows.open_ms, newest_ms[rows.symbol], "right"))
            for rows in self._history.series
            if rows.symbol in newest_ms
        }
        old = {symbol: count for symbol, count in old.items() if count}
        total, late = self._history.count, sum(old.values())
        name = self._history.name
        if self._again or not late:
            log.info("%s: %s candles to publish", name, f"{total:,}")
            return
        first = min(old)
        several = f", and so of {len(old) - 1:,} other symbols" if len(old) > 1 else ""
        is_lost = late == total or self._differs(published)
        log.log(
            logging.WARNING if is_lost else logging.INFO,
            "%s: %s of %s candles to publish: %s are not newer than %s's newest in the topic, "
            "%s%s: left out; --again publishes them as corrections",
            name, f"{total - late:,}", f"{total:,}", f"{late:,}", first,
            in_words(newest_ms[first]), several,
        )  # fmt: skip

    def _differs(self, published: Published) -> bool:
        """Return True when the newest candles in the topic have other values than the history's."""
        for rows in self._history.series:
            for candle in published.get(rows.symbol, ()):
                at = int(np.searchsorted(rows.open_ms, candle.open_ms))
                if at < len(rows.open_ms) and int(rows.open_ms[at]) == candle.open_ms:
                    values = (candle.open, candle.high, candle.low, candle.close, candle.volume)
                    if tuple(rows.candles[at].tolist()) != values:
                        return True
        return False


def _same(before: Candle, candle: Candle) -> bool:
    """Return True when two candles differ in nothing but their source."""
    return before.model_copy(update={"source": candle.source}) == candle
