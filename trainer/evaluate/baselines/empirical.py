"""Baselines without a fitted model: persistence, drift, rolling quantiles, EWMA."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from shared.forecaster import Prediction
from trainer.evaluate.baselines.walk import Walk, only_median, past_moves, trailing_mean
from trainer.evaluate.realised import mean_ahead, range_variances

TINY_VARIANCE: Final = 1e-12
"""Least variance of a candle: a market that stood still has none, and logs and ratios need one."""


class Persistence:
    """Tomorrow = today: the point forecast that is so hard to beat."""

    name = "persistence"

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        origins = max(len(candles) - walk.first, 0)
        return only_median(walk, np.zeros((origins, len(walk.horizons))))


class Drift:
    """The mean log return of all the past, times the step."""

    name = "drift"

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        log_close = np.log(candles[:, 3])
        origins = np.arange(walk.first, len(candles))
        mean = (log_close[origins] - log_close[0]) / origins  # (B,), per candle
        return only_median(walk, mean[:, None] * np.asarray(walk.horizons))


class RollingQuantiles:
    """The empirical quantiles of the newest 250 overlapping log returns ("historical simulation").

    The volatility is the root of the mean range variance of the same candles.
    """

    name = "rolling quantiles"

    def __init__(self, length: int = 250) -> None:
        """Look back over ``length`` moves, which must lie before ``Walk.first``."""
        self.length = length

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        out = walk.blank(len(candles))
        log_close = np.log(candles[:, 3])
        for j, step in enumerate(walk.horizons):
            moves = past_moves(log_close, step)  # move i ends at candle i + step
            windows = np.lib.stride_tricks.sliding_window_view(moves, self.length)
            ending = windows[walk.first - step - self.length + 1 :]  # (B, length)
            out.log_return[:, j] = np.quantile(ending, walk.levels, axis=1).T
        variance = trailing_mean(range_variances(candles)[1:], self.length)  # of candle 1, 2, …
        out.volatility[:] = np.sqrt(variance[walk.first - 1 :])[:, None]
        return out


class Ewma:
    """Exponentially weighted variance of close-to-close returns, decay 0.94.

    RiskMetrics, Technical Document (J.P. Morgan, 1996). The distribution is filtered: the past
    moves over their own forecast volatility, times today's.
    """

    name = "EWMA"

    def __init__(self, decay: float = 0.94) -> None:
        self.decay = decay

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        out = walk.blank(len(candles))
        log_close = np.log(candles[:, 3])
        variance = ewma_variance(np.diff(log_close), self.decay)  # (n,), for the next candle
        scale = np.sqrt(variance)
        ranges = range_variances(candles)
        for start, stop in walk.blocks(len(candles)):
            rows = slice(start - walk.first, stop - walk.first)
            for j, step in enumerate(walk.horizons):
                known = slice(20, start - step + 1)  # after warm-up; the outcome is known
                shape = past_moves(log_close, step)[known] / scale[known]
                realised = mean_ahead(ranges, np.arange(known.start, known.stop), step)
                factor = np.mean(realised / variance[known])
                out.log_return[rows, j] = scale[start:stop, None] * np.quantile(shape, walk.levels)
                out.volatility[rows, j] = np.sqrt(factor) * scale[start:stop]
        return out


def ewma_variance(returns: NDArray[np.float64], decay: float) -> NDArray[np.float64]:
    """Return the variance forecast after each candle, shape (n,), of ``returns`` (n - 1,).

    It starts from the square of the first return, the only one known by then.
    """
    squares = np.maximum(returns**2, TINY_VARIANCE)
    first = squares[0]
    smooth, _ = lfilter([1 - decay], [1.0, -decay], squares, zi=[decay * first])
    return np.concatenate([[first], smooth])
