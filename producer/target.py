"""The topics that take candles, and how candles are keyed there: the series, and their context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared.candles import Candle, decode_candle
from shared.context import context_key, decode_context
from shared.kafka import KafkaSettings

EVENT_TYPE: Final = "market.candle.v1"
"""CloudEvents type of a candle's message."""

CONTEXT_TYPE: Final = "market.context.v1"
"""CloudEvents type of a context candle's message."""


@dataclass(frozen=True)
class Target:
    """A topic that takes candles."""

    topic: str
    event_type: str
    key: Callable[[Candle], bytes]
    decode: Callable[[bytes | None, bytes | None, int], Candle]  # of key, value and time


def candles(settings: KafkaSettings) -> Target:
    """Return the candles topic."""
    return Target(settings.candles_topic, EVENT_TYPE, _symbol, decode_candle)


def context(settings: KafkaSettings) -> Target:
    """Return the context topic."""
    return Target(settings.context_topic, CONTEXT_TYPE, context_key, decode_context)


def symbol_in(key: bytes | None) -> bytes:
    """Return the symbol in a key of either topic; no symbol has a ``|``."""
    return (key or b"").partition(b"|")[0]


def _symbol(candle: Candle) -> bytes:
    return candle.symbol.encode()
