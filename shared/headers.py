"""Kafka headers of every message: content type and CloudEvents attributes in binary mode."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

_CONTENT_TYPE: Final = ("content-type", b"application/json")
_SPEC_VERSION: Final = ("ce_specversion", b"1.0")


def cloud_event(
    id: str,  # noqa: A002
    type: str,  # noqa: A002
    source: str,
    time_ms: int,
    **extensions: str,
) -> list[tuple[str, bytes]]:
    """Return a message's headers, named as CloudEvents 1.0 names its attributes.

    Args:
        id: what the event is; two events of one source with one id are repeats.
        type: what kind of event it is, with its version: ``market.candle.v1``.
        source: who made it, a URI reference: ``candlecast/producer/replay``.
        time_ms: when it happened, UTC epoch milliseconds, before the year 10000.
        extensions: attributes of our own, lower-case letters and digits as CloudEvents asks.
    """
    return [
        _CONTENT_TYPE,
        _SPEC_VERSION,
        ("ce_id", id.encode()),
        ("ce_type", type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", _rfc3339(time_ms)),
        *((f"ce_{name}", value.encode()) for name, value in extensions.items()),
    ]


def pairs(headers: Any) -> list[tuple[str, bytes]]:
    """Return the headers of a message that was read, whose client has pairs or a mapping."""
    found = headers or []
    return list(found.items() if hasattr(found, "items") else found)


@lru_cache(maxsize=4096)  # the candles of all symbols close at the same times
def _rfc3339(time_ms: int) -> bytes:
    seconds, millis = divmod(time_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
    return f"{moment}.{millis:03d}Z".encode()
