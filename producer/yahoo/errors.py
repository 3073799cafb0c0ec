"""Errors of a request to Yahoo, by kind."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class ErrorKind(StrEnum):
    """Why a request failed; a value of the metric's label ``outcome``."""

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
"""Kinds of error that mean that no server answered."""


class PollError(Exception):
    """A request for one symbol that failed."""

    def __init__(self, kind: ErrorKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
