"""Realised variance of candles, from their ranges, and its mean over the candles ahead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.features import range_variance

Array = NDArray[np.float64]


def range_variances(candles: Array) -> Array:
    """Return the range variance of each of the candles (n, 5), shape (n,); NaN for the first.

    See ``trainer.features.range_variance`` for the formula.
    """
    opened, high, low, close = np.log(candles[:, :4]).T
    variances = np.full(len(candles), np.nan)
    variances[1:] = range_variance(opened[1:] - close[:-1], (close - opened)[1:], (high - low)[1:])
    return variances


def mean_ahead(variances: Array, at: NDArray[np.int64], steps: NDArray[np.int64] | int) -> Array:
    """Return the mean of the ``steps`` variances after each position, shaped as both broadcast.

    Args:
        variances: of each candle, (n,); NaN counts as 0.
        at: positions of the last known candles.
        steps: candles ahead; ``at + steps`` must exist.
    """
    total = np.cumsum(np.nan_to_num(variances))  # up to and with each candle
    mean: Array = (total[at + steps] - total[at]) / steps
    return mean
