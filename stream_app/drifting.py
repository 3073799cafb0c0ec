"""Series that drift: kept by interval for the metrics, logged once when a drift begins. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shared.drift import THRESHOLD, Report
from shared.metrics import WorkerMetrics

log = logging.getLogger("stream_app")

Entry = tuple[bool, float, float]
"""True when a series drifts; its shift and its spread."""


@dataclass(slots=True)
class _Sums:
    """Sums over the series of an interval."""

    series: int = 0
    drifting: int = 0
    shift: float = 0.0
    spread: float = 0.0

    def add(self, entry: Entry, sign: int) -> None:
        self.series += sign
        self.drifting += sign * entry[0]
        self.shift += sign * entry[1]
        self.spread += sign * entry[2]


class DriftBoard:
    """What the newest scores of each series say of drift; in memory.

    Series of a market move together, so a test of an interval's pooled outcomes would have no
    known rate of false alarms. What is shown of an interval is how many of its series drift, and
    their mean shift and spread.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._newest: dict[bytes, Entry] = {}
        self._sums: dict[str, _Sums] = {}

    def note(self, reports: Mapping[bytes, Report], began: Iterable[bytes]) -> None:
        """Take the newest reports by series, and the series whose drift they begin."""
        for key in began:
            self._begin(key, reports[key])
        for key, report in reports.items():
            sums = self._sums.setdefault(_interval(key), _Sums())
            if key in self._newest:
                sums.add(self._newest[key], -1)
            self._newest[key] = report["drifting"] > 0, report["shift"], report["spread"]
            sums.add(self._newest[key], 1)
        self._show({_interval(key) for key in reports})

    def forget(self, keys: Iterable[bytes]) -> None:
        """Forget series that this worker no longer has."""
        gone = [key for key in keys if key in self._newest]
        for key in gone:
            self._sums[_interval(key)].add(self._newest.pop(key), -1)
        self._show({_interval(key) for key in gone})

    def clear(self) -> None:
        """Forget all series: partitions are assigned again."""
        self.forget(list(self._newest))

    def _begin(self, key: bytes, report: Report) -> None:
        self._metrics.drifts.labels(_interval(key)).inc()
        log.warning(
            "%s: its outcomes no longer fall as the model says (evidence %.0f, alarm at %.0f): "
            "shift %+.2f deviations, moves %.2f times as large as forecast; its intervals are "
            "corrected",
            key.decode(), report["evidence"], THRESHOLD, report["shift"], report["spread"],
        )  # fmt: skip

    def _show(self, intervals: Iterable[str]) -> None:
        for name in intervals:
            sums = self._sums[name]
            self._metrics.drifting.labels(name).set(sums.drifting)
            if sums.series:
                self._metrics.drift_shift.labels(name).set(sums.shift / sums.series)
                self._metrics.drift_spread.labels(name).set(sums.spread / sums.series)
            else:
                self._sums[name] = _Sums()  # sums of floats have lost some bits


def _interval(key: bytes) -> str:
    return key.rpartition(b"|")[2].decode()
