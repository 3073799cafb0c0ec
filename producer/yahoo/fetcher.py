"""Fetches bars in threads, through the gate; counts and logs every outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Final, Protocol

from pydantic import ValidationError

from producer.yahoo.bars import Bar, Response
from producer.yahoo.errors import PollError
from producer.yahoo.gate import Gate
from producer.yahoo.ranges import Span
from shared.candles import INTERVALS_MS, Candle, refusal
from shared.files.series import make_candle
from shared.metrics import ProducerMetrics
from shared.process import now_ms

log = logging.getLogger(__name__)

SOURCE_NAME: Final = "yfinance"
"""Source of polled candles, as their messages name it."""


class Poll(Protocol):
    """Requests the bars of one symbol; called in a thread. Raises ``PollError``."""

    def __call__(
        self, symbol: str, interval: str, span: Span, newest: int | None = None
    ) -> Response:
        """Return the bars that open within a span; of its newest ``newest`` bars if given."""
        ...


class Fetcher:
    """Requests to Yahoo for one interval, shared by all sources; holds their clock."""

    def __init__(
        self,
        poll: Poll,
        interval: str,
        gate: Gate,
        metrics: ProducerMetrics,
        *,
        pool: Executor,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        """Prepare only.

        Args:
            poll: requests one symbol.
            interval: of all bars.
            gate: paces the requests.
            metrics: counts them.
            pool: threads to poll in; ``close`` ends it.
            now_ms: the current time.
        """
        self.interval = interval
        self.metrics = metrics
        self.now_ms = now_ms
        self._poll = poll
        self._gate = gate
        self._pool = pool

    async def fetch(self, symbol: str, span: Span, newest: int | None = None) -> Response:
        """Return one response; raises ``PollError`` after counting and logging it."""
        try:
            response = await self._gate.call(symbol, lambda: self._timed(symbol, span, newest))
        except PollError as error:
            log.warning("%s %s: %s", symbol, self.interval, error)
            self.metrics.polls.labels(error.kind.value).inc()
            raise
        self.metrics.polls.labels("ok" if response.bars else "empty").inc()
        return replace(response, received_ms=self.now_ms())

    async def look_back(
        self,
        symbol: str,
        spans: Iterable[Span],
        enough: Callable[[Sequence[Bar]], bool],
        newest: int | None = None,
    ) -> Response:
        """Return the responses to several spans as one, as of the first response.

        Args:
            symbol: to request.
            spans: adjoining, the newest first; at least one.
            enough: whether the bars so far, in order, suffice; the remaining spans are left out.
            newest: bars to read of each response, from its end; all if None.
        """
        later = iter(spans)
        whole = await self.fetch(symbol, next(later), newest)
        while not enough(whole.bars) and (span := next(later, None)) is not None:
            before = await self.fetch(symbol, span, newest)
            whole = replace(
                whole,
                bars=(*before.bars, *whole.bars),
                actions=(*before.actions, *whole.actions),
            )
        return whole

    async def _timed(self, symbol: str, span: Span, newest: int | None) -> Response:
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
        """Drop the requests that wait for a thread; running ones end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def as_candle(bar: Bar, symbol: str, interval: str, source: str = SOURCE_NAME) -> Candle:
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
