"""Background work of the application: begun again when it ends, and said by the probes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from shared.process import in_words, is_being_cancelled, now_ms
from shared.status import Health, since

log = logging.getLogger("api")

Work = Callable[[], Coroutine[Any, Any, None]]

PAUSE_S: Final = 1.0
"""Pause before work that has ended is begun again."""

PROVEN_S: Final = 10.0
"""Time that work begun again must run before the probes forget its end."""


class Background:
    """Runs work beside the requests, each in a task that is watched."""

    def __init__(
        self,
        works: Mapping[str, Work] | None = None,
        *,
        pause_s: float = PAUSE_S,
        proven_s: float = PROVEN_S,
    ) -> None:
        """Prepare only; work that should run forever, by the name that the probes give it."""
        self._works = dict(works or {})
        self._pause_s = pause_s
        self._proven_s = proven_s
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: dict[str, str] = {}  # by name: why and since when

    def start(self) -> None:
        """Begin all work; needs a running event loop."""
        self._tasks = [
            asyncio.create_task(self._keep(name, work)) for name, work in self._works.items()
        ]

    async def stop(self) -> None:
        """End all work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def health(self) -> Health:
        """Fail when work has ended and has not run for a while since."""
        if self._ends:
            return Health(ok=False, detail="; ".join(self._ends.values()))
        return Health(ok=True, detail="the event loop answers")

    async def _keep(self, name: str, work: Work) -> None:
        loop = asyncio.get_running_loop()
        while True:
            proof = loop.call_later(self._proven_s, self._ends.pop, name, None)
            try:
                await work()
                reason = "it returned"
            except (Exception, asyncio.CancelledError) as error:  # the probes must say it
                if is_being_cancelled():
                    raise
                log.exception("%s ended, beginning it again", name)
                reason = in_words(error)
            finally:
                proof.cancel()
            if name not in self._ends:
                self._ends[name] = f"{name} ended ({reason}) {since(now_ms())}"
            await asyncio.sleep(self._pause_s)
