"""The headers of every message: content type and CloudEvents in Kafka's binary mode."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_CONTENT_TYPE: Final = ("content-type", b"application/json")
_SPEC_VERSION: Final = ("ce_specversion", b"1.0")


def cloud_event(id: str, type: str, source: str, time_ms: int) -> list[tuple[str, bytes]]:  # noqa: A002
    """Return a message's headers, named as CloudEvents 1.0 names its attributes.

    Args:
        id: what the event is; two events of one source with one id are repeats.
        type: what kind of event it is, with its version: ``market.candle.v1``.
        source: who made it, a URI reference: ``candlecast/producer/replay``.
        time_ms: when it happened, UTC epoch milliseconds, before the year 10000.
    """
    return [
        _CONTENT_TYPE,
        _SPEC_VERSION,
        ("ce_id", id.encode()),
        ("ce_type", type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", _rfc3339(time_ms)),
    ]


def _rfc3339(time_ms: int) -> bytes:
    seconds, millis = divmod(time_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
    return f"{moment}.{millis:03d}Z".encode()
