"""The fence: after a failure of any kind nothing more is published, remembered or committed."""

from __future__ import annotations


class FencedError(Exception):
    """Work that was tried after a failure."""


class Fence:
    """Open until the first failure, then closed for good; in memory, no I/O.

    Faust restarts an agent behind the batch that failed, commits on a timer and on its way out,
    and lets other tasks go on. Each of them would publish from windows that lack the batch, or
    commit past it. So whatever publishes, remembers or commits asks the fence first.
    """

    def __init__(self) -> None:
        self.reason: BaseException | None = None

    @property
    def is_closed(self) -> bool:
        """True when there was a failure."""
        return self.reason is not None

    def close(self, reason: BaseException) -> None:
        """Note a failure; the first one stays the reason."""
        if self.reason is None:
            self.reason = reason

    def check(self) -> None:
        """Raise ``FencedError`` after a failure."""
        if self.reason is not None:
            raise FencedError(f"after a failure: {self.reason!r}") from self.reason
