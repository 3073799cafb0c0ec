"""A forecaster whose numbers tests can foretell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.forecaster import Prediction


class LastMove:
    """Expects the last move again, 1 % either way; implements the port ``Forecaster``."""

    model_version = "last-move"
    horizons = (1, 5)
    quantile_levels = (0.05, 0.5, 0.95)

    def __init__(self, window_length: int = 3) -> None:
        self.window_length = window_length

    def predict(self, candles: NDArray[np.float64]) -> Prediction:
        move = np.log(candles[:, -1, 3] / candles[:, -2, 3])  # (B,)
        log_return = move[:, None, None] + np.array([-0.01, 0.0, 0.01])  # (B, 1, Q)
        batch = candles.shape[0]
        return Prediction(
            np.repeat(log_return, len(self.horizons), axis=1),
            np.full((batch, len(self.horizons)), 0.01),
        )
