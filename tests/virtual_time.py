"""Event loop in virtual time: its clock jumps to the next timer instead of waiting."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_WORK_S = 0.05


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer it moves the loop's clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.at_work = 0  # calls in threads, during which the clock stands still

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.at_work or timeout is None:
            return super().select(_WORK_S)
        self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs coroutines in virtual time, from the epoch millisecond given."""

    def __init__(self, start_ms: int) -> None:
        self._jumping = _JumpingSelector()
        self._start_ms = start_ms
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def now_ms(self) -> int:
        """Return the virtual time in UTC epoch milliseconds."""
        return self._start_ms + round(self._jumping.now_s * 1000)

    def set_ms(self, now_ms: int) -> None:
        """Set the clock while nothing runs."""
        self._start_ms = now_ms - round(self._jumping.now_s * 1000)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        self._jumping.at_work += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._worked)
        return future

    def _worked(self, _: object) -> None:
        self._jumping.at_work -= 1

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns."""
        asyncio.set_event_loop(self)
        try:
            return self.run_until_complete(work)
        finally:
            asyncio.set_event_loop(None)
