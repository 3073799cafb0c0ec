"""Yahoo's candles as they close, symbol by symbol, poll after poll."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from pydantic import ValidationError

from producer.closed import GRACE_MS, Bar, closed_new
from producer.source import Published, SourceError
from producer.yahoo import Answer, PollError
from shared.candles import DAY_MS, INTERVALS_MS, Candle
from shared.history import broken_rules, make_candle
from shared.metrics import ProducerMetrics

log = logging.getLogger(__name__)

THREADS: Final = 8
"""Symbols polled at once; each thread keeps its connection to Yahoo."""

_HOUR_MS: Final = 3_600_000

_PERIODS: Final = {"5d": 4, "1mo": 27, "3mo": 88, "1y": 360, "2y": 725, "10y": 3600}
"""Days that a period of Yahoo's surely covers, in rising order."""

_LONGEST: Final = {"1m": "5d", "60m": "2y", "1h": "2y", "1d": "2y", "5d": "10y", "1wk": "10y"}
"""The longest period asked for, "1mo" for other intervals: Yahoo has one-minute candles of 8
days at once, others below an hour of 60 days, hourly ones of 730 days. Of days and weeks this
is what fills any window."""


class Poll(Protocol):
    """Asks for the bars of one symbol; called in a thread. Raises ``PollError``."""

    def __call__(self, symbol: str, interval: str, period: str) -> Answer:
        """Return the bars of the newest period."""
        ...


class PollingSource:
    """Polls every symbol at fixed times and gives the candles that have closed since."""

    name = "yfinance"

    def __init__(
        self,
        symbols: tuple[str, ...],
        interval: str,
        poll: Poll,
        metrics: ProducerMetrics,
        *,
        poll_ms: int,
        once: bool = False,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Take what to poll and how.

        Args:
            symbols: as Yahoo spells them.
            interval: of the candles.
            poll: asks for one symbol.
            metrics: counts polls by outcome.
            poll_ms: time from one poll of all symbols to the next.
            once: whether to end after one poll of all symbols.
            now_ms: the current time.
        """
        self.symbols = symbols
        self.interval = interval
        self._poll = poll
        self._metrics = metrics
        self._poll_ms = poll_ms
        self._once = once
        self._now_ms = now_ms
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="yahoo")

    async def candles(self, published: Published) -> AsyncGenerator[Candle, None]:
        newest = dict(published)
        try:
            while True:
                async for candle in self._round(newest):
                    yield candle
                if self._once:
                    return
                wait_ms = next_poll_ms(self._now_ms(), self._poll_ms) - self._now_ms()
                await asyncio.sleep(wait_ms / 1000)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _round(self, newest: dict[str, int]) -> AsyncGenerator[Candle, None]:
        """Yield what has closed, symbol by symbol as their answers come."""
        polls = [
            asyncio.ensure_future(self._ask(symbol, newest.get(symbol))) for symbol in self.symbols
        ]
        failed = 0
        try:
            for coming in asyncio.as_completed(polls):
                candles = await coming
                if candles is None:
                    failed += 1
                    continue
                for candle in candles:
                    newest[candle.symbol] = candle.open_ms
                    yield candle
        finally:
            for poll in polls:
                poll.cancel()
        if self._once and failed == len(polls):
            raise SourceError(f"none of the {failed} symbols could be polled")

    async def _ask(self, symbol: str, after_ms: int | None) -> list[Candle] | None:
        """Return the closed candles of a symbol after a time; None when the poll failed."""
        period = period_since(after_ms, self._now_ms(), self.interval)
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            answer = await loop.run_in_executor(
                self._pool, self._poll, symbol, self.interval, period
            )
        except PollError as error:
            log.warning("%s %s: %s", symbol, self.interval, error)
            self._metrics.polls.labels(error.kind.value).inc()
            return None
        finally:
            self._metrics.poll_seconds.observe(loop.time() - started_s)
        candles, invalid = self._judge(symbol, answer, after_ms)
        self._metrics.polls.labels("invalid" if invalid else "ok").inc()
        return candles

    def _judge(self, symbol: str, answer: Answer, after_ms: int | None) -> tuple[list[Candle], int]:
        if answer.bars and after_ms is not None and answer.bars[0].open_ms > after_ms:
            log.warning(
                "%s %s: a gap: Yahoo has nothing between the candles opened at %d and %d ms",
                symbol, self.interval, after_ms, answer.bars[0].open_ms,
            )  # fmt: skip
        ready = closed_new(answer.bars, after_ms, answer.market_ms, self._now_ms())
        candles: list[Candle] = []
        for bar in ready:
            try:
                candles.append(as_candle(bar, symbol, self.interval))
            except ValidationError as error:
                log.warning("%s %s: %s: left out", symbol, self.interval, broken_rules(error))
        return candles, len(ready) - len(candles)


def as_candle(bar: Bar, symbol: str, interval: str) -> Candle:
    """Return the candle of a closed bar; raises ``ValidationError`` when it breaks a rule.

    A day of a market that trades across midnight UTC may end more than a day after the opening
    time of its candle; the candle's close is then cut to a day.
    """
    return make_candle(
        symbol,
        interval,
        (bar.open_ms, min(bar.end_ms, bar.open_ms + INTERVALS_MS[interval])),
        (bar.open, bar.high, bar.low, bar.close, bar.volume),
        PollingSource.name,
    )


def period_since(after_ms: int | None, now_ms: int, interval: str) -> str:
    """Return the shortest period of Yahoo's that reaches back to ``after_ms``.

    Without one, or from further back than Yahoo goes, the longest it gives at once: a window
    needs many candles before its first forecast. "1d" is the newest session only; it will do
    when the last candle is hours old and of the same UTC day, since no session begins within
    hours of another except at midnight.
    """
    longest = _LONGEST.get(interval, "1mo")
    if after_ms is None:
        return longest
    age_ms = now_ms - after_ms
    same_day = after_ms // DAY_MS == now_ms // DAY_MS
    if INTERVALS_MS[interval] < DAY_MS and same_day and age_ms < 6 * _HOUR_MS:
        return "1d"
    for period, days in _PERIODS.items():
        if period == longest or age_ms < days * DAY_MS:
            return period
    return longest


def next_poll_ms(now_ms: int, poll_ms: int) -> int:
    """Return the time of the next poll: a multiple of ``poll_ms``, past the grace.

    So a poll a minute comes as soon as the candles of that minute count as closed.
    """
    return ((now_ms - GRACE_MS) // poll_ms + 1) * poll_ms + GRACE_MS
