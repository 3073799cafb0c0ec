"""Why a symbol could not be polled."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class ErrorKind(StrEnum):
    """A value of the metric's ``outcome``."""

    RATE_LIMITED = "rate_limited"
    UNKNOWN_SYMBOL = "unknown_symbol"
    NO_DATA = "no_data"
    REFUSED = "refused"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    NETWORK = "network"
    MALFORMED = "malformed"
    CACHE = "cache"
    OTHER = "other"


UNREACHABLE: Final = frozenset({ErrorKind.TIMEOUT, ErrorKind.NETWORK})
"""Kinds that say that nobody answered."""


class PollError(Exception):
    """A poll of one symbol that gave nothing."""

    def __init__(self, kind: ErrorKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
