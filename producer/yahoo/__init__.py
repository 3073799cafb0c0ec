"""All that knows Yahoo, yfinance and exchange hours; importing it loads none of their libraries.

The rest of the producer uses the names below; only ``producer.wiring`` reaches further in.
"""

from producer.yahoo.ranges import LIMITS, Span, oldest_ms, why_impossible
from producer.yahoo.schedule import default_poll_ms

INTERVALS = tuple(LIMITS)
"""Intervals of which Yahoo has candles."""

__all__ = ["INTERVALS", "Span", "default_poll_ms", "oldest_ms", "why_impossible"]
