"""Applies what the stream has learned of a series to forecasts on demand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.calibration import calibrate, grid_of, quantiles
from shared.forecaster import Forecaster
from shared.score_messages import Correction


@dataclass(frozen=True)
class Learned:
    """How the forecasts of a series are corrected now."""

    corrections: Mapping[int, Correction]  # by step
    until_ms: int  # close of the newest candle that they have learned from, UTC

    def about(self, forecaster: Forecaster, series: str) -> dict[str, Any]:
        """Return what was applied to a model's forecast, as ``CalibrationAnswer`` has it."""
        settled = [
            self.corrections[step].settled
            for step in forecaster.horizons
            if step in self.corrections
        ]
        return {
            "series": series,
            "candles": max(settled, default=0),
            "until_ms": self.until_ms,
        }


LearnedOf = Callable[[str, str], Learned | None]
"""Returns what the stream has learned of a symbol and interval."""


def corrected(
    forecaster: Forecaster, learned: Learned, log_return: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return a model's quantiles of the log return, (H, Q), as the worker would calibrate them.

    Steps and levels of which nothing has been learned stay as they are.
    """
    grid = grid_of(tuple(forecaster.horizons), tuple(forecaster.quantile_levels))
    raw = log_return.astype(np.float32)[None]
    codes = calibrate(grid, grid.restored(learned.corrections)[None], raw)
    made: NDArray[np.float64] = quantiles(grid, raw, codes)[0]
    return made
