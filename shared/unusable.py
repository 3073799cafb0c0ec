"""Messages of a topic that cannot be used: counted, and logged once a minute."""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

LOGGED_EVERY_S: Final = 60.0
"""Time between two log lines of one reason; whoever floods a topic does not flood the log."""


class Placed(Protocol):
    """A message, as far as its place goes."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...


class UnusableMessages:
    """Logs where a message stands that cannot be used, and why."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._next_s: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def note(self, record: Placed, reason: str, error: Exception) -> None:
        """Note a message that is passed over.

        Args:
            record: where it stands.
            reason: the kind of fault, one of few.
            error: says what is wrong; one that is not a ``ValueError`` is logged with its
                traceback, as a fault of ours.
        """
        now_s = time.monotonic()
        if now_s < self._next_s.get(reason, now_s):
            self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
            return
        self._next_s[reason] = now_s + LOGGED_EVERY_S
        self._log.warning(
            "%s, partition %d, offset %d: passed over (%s): %s; %d more since the last such line",
            record.topic,
            record.partition,
            record.offset,
            reason,
            str(error)[:500] or type(error).__name__,
            self._unlogged.pop(reason, 0),
            exc_info=None if isinstance(error, ValueError) else error,
        )
