"""Horizons between the trained ones, from the quantile curves on either side. Pure.

A random walk's variance grows linearly with time, so between the trained steps ``a < h < b``, with
``w = (h - a) / (b - a)``:

- the median is ``(1 - w) m_a + w m_b``, in log returns;
- a quantile's distance from the median is the root of ``(1 - w) d_a^2 + w d_b^2``, on its side;
- the variance over the step, ``h v_h^2`` for a volatility of ``v_h`` a candle, is
  ``(1 - w) a v_a^2 + w b v_b^2``.

Before the first trained step ``a`` is now, where nothing is uncertain: ``m = d = 0``. Quantiles
stay in order, since the distances on either side rise with the level at both ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.forecaster import Floats, Prediction
from shared.forecasts import MEDIAN


@dataclass(frozen=True)
class Curve:
    """The trained steps of a model, and how to go between them."""

    horizons: tuple[int, ...]  # rising
    quantile_levels: tuple[float, ...]

    def at(self, prediction: Prediction, steps: Sequence[int]) -> Prediction:
        """Return a prediction at other steps, each from 1 to the longest trained one.

        Args:
            prediction: of the trained steps, (B, H, Q) and (B, H).
            steps: N of them; a trained one keeps its numbers, bit for bit.

        Returns:
            (B, N, Q) and (B, N).
        """
        if tuple(steps) == self.horizons:
            return prediction
        exact = Prediction(
            prediction.log_return.astype(np.float64), prediction.volatility.astype(np.float64)
        )
        rows = [self._row(exact, step) for step in steps]
        return Prediction(
            np.stack([row for row, _ in rows], axis=1),
            np.stack([volatility for _, volatility in rows], axis=1),
        )

    def _row(self, prediction: Prediction, step: int) -> tuple[Floats, Floats]:
        after = int(np.searchsorted(self.horizons, step))
        if self.horizons[after] == step:
            return prediction.log_return[:, after], prediction.volatility[:, after]
        late, late_volatility = prediction.log_return[:, after], prediction.volatility[:, after]
        end = self.horizons[after]
        if after == 0:
            early, early_volatility, start = np.zeros_like(late), np.zeros_like(late_volatility), 0
        else:
            early = prediction.log_return[:, after - 1]
            early_volatility = prediction.volatility[:, after - 1]
            start = self.horizons[after - 1]
        share = (step - start) / (end - start)
        variance = (1 - share) * start * early_volatility**2 + share * end * late_volatility**2
        return self._between(early, late, share), np.sqrt(variance / step)

    def _between(self, early: Floats, late: Floats, share: float) -> Floats:
        middle = self.quantile_levels.index(MEDIAN)
        first, last = early[:, middle, None], late[:, middle, None]  # (B, 1)
        distance = np.sqrt((1 - share) * (early - first) ** 2 + share * (late - last) ** 2)
        side = np.sign(np.asarray(self.quantile_levels) - MEDIAN)  # (Q,)
        between: Floats = (1 - share) * first + share * last + side * distance
        return between
