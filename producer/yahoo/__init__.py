"""All that knows Yahoo, yfinance and exchange hours; importing it loads none of their libraries.

The rest of the producer uses the names below; only ``producer.wiring`` reaches further in.
"""

from producer.yahoo.ranges import Span, oldest_ms, why_impossible
from producer.yahoo.schedule import default_poll_ms

__all__ = ["Span", "default_poll_ms", "oldest_ms", "why_impossible"]
