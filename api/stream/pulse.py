"""What passed through the topics over time, and what could not be used; in memory, no I/O.

Messages count at the broker's time, so that what is read back after a start has its rates too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from shared.unusable import Placed

SPAN_MS: Final = 15_000
"""Time over which messages are counted together."""

SPANS: Final = 240
"""Spans that are kept, the newest: an hour."""

MOST_KINDS: Final = 64
"""Most pairs of topic and reason with a count of their own."""

DETAIL: Final = 300
"""Most characters of what is said of a refused message."""


@dataclass
class Span:
    """The messages of a span of time, by topic, and the longest lag seen in it."""

    messages: Counter[str] = field(default_factory=Counter)
    lag: int | None = None


@dataclass
class Refusals:
    """Messages of a topic that could not be used for one reason, and the newest of them."""

    count: int = 0
    appended_ms: int = 0
    partition: int = 0
    offset: int = 0
    detail: str = ""


class Pulse:
    """Counts by spans of time."""

    def __init__(self) -> None:
        self.newest_ms: dict[str, int] = {}  # by topic, the broker's time of its newest message
        self.refused: dict[tuple[str, str], Refusals] = {}  # by topic and reason
        self._spans: dict[int, Span] = {}  # by number of the span since 1970

    def note(self, topic: str, appended_ms: int) -> None:
        """Count a message."""
        self.newest_ms[topic] = max(self.newest_ms.get(topic, 0), appended_ms)
        span = self._span(appended_ms)
        if span is not None:
            span.messages[topic] += 1

    def refuse(self, record: Placed, appended_ms: int, reason: str, detail: str) -> None:
        """Count a message that cannot be used."""
        key = record.topic, reason
        if key not in self.refused and len(self.refused) >= MOST_KINDS:
            return
        known = self.refused.setdefault(key, Refusals())
        self.refused[key] = Refusals(
            known.count + 1, appended_ms, record.partition, record.offset, detail[:DETAIL]
        )

    def see_lag(self, lag: int, now_ms: int) -> None:
        """Note how many messages are not read yet."""
        span = self._span(now_ms)
        if span is not None:
            span.lag = max(span.lag or 0, lag)

    def spans(self) -> list[tuple[int, Span]]:
        """Return the spans with anything in them and when they begin, the oldest first."""
        return [(number * SPAN_MS, span) for number, span in sorted(self._spans.items())]

    def _span(self, time_ms: int) -> Span | None:
        number = time_ms // SPAN_MS
        if number not in self._spans:
            if len(self._spans) >= SPANS:
                oldest = min(self._spans)
                if number < oldest:
                    return None
                del self._spans[oldest]
            self._spans[number] = Span()
        return self._spans[number]
