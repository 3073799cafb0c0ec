"""The one way to Yahoo for all symbols: a token bucket, and a circuit that 429 opens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, wait_exponential_jitter

from producer.yahoo.errors import ErrorKind, PollError
from shared.metrics import ProducerMetrics

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S: Final = 10.0
LONGEST_PAUSE_S: Final = 900.0
_JITTER: Final = 0.5


class Backoff:
    """Pauses that double with each failure in a row, with jitter."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        """Take the first pause and the longest, in seconds."""
        self._wait = wait_exponential_jitter(
            multiplier=first_s, max=longest_s, jitter=first_s * _JITTER
        )
        self._state = RetryCallState(AsyncRetrying(), None, (), {})
        self._state.attempt_number = 0

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._state.attempt_number

    def failed(self) -> float:
        """Count a failure and return the pause after it, in seconds."""
        self._state.attempt_number += 1
        return self._wait(self._state)

    def reset(self) -> None:
        """Begin anew after a success."""
        self._state.attempt_number = 0


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
    """Every request goes through here, and waits here while Yahoo limits the rate.

    An answer of 429 opens the circuit: all symbols pause, for longer each time. After the pause
    one request is let through, and its answer closes the circuit or prolongs the pause. A symbol
    that gets 429 again and again while others get answers pauses only itself: Yahoo is seen to
    do that for some symbols, and one bad symbol must not delay the others.
    """

    def __init__(
        self,
        metrics: ProducerMetrics,
        *,
        rate: float,
        burst: int,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """Make a closed circuit: ``rate`` requests a second, ``burst`` of them at once."""
        self._metrics = metrics
        self._bucket = TokenBucket(rate, burst)
        self._backoff = Backoff(first_pause_s, longest_pause_s)
        self._until_s: float | None = None  # None while closed
        self._probing = False
        self._moved = asyncio.Condition()
        self._answers = 0
        self._limited_at: dict[str, int] = {}  # symbol -> answers to others by then

    @property
    def is_open(self) -> bool:
        """Whether all symbols pause."""
        return self._until_s is not None

    async def ask(self, symbol: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return what ``call`` gives, once it is let through; raises what it raises."""
        probes = await self._turn()
        try:
            await self._bucket.take()
            answer = await call()
        except PollError as error:
            if error.kind is ErrorKind.RATE_LIMITED and self._is_general(symbol):
                self._open(probes=probes)
            elif probes:
                self._close()
            raise
        else:
            self._answers += 1
            self._limited_at.pop(symbol, None)
            if probes:
                self._close()
            if not self.is_open:
                self._backoff.reset()
            return answer
        finally:
            if probes:
                self._probing = False
                async with self._moved:
                    self._moved.notify_all()

    async def _turn(self) -> bool:
        """Wait until the circuit is closed, or until it is this request's turn to probe."""
        loop = asyncio.get_running_loop()
        while self._until_s is not None:
            wait_s = self._until_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif self._probing:
                async with self._moved:
                    await self._moved.wait_for(lambda: not self._probing)
            else:
                self._probing = True
                return True
        return False

    def _is_general(self, symbol: str) -> bool:
        before = self._limited_at.get(symbol)
        self._limited_at[symbol] = self._answers
        return before is None or before == self._answers

    def _open(self, *, probes: bool) -> None:
        if self.is_open and not probes:
            return  # asked before it opened
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
