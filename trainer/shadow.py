"""Shadow: a challenger forecasts every candle after its training beside the champion. Pure.

The watch runs both over the candles that came since, by the step of the back-test, which is the
worker's; so a shadow is a bundle and a time, and goes on after a kill where it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.bundle import Bundle
from shared.candles import DAY_MS, INTERVALS_MS
from trainer.contest import unseen_from
from trainer.dataset import Source
from trainer.gate import fewest_days


@dataclass(frozen=True)
class Progress:
    """How far a shadow is."""

    start_ms: int  # from the candles that open then on, neither model has seen any
    candles: int  # of a series that both models' shortest forecasts are settled of: the median
    wanted: int
    days: int  # with such candles
    wanted_days: int  # fewest that can show anything

    @property
    def is_over(self) -> bool:
        """True when the gate may decide."""
        return self.candles >= self.wanted and self.days >= self.wanted_days

    @property
    def words(self) -> str:
        """The progress in one line."""
        return (
            f"{self.candles} of {self.wanted} candles a series, "
            f"{self.days} of {self.wanted_days} days"
        )


def progress(
    source: Source, newest_ms: int, challenger: Bundle, champion: Bundle, wanted: int
) -> Progress:
    """Return how far a shadow is.

    Args:
        source: the candles until now.
        newest_ms: opening of the newest candle at its training.
        challenger: the shadow.
        champion: what serves now.
        wanted: candles of a series.
    """
    start_ms = max(newest_ms + 1, unseen_from(source, challenger), unseen_from(source, champion))
    step = challenger.config.horizons[0]
    settled = [
        held.open_ms[np.searchsorted(held.open_ms, start_ms) :][:-step]
        for held in source.symbols.values()
    ]
    counts = [len(times) for times in settled if len(times)]
    days = {int(day) for times in settled for day in np.unique(times // DAY_MS)}
    return Progress(
        start_ms,
        int(np.median(counts)) if counts else 0,
        wanted,
        len(days),
        fewest_days(challenger.config.horizons[-1], INTERVALS_MS[source.interval]),
    )
