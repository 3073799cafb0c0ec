"""Drift of an interval: what the scores say of all its series together, read on from the topic.

Each series' evidence (``shared.drift``) is an e-detector: while its model is right, its mean after
``n`` candles is ``n`` at most. So is the mean of several, however they depend on each other, and of
parts of them: at ``ALARM`` an interval has at most one false alarm in that many candles. A series
counts up to ``ALARM`` over the share of series that a drift must have: else one halted stock would
be a drift of all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import uvloop

from shared import kafka
from shared.candles import DAY_MS, INTERVALS_MS
from shared.drift import Drift
from shared.kafka import KafkaSettings, Partition
from shared.score_messages import InvalidScore, Scores
from shared.topics import partitions_of

log = logging.getLogger("trainer")

ALARM: Final = 1_000.0
"""Evidence at which an interval drifts: at most one false alarm in so many candles. That is a tenth
of a series' bound: its alarm calls people, a false one here costs one training, for the gate
decides, and the schedule has one a day anyway."""

MOST: Final = 50_000
"""Newest messages of a partition that a watch begins with: some 75 MB, read in seconds."""

SILENT_MS: Final = 7 * DAY_MS
SILENT_CANDLES: Final = 100
"""A series that is behind the newest of its interval by more than both no longer counts."""


@dataclass(frozen=True)
class IntervalDrift:
    """What the series of an interval say of one model."""

    series: int
    drifting: int  # of them
    evidence: float  # mean, of each series up to a bound; a drift from ``ALARM`` on
    shift: float  # mean of the series', see ``shared.drift.Drift``
    spread: float

    @property
    def is_drift(self) -> bool:
        """True when the interval's forecasts drift."""
        return self.evidence >= ALARM

    @property
    def words(self) -> str:
        """The drift in one line."""
        return (
            f"{self.drifting} of {self.series} series drift, moves {self.spread:.2f} times as "
            f"large as forecast, shifted by {self.shift:+.2f} of their deviation"
        )

    @property
    def figures(self) -> dict[str, float]:
        """The drift as figures of a training."""
        return {
            "drift_series": float(self.series),
            "drift_drifting": float(self.drifting),
            "drift_evidence": self.evidence,
            "drift_shift": self.shift,
            "drift_spread": self.spread,
        }


def together(drifts: Iterable[Drift], share: float) -> IntervalDrift | None:
    """Return what series say together; None if there are none.

    Args:
        drifts: of the series.
        share: of the series that a drift must have, at least; above 0.
    """
    known = list(drifts)
    if not known:
        return None
    count = len(known)
    return IntervalDrift(
        series=count,
        drifting=sum(drift.drifting > 0 for drift in known),
        evidence=sum(min(drift.evidence, ALARM / share) for drift in known) / count,
        shift=sum(drift.shift for drift in known) / count,
        spread=sum(drift.spread for drift in known) / count,
    )


@dataclass(frozen=True)
class _Newest:
    close_ms: int
    model_version: str
    drift: Drift


class ScoredSeries:
    """The newest drift of each series; in memory, no I/O."""

    def __init__(self) -> None:
        self._newest: dict[str, dict[str, _Newest]] = {}  # interval -> symbol

    def take(self, value: bytes | None) -> None:
        """Take a message of the topic; what is not a score, or says nothing of drift, is left."""
        try:
            scores = Scores.decode(value)
        except InvalidScore:
            return
        if scores.drift is None:
            return
        series = self._newest.setdefault(scores.interval, {})
        known = series.get(scores.symbol)
        if known is None or scores.close_ms >= known.close_ms:
            version = scores.horizons[0].model_version  # drift is that of the first step
            series[scores.symbol] = _Newest(scores.close_ms, version, scores.drift)

    def of(self, interval: str, model_version: str, share: float) -> IntervalDrift | None:
        """Return what an interval's series say of a model; None if nothing is known of it."""
        series = self._newest.get(interval, {})
        newest_ms = max((score.close_ms for score in series.values()), default=0)
        behind_ms = max(SILENT_MS, SILENT_CANDLES * INTERVALS_MS[interval])
        return together(
            (
                score.drift
                for score in series.values()
                if score.model_version == model_version and score.close_ms >= newest_ms - behind_ms
            ),
            share,
        )


class DriftReader:
    """Reads the scores topic on from where it was; a new one begins near the end."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._next: dict[int, int] = {}  # partition -> offset
        self.series = ScoredSeries()

    def update(self) -> None:
        """Read what is new; without a topic nothing is known.

        Raises:
            KafkaError: when it cannot be read.
        """
        uvloop.run(self._update())

    async def _update(self) -> None:
        topic = self._settings.scores_topic
        numbers = await partitions_of(self._settings, topic)
        if not numbers:
            return
        parts = [Partition(topic, number) for number in numbers]
        reader = kafka.consumer(self._settings, isolation_level="read_committed")
        async with kafka.connected(reader):
            begins = await reader.beginning_offsets(parts)
            ends = await reader.end_offsets(parts)
            if any(ends[part] < self._next.get(part.partition, 0) for part in parts):
                log.warning("%s was created again; what it said of drift is forgotten", topic)
                self._next, self.series = {}, ScoredSeries()
            starts: Mapping[Partition, int] = {
                part: max(begins[part], self._next.get(part.partition, ends[part] - MOST))
                for part in parts
            }
            async for records in kafka.read_to_end(reader, starts, ends):
                for record in records:
                    self.series.take(record.value)
            self._next = {part.partition: end for part, end in ends.items()}
