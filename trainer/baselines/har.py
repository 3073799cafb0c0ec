"""HAR on range volatility, one regression a symbol and horizon."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.forecaster import Prediction
from trainer.baselines.empirical import TINY_VARIANCE
from trainer.baselines.walk import Walk, mean_ahead, past_moves, range_variances, trailing_mean

SPANS: Final = (1, 5, 22)
"""Candles of the day, the week and the month of Corsi's cascade."""


class Har:
    """Heterogeneous autoregression of log range volatility, with empirical residual quantiles.

    ``ln s(t+1..t+h) = a + b·ln s(1) + c·ln s(5) + d·ln s(22)``, s(k) the root of the mean range
    variance of the newest k candles; Corsi, "A simple approximate long-memory model of realized
    volatility" (2009), in logs. The variance is scaled so that its ratio to the realised one has
    mean 1 in the past, which is what QLIKE rewards; the distribution of the return is that of
    the past moves over their own volatility.
    """

    name = "HAR"

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        out = walk.blank(len(candles))
        log_close = np.log(candles[:, 3])
        ranges = range_variances(candles)
        inputs = har_inputs(ranges)  # (n, 4)
        for start, stop in walk.blocks(len(candles)):
            rows = slice(start - walk.first, stop - walk.first)
            for j, step in enumerate(walk.horizons):
                known = slice(SPANS[-1], start - step + 1)  # the outcome is known
                realised = mean_ahead(ranges, step)[known]
                variance = fitted_variance(inputs, known, realised)[:stop]
                scale = np.sqrt(variance)
                shape = past_moves(log_close, step)[known] / scale[known]
                out.log_return[rows, j] = scale[start:stop, None] * np.quantile(shape, walk.levels)
                out.volatility[rows, j] = scale[start:stop]
        return out


def har_inputs(variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 and the log volatilities of the three spans, shape (n, 4); NaN in the warm-up."""
    logs = [_log_volatility(trailing_mean(variances, span)) for span in SPANS]
    return np.column_stack([np.ones(len(variances)), *logs])


def fitted_variance(
    inputs: NDArray[np.float64], known: slice, realised: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the variance forecast at every candle, shape (n,), fitted on the known outcomes.

    Args:
        inputs: of the regression, shape (n, 4).
        known: the candles whose outcome is known.
        realised: that outcome, the mean range variance ahead, one for each known candle.
    """
    weights = np.linalg.lstsq(inputs[known], _log_volatility(realised), rcond=None)[0]
    # row by row: a matrix product may round a row by how many others there are
    variance = np.exp(2 * np.sum(inputs * weights, axis=1))  # (n,)
    scaled: NDArray[np.float64] = variance * np.mean(realised / variance[known])
    return scaled


def _log_volatility(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = np.log(np.maximum(variance, TINY_VARIANCE))
    return 0.5 * logs
