"""Paces all requests to Yahoo: a token bucket, and a circuit breaker that 429 opens."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from producer.yahoo.errors import ErrorKind, PollError
from shared.metrics import ProducerMetrics

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S: Final = 10.0
"""Pause of all symbols after the first 429."""

LONGEST_PAUSE_S: Final = 900.0
"""Longest pause of all symbols, however often 429 repeats."""

_JITTER: Final = 0.5


class Backoff:
    """Pauses that double with each failure in a row, with jitter; in memory, no I/O."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        """Take the first pause and the longest, in seconds."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s
        self.failures = 0  # in a row

    def failed(self) -> float:
        """Count a failure and return the pause after it, in seconds."""
        self.failures += 1
        jitter_s = self._first_s * random.uniform(0, _JITTER)  # noqa: S311 -- spreads, no secret
        pause_s = min(self._next_s + jitter_s, self._longest_s)
        self._next_s = min(2 * self._next_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Start from the first pause again, after a success."""
        self._next_s = self._first_s
        self.failures = 0


class TokenBucket:
    """Lets requests through at a mean rate, in the order in which they came."""

    def __init__(self, rate: float, burst: int) -> None:
        """Take tokens a second, and how many may be saved up."""
        self._interval_s = 1 / rate
        self._ahead_s = (burst - 1) / rate
        self._next_s = 0.0

    async def take(self) -> None:
        """Wait for a token."""
        now_s = asyncio.get_running_loop().time()
        self._next_s = max(self._next_s, now_s)
        wait_s = self._next_s - self._ahead_s - now_s
        self._next_s += self._interval_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)


class Gate:
    """Lets every request through in its turn, and holds all of them while Yahoo limits the rate.

    A response of 429 opens the circuit: all symbols pause, for longer each time. After the pause
    one request is let through, and its response closes the circuit or prolongs the pause. A
    symbol that gets 429 again and again while others succeed pauses only itself: Yahoo does
    that for some symbols, and one bad symbol must not delay the others.
    """

    def __init__(self, metrics: ProducerMetrics, *, rate: float, burst: int) -> None:
        """Make a closed circuit: ``rate`` requests a second, ``burst`` of them at once."""
        self._metrics = metrics
        self._bucket = TokenBucket(rate, burst)
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._until_s: float | None = None  # None while closed
        self._probing = False
        self._probed = asyncio.Condition()
        self._successes = 0
        self._limited_at: dict[str, int] = {}  # symbol -> successes of all symbols by then

    async def call(self, symbol: str, request: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a request, once it is let through; raises what it raises."""
        probes = await self._turn()
        try:
            await self._bucket.take()
            result = await request()
        except PollError as error:
            if error.kind is ErrorKind.RATE_LIMITED and self._is_general(symbol):
                self._open(probes=probes)
            elif probes:
                self._close()
            raise
        else:
            self._successes += 1
            self._limited_at.pop(symbol, None)
            if probes:
                self._close()
            if self._until_s is None:
                self._backoff.reset()
            return result
        finally:
            if probes:
                self._probing = False
                async with self._probed:
                    self._probed.notify_all()

    async def _turn(self) -> bool:
        """Wait until the circuit is closed, or until it is this request's turn to probe."""
        loop = asyncio.get_running_loop()
        while self._until_s is not None:
            wait_s = self._until_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif self._probing:
                async with self._probed:
                    await self._probed.wait_for(lambda: not self._probing)
            else:
                self._probing = True
                return True
        return False

    def _is_general(self, symbol: str) -> bool:
        before = self._limited_at.get(symbol)
        self._limited_at[symbol] = self._successes
        return before is None or before == self._successes

    def _open(self, *, probes: bool) -> None:
        if self._until_s is not None and not probes:
            return  # this request was sent before it opened
        pause_s = self._backoff.failed()
        self._until_s = asyncio.get_running_loop().time() + pause_s
        self._metrics.paused.set(1)
        log.warning(
            "Yahoo limits the rate (429): the circuit is open, all symbols pause for %.0f s; "
            "attempt %d", pause_s, self._backoff.failures,
        )  # fmt: skip

    def _close(self) -> None:
        self._until_s = None
        self._metrics.paused.set(0)
        log.info("Yahoo answers again: the circuit is closed")
