"""HAR on range volatility, one regression a symbol and horizon."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.forecaster import Prediction
from trainer.evaluate.baselines.empirical import TINY_VARIANCE
from trainer.evaluate.baselines.walk import Walk, past_moves, trailing_mean
from trainer.evaluate.realised import mean_ahead, range_variances

SPANS: Final = (1, 5, 22)
"""Candles of the day, the week and the month of Corsi's cascade."""

LEAST_SHARE: Final = 0.2
"""Least forecast of the form in levels, as a share of the median volatility."""


class Har:
    """Heterogeneous autoregression of range volatility, with empirical residual quantiles.

    ``f(s(t+1..t+h)) = a + b·f(s(1)) + c·f(s(5)) + d·f(s(22))``, s(k) the root of the mean range
    variance of the newest k candles; Corsi, "A simple approximate long-memory model of realized
    volatility" (2009). f is the logarithm, by far the stronger form, or nothing with
    ``in_levels``. The variance is scaled so that its ratio to the realised one has mean 1 in the
    past, which is what QLIKE rewards; the distribution of the return is that of the past moves
    over their own volatility.
    """

    def __init__(self, *, in_levels: bool = False) -> None:
        self.in_levels = in_levels

    @property
    def name(self) -> str:
        return "HAR in levels" if self.in_levels else "HAR"

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        out = walk.blank(len(candles))
        log_close = np.log(candles[:, 3])
        ranges = range_variances(candles)
        inputs = har_inputs(ranges, in_levels=self.in_levels)  # (n, 4)
        for start, stop in walk.blocks(len(candles)):
            rows = slice(start - walk.first, stop - walk.first)
            for j, step in enumerate(walk.horizons):
                known = slice(SPANS[-1], start - step + 1)  # the outcome is known
                realised = mean_ahead(ranges, np.arange(known.start, known.stop), step)
                variance = fitted_variance(inputs, known, realised, in_levels=self.in_levels)
                scale = np.sqrt(variance)
                shape = past_moves(log_close, step)[known] / scale[known]
                out.log_return[rows, j] = scale[start:stop, None] * np.quantile(shape, walk.levels)
                out.volatility[rows, j] = scale[start:stop]
        return out


def har_inputs(variances: NDArray[np.float64], *, in_levels: bool = False) -> NDArray[np.float64]:
    """Return 1 and the (log) volatilities of the spans, shape (n, 4); NaN in the warm-up."""
    means = (trailing_mean(variances, span) for span in SPANS)
    terms = [_volatility(mean, in_levels=in_levels) for mean in means]
    return np.column_stack([np.ones(len(variances)), *terms])


def fitted_variance(
    inputs: NDArray[np.float64],
    known: slice,
    realised: NDArray[np.float64],
    *,
    in_levels: bool = False,
) -> NDArray[np.float64]:
    """Return the variance forecast at every candle, shape (n,), fitted on the known outcomes.

    Args:
        inputs: of the regression, shape (n, 4).
        known: the candles whose outcome is known.
        realised: that outcome, the mean range variance ahead, one for each known candle.
        in_levels: whether inputs are volatilities and not their logarithms.
    """
    target = _volatility(realised, in_levels=in_levels)
    weights = np.linalg.lstsq(inputs[known], target, rcond=None)[0]
    # row by row: a matrix product may round a row by how many others there are
    fitted = np.sum(inputs * weights, axis=1)  # (n,)
    if in_levels:  # a line may cross 0, a volatility may not
        variance = np.maximum(fitted, LEAST_SHARE * np.median(fitted[known])) ** 2
    else:
        variance = np.exp(2 * fitted)
    scaled: NDArray[np.float64] = variance * np.mean(realised / variance[known])
    return scaled


def _volatility(variance: NDArray[np.float64], *, in_levels: bool) -> NDArray[np.float64]:
    root = np.sqrt(np.maximum(variance, TINY_VARIANCE))
    return root if in_levels else np.log(root)
