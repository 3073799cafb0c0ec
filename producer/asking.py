"""Asks for bars in threads of its own, through the gate, and counts what comes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol

from pydantic import ValidationError

from producer.closed import Bar
from producer.failures import PollError
from producer.gate import Gate
from producer.ranges import Span
from producer.yahoo import Answer
from shared.candles import INTERVALS_MS, Candle, refusal
from shared.history import make_candle
from shared.metrics import ProducerMetrics

log = logging.getLogger(__name__)

THREADS: Final = 16
"""Symbols asked for at once by default; each thread keeps its connection to Yahoo."""

SOURCE: Final = "yfinance"


class Poll(Protocol):
    """Asks for the bars of one symbol; called in a thread. Raises ``PollError``."""

    def __call__(self, symbol: str, interval: str, span: Span, newest: int | None = None) -> Answer:
        """Return the bars that open within a span, of its newest rows if told how many."""
        ...


class Asker:
    """What the sources that ask Yahoo share."""

    def __init__(
        self,
        poll: Poll,
        interval: str,
        gate: Gate,
        metrics: ProducerMetrics,
        *,
        pool: Executor | None = None,
    ) -> None:
        """Take how to ask, for what, and at which pace."""
        self.interval = interval
        self.metrics = metrics
        self._poll = poll
        self._gate = gate
        self._pool = pool or ThreadPoolExecutor(THREADS, thread_name_prefix="yahoo")

    async def ask(self, symbol: str, span: Span, newest: int | None = None) -> Answer:
        """Return an answer; raises ``PollError`` after counting and logging it."""
        try:
            answer = await self._gate.ask(symbol, lambda: self._timed(symbol, span, newest))
        except PollError as error:
            log.warning("%s %s: %s", symbol, self.interval, error)
            self.metrics.polls.labels(error.kind.value).inc()
            raise
        self.metrics.polls.labels("ok" if answer.bars else "empty").inc()
        return answer

    async def look_back(
        self,
        symbol: str,
        spans: Iterable[Span],
        enough: Callable[[Sequence[Bar]], bool],
        newest: int | None = None,
    ) -> Answer:
        """Return the answers to spans as one, asked for one by one until their bars are enough.

        Args:
            symbol: to ask for.
            spans: adjoining, the newest first; at least one.
            enough: whether the bars found so far, in order, are.
            newest: rows that are read of each answer, from its end; all if None.
        """
        later = iter(spans)
        whole = await self.ask(symbol, next(later), newest)
        while not enough(whole.bars) and (span := next(later, None)) is not None:
            before = await self.ask(symbol, span, newest)
            whole = replace(
                whole,
                bars=(*before.bars, *whole.bars),
                actions=(*before.actions, *whole.actions),
            )
        return whole

    async def _timed(self, symbol: str, span: Span, newest: int | None) -> Answer:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            return await loop.run_in_executor(
                self._pool, self._poll, symbol, self.interval, span, newest
            )
        finally:
            self.metrics.poll_seconds.observe(loop.time() - started_s)

    def candle(self, symbol: str, bar: Bar) -> Candle | None:
        """Return the candle of a bar; None, counted and logged, of one that breaks a rule."""
        try:
            return as_candle(bar, symbol, self.interval)
        except ValidationError as error:
            refused = refusal(error)
            log.warning("%s %s: %s: left out", symbol, self.interval, refused.detail)
            self.metrics.rejects.labels(refused.reason.value).inc()
            return None

    def close(self) -> None:
        """Drop what waits for a thread; what is being asked ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def as_candle(bar: Bar, symbol: str, interval: str, source: str = SOURCE) -> Candle:
    """Return the candle of a closed bar; raises ``ValidationError`` when it breaks a rule.

    A day of a market that trades across midnight UTC may end more than a day after the opening
    time of its candle; the candle's close is then cut to a day.
    """
    return make_candle(
        symbol,
        interval,
        (bar.open_ms, min(bar.end_ms, bar.open_ms + INTERVALS_MS[interval])),
        (bar.open, bar.high, bar.low, bar.close, bar.volume),
        source,
    )
