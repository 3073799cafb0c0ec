"""Drift of features: how far those served now are from those of the training windows. Pure.

The population stability index of a feature is ``sum (q - p) ln(q / p)`` over bins: p are the
shares of training windows, q those of the newest windows served (Lewis, "An Introduction to Credit
Scoring", 1994). By convention 0.1 is small and 0.25 a significant change (Siddiqi, "Credit Risk
Scorecards", 2006). Of n windows that are independent, and m of training, it is without drift about
``1/n + 1/m`` times a chi-squared number of B - 1 degrees of freedom (Yurdakul, "Statistical
Properties of Population Stability Index", 2018).

Neighbouring windows of a series share nearly all their candles, so their indices would be of no
independent windows: some windows of all series of an interval are counted, by the forecast's id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from operator import lt
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.candles import INTERVALS_MS

Floats = NDArray[np.floating[Any]]

SAMPLED: Final = 16
"""One forecast of so many has its window's features counted."""

BINS: Final = 10
"""Bins of equal share, where a feature's values differ that much."""

MAX_EDGES: Final = 2 * (BINS - 1)
"""Most edges between bins: a value that many windows share has one on each side."""

MEMORY: Final = 0.999
"""Weight of the past per window: the counts look back as 2,000 windows of equal weight do."""

LEAST: Final = 500
"""Windows before which an index is more noise than anything."""

THRESHOLD: Final = 0.25
"""Index from which a feature drifts, by convention; chance gives 0.0045, see ``noise``."""

ENOUGH: Final = 0.1
"""Index below which a drift is over, by convention."""

FLOOR: Final = 1e-4
"""Least share of a bin in the reference: what training never saw has no infinite index."""

DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Names of bins in a message, one digit a feature."""

_PLACES: Final = {digit: place for place, digit in enumerate(DIGITS)}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureBins(_Part):
    """How the training windows fall into the bins of one feature."""

    edges: Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_EDGES)]  # rising
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...]  # one more than edges, 1 in all

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rises = all(low < high for low, high in pairwise(self.edges))
        if not rises or not all(map(math.isfinite, self.edges)):
            raise ValueError(f"edges: expected rising numbers, got {self.edges}")
        if len(self.shares) != len(self.edges) + 1 or abs(sum(self.shares) - 1.0) > 0.01:
            raise ValueError(
                f"shares: expected {len(self.edges) + 1}, which are 1 in all, got {self.shares}"
            )
        return self


class Reference(_Part):
    """Features of the training windows, by interval; ``reference.json`` of a bundle."""

    source: str  # of the candles
    sha256: str  # of the candles as used
    tensor: Annotated[str, Field(pattern=r"^[\w./:-]{1,100}$")]  # of the graph, features (B, F)
    windows: dict[str, Annotated[int, Field(ge=1)]]  # interval -> how many were counted
    intervals: dict[str, dict[str, FeatureBins]]  # interval -> feature -> bins

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        unknown = [name for name in self.intervals if name not in INTERVALS_MS]
        if unknown or not self.intervals or self.windows.keys() != self.intervals.keys():
            raise ValueError(
                "intervals: expected some known ones with the number of their windows, got "
                f"{', '.join(self.intervals) or 'none'}"
            )
        return self

    def require_features(self, names: Sequence[str]) -> None:
        """Raise ``ValueError`` unless each interval has exactly these features, in order."""
        for interval, features in self.intervals.items():
            if list(features) != list(names):
                raise ValueError(
                    f"{interval}: expected the features {', '.join(names) or 'none'}, got "
                    f"{', '.join(features) or 'none'}"
                )

    @cached_property
    def _tables(self) -> dict[int, IntervalReference]:
        return {
            INTERVALS_MS[name]: IntervalReference(features, self.windows[name])
            for name, features in self.intervals.items()
        }

    def of(self, interval: str) -> IntervalReference | None:
        """Return what is known of an interval; None for one that training did not see."""
        return self._tables.get(INTERVALS_MS[interval])


class IntervalReference:
    """The bins of one interval's features as arrays; F features of at most B bins."""

    def __init__(self, features: Mapping[str, FeatureBins], windows: int) -> None:
        self.names = tuple(features)
        self.windows = windows
        bins = list(features.values())
        most = max((len(some.edges) for some in bins), default=1)
        self._edges = np.full((len(bins), most), np.inf)  # (F, B - 1)
        self.shares = np.zeros((len(bins), most + 1))  # (F, B), 0 beyond a feature's own bins
        for row, some in enumerate(bins):
            self._edges[row, : len(some.edges)] = some.edges
            shares = np.maximum(some.shares, FLOOR)
            self.shares[row, : len(shares)] = shares / shares.sum()
        self._most = [len(some.shares) for some in bins]
        self.bins = np.array(self._most)  # (F,)

    def bins_of(self, features: Floats) -> str | None:
        """Return a window's bins, a digit a feature, of (F,); None where one is not finite."""
        if not np.isfinite(features).all():
            return None
        at = (self._edges < features[:, None]).sum(axis=1)
        return "".join([DIGITS[place] for place in at.tolist()])

    def places(self, bins: str) -> list[int] | None:
        """Return the bins in a message as numbers, (F,); None where they are of no such bins."""
        places = [_PLACES.get(digit, len(DIGITS)) for digit in bins]
        is_sound = len(places) == len(self.names) and all(map(lt, places, self._most))
        return places if is_sound else None

    def psi(self, counts: Floats) -> Floats:
        """Return the index of each feature, (F,), after counts by bin, (F, B).

        One window more for each bin, spread as the reference's, keeps an empty bin's logarithm
        finite without an index where nothing drifts.
        """
        prior = self.bins[:, None] * self.shares
        shares = (counts + prior) / (counts + prior).sum(axis=1, keepdims=True)
        known = self.shares > 0
        ratio = np.divide(shares, self.shares, out=np.ones_like(shares), where=known)
        index: Floats = ((shares - self.shares) * np.log(ratio)).sum(axis=1)
        return index


def noise(bins: int, windows: float, reference: int) -> float:
    """Return the mean index of independent windows without drift: (B - 1)(1/n + 1/m)."""
    return (bins - 1) * (1.0 / windows + 1.0 / reference)


def is_sampled(identity: str) -> bool:
    """Tell whether the features of a forecast's window are counted, by its id in hexadecimal."""
    return int(identity[:8], 16) % SAMPLED == 0


def bins_of_values(values: Floats) -> FeatureBins:
    """Return the bins of a feature's values in training, (m,).

    Edges are the deciles. A value that a tenth of the windows or more share, such as 0 for a
    ratio, lies in a bin of its own, so that the last bits of a number are no drift.
    """
    values = np.sort(values.astype(np.float64))
    edges: set[float] = set()
    for decile in np.quantile(values, np.arange(1, BINS) / BINS).tolist():
        apart = 1e-6 * (1.0 + abs(decile))
        low, high = np.searchsorted(values, (decile - apart, decile + apart))
        is_shared = high - low >= len(values) / BINS
        edges |= {decile - apart, decile + apart} if is_shared else {decile}
    rising = [float(f"{edge:.9g}") for edge in sorted(edges)]
    rising = sorted(set(rising))
    counts = np.diff([0, *np.searchsorted(values, rising, side="right"), len(values)])
    shares = tuple(float(f"{share:.5f}") for share in counts / len(values))
    return FeatureBins(edges=tuple(rising), shares=shares)


@dataclass(slots=True)
class _Counts:
    """Bins of an interval's newest windows, by one model."""

    reference: IntervalReference
    windows: int = 0
    counts: Floats = field(init=False)  # (F, B), the newer the more

    def __post_init__(self) -> None:
        self.counts = np.zeros_like(self.reference.shares)

    def add(self, places: Sequence[int]) -> None:
        self.windows += 1
        self.counts *= MEMORY
        self.counts[np.arange(len(places)), places] += 1.0


class FeatureDrift:
    """The indices of what was forecast from lately, by interval; in memory, no I/O.

    Counts are kept by model too; of several models that serve an interval the largest index
    counts. Those of models that no longer serve are dropped.
    """

    def __init__(self, references: Callable[[], Mapping[str, Reference]]) -> None:
        """``references`` returns the models served, by version, that have a reference."""
        self._references = references
        self._counts: dict[tuple[str, str], _Counts] = {}  # by interval and version

    def note(self, interval: str, version: str, bins: str) -> bool:
        """Count the bins of a window; return whether they were counted."""
        counts = self._counts.get((interval, version))
        if counts is None:
            known = self._references().get(version)
            reference = known.of(interval) if known else None
            if reference is None:
                return False
            counts = self._counts[interval, version] = _Counts(reference)
        places = counts.reference.places(bins)
        if places is None:
            return False
        counts.add(places)
        return True

    def clear(self) -> None:
        """Forget all."""
        self._counts.clear()

    def psi(self) -> dict[str, dict[str, float]]:
        """Return the index of each feature by interval; of intervals with windows enough."""
        served = self._references()
        for key in [key for key in self._counts if key[1] not in served]:
            del self._counts[key]
        found: dict[str, dict[str, float]] = {}
        for (interval, _), counts in self._counts.items():
            if counts.windows < LEAST:
                continue
            indices = found.setdefault(interval, {})
            psi = counts.reference.psi(counts.counts).tolist()
            for name, index in zip(counts.reference.names, psi, strict=True):
                indices[name] = max(index, indices.get(name, 0.0))
        return found
