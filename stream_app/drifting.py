"""What drifts, series and features: by interval for the metrics, logged once when it begins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from shared.drift import THRESHOLD, Report
from shared.feature_drift import ENOUGH, FeatureDrift, Reference
from shared.feature_drift import THRESHOLD as THRESHOLD_PSI
from shared.forecasts import Forecast
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


class FeatureBoard:
    """How far the features of the newest forecasts are from those of training; in memory."""

    def __init__(
        self, metrics: WorkerMetrics, references: Callable[[], Mapping[str, Reference]]
    ) -> None:
        """``references`` returns the models served, by version, that have a reference."""
        self._metrics = metrics
        self._drift = FeatureDrift(references)
        self._drifting: set[tuple[str, str]] = set()  # intervals and features

    def note(self, forecasts: Iterable[Forecast]) -> None:
        """Count the features of the forecasts that have bins."""
        for forecast in forecasts:
            if forecast.feature_bins is not None:
                version, bins = forecast.model_version, forecast.feature_bins
                self._drift.note(forecast.interval, version, bins)

    def show(self) -> None:
        """Set the metrics, and log an interval's features that begin to drift, in one line."""
        found = self._drift.psi()
        self._metrics.feature_psi.clear()
        for interval, indices in found.items():
            began = {}
            for name, index in indices.items():
                self._metrics.feature_psi.labels(interval, name).set(index)
                if index < ENOUGH:
                    self._drifting.discard((interval, name))
                elif index >= THRESHOLD_PSI and (interval, name) not in self._drifting:
                    self._drifting.add((interval, name))
                    began[name] = index
            if began:
                worst = sorted(began, key=began.__getitem__, reverse=True)
                log.info(
                    "%s: features of the newest candles are not as those of training (PSI %g or "
                    "more): %s. Whether that costs anything, skill and coverage say", interval,
                    THRESHOLD_PSI, ", ".join([f"{name} {began[name]:.2f}" for name in worst]),
                )  # fmt: skip


def _interval(key: bytes) -> str:
    return key.rpartition(b"|")[2].decode()
