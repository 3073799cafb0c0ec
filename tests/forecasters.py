"""Forecasters with numbers that tests can compute themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.candles import INTERVALS_MS
from shared.context import Closes
from shared.forecaster import Prediction
from trainer.evaluate.realised import range_variances


class LastMove:
    """Expects the last move again, 1 % either way; implements the port ``Forecaster``."""

    model_version = "last-move"
    intervals = tuple(INTERVALS_MS)
    context = None
    horizons = (1, 5)
    quantile_levels = (0.05, 0.5, 0.95)

    def __init__(self, window_length: int = 3) -> None:
        self.window_length = window_length

    def lengths(self, interval: str) -> tuple[int, ...]:
        del interval
        return (self.window_length,)

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        del open_ms, context
        move = np.log(candles[:, -1, 3] / candles[:, -2, 3])  # (B,)
        log_return = move[:, None, None] + np.array([-0.01, 0.0, 0.01])  # (B, 1, Q)
        batch = candles.shape[0]
        return Prediction(
            np.repeat(log_return, len(self.horizons), axis=1),
            np.full((batch, len(self.horizons)), 0.01),
        )


class PersistenceForecaster:
    """Expects no change, and the spread of the window's own past moves around it.

    Quantiles are the empirical ones of the window's overlapping h-candle log returns, shifted
    to a median of 0; the volatility is the root of the window's mean range variance.
    """

    model_version = "persistence"
    intervals = tuple(INTERVALS_MS)
    context = None

    def __init__(
        self,
        window_length: int = 60,
        horizons: tuple[int, ...] = (1, 5, 10),
        quantile_levels: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95),
    ) -> None:
        self.window_length = window_length
        self.horizons = horizons
        self.quantile_levels = quantile_levels

    def lengths(self, interval: str) -> tuple[int, ...]:
        del interval
        return (self.window_length,)

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        del open_ms, context
        log_close = np.log(candles[:, :, 3])  # (B, T)
        rows = []
        for step in self.horizons:
            moves = log_close[:, step:] - log_close[:, :-step]  # (B, T - step)
            at = np.quantile(moves, self.quantile_levels, axis=1)  # (Q, B)
            rows.append((at - np.median(moves, axis=1)).T)  # (B, Q)
        variance = np.array([np.nanmean(range_variances(window)) for window in candles])  # (B,)
        volatility = np.repeat(np.sqrt(variance)[:, None], len(self.horizons), axis=1)
        return Prediction(np.stack(rows, axis=1), volatility)
