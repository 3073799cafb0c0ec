"""HAR on range volatility, one regression a symbol and horizon."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS
from shared.forecaster import Prediction
from trainer.evaluate.baselines.empirical import TINY_VARIANCE
from trainer.evaluate.baselines.walk import Walk, past_moves, trailing_mean
from trainer.evaluate.realised import mean_ahead, range_variances

SPANS: Final = (1, 5, 22)
"""Candles of the day, the week and the month of Corsi's cascade."""

LEAST_OF_MONTH: Final = 0.01
"""Least variance, as a share of the month's mean, as the features have it."""

FEW_DAYS: Final = 2
"""Days of the general mean that a time of day's mean begins with."""

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

    No variance counts as less than 1 % of its month's mean: the logarithm of a candle without a
    range would rule the regression.
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
        floor = least_variance(ranges)
        inputs = har_inputs(ranges, in_levels=self.in_levels)  # (n, 4)
        for start, stop in walk.blocks(len(candles)):
            rows = slice(start - walk.first, stop - walk.first)
            for j, step in enumerate(walk.horizons):
                known = slice(SPANS[-1], start - step + 1)  # the outcome is known
                ahead = mean_ahead(ranges, np.arange(known.start, known.stop), step)
                realised = np.maximum(ahead, floor[known])
                terms = np.column_stack([inputs, *self._more(ranges, realised, known)])
                variance = fitted_variance(terms, known, realised, in_levels=self.in_levels)
                scale = np.sqrt(np.maximum(variance, floor))
                shape = past_moves(log_close, step)[known] / scale[known]
                out.log_return[rows, j] = scale[start:stop, None] * np.quantile(shape, walk.levels)
                out.volatility[rows, j] = scale[start:stop]
        return out

    def _more(
        self,
        ranges: NDArray[np.float64],
        realised: NDArray[np.float64],
        known: slice,
    ) -> list[NDArray[np.float64]]:
        """Return further terms of the regression, each (n,), of what is known alone."""
        del ranges, realised, known
        return []


class HarTimeOfDay(Har):
    """HAR in logarithms that knows the time of day.

    Its further terms are the log of the mean variance that has followed this time of day, over the
    horizon, and that has been up to it, over the spans of HAR, on all days so far.
    """

    def __init__(self, open_ms: NDArray[np.int64] | None = None) -> None:
        """Take the candles' opening times, UTC (n,); without them it is plain HAR."""
        super().__init__()
        self._open_ms = open_ms

    @property
    def name(self) -> str:
        return "HAR with time of day"

    def timed(self, open_ms: NDArray[np.int64]) -> HarTimeOfDay:
        """Return the method for candles of these opening times."""
        return HarTimeOfDay(open_ms)

    def _more(
        self,
        ranges: NDArray[np.float64],
        realised: NDArray[np.float64],
        known: slice,
    ) -> list[NDArray[np.float64]]:
        if self._open_ms is None:
            return []
        _, slots = np.unique(self._open_ms % DAY_MS, return_inverse=True)
        if not np.ptp(slots[known]):  # daily candles have no time of day
            return []
        past = [np.nan_to_num(trailing_mean(ranges, span))[known] for span in SPANS]
        level = float(past[0].mean())
        count = np.bincount(slots[known], minlength=slots.max() + 1) + FEW_DAYS
        found = []
        for values in (realised, *past):
            sums = np.bincount(slots[known], weights=values, minlength=slots.max() + 1)
            mean = (sums + FEW_DAYS * level) / count
            found.append(0.5 * np.log(np.maximum(mean, LEAST_OF_MONTH * level))[slots])
        return found


def least_variance(variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least variance that counts at each candle, (n,): 1 % of the month's mean."""
    month = np.nan_to_num(trailing_mean(variances, SPANS[-1]))
    return np.maximum(LEAST_OF_MONTH * month, TINY_VARIANCE)


def har_inputs(variances: NDArray[np.float64], *, in_levels: bool = False) -> NDArray[np.float64]:
    """Return 1 and the (log) volatilities of the spans, shape (n, 4); NaN in the warm-up."""
    floor = least_variance(variances)
    means = (np.maximum(trailing_mean(variances, span), floor) for span in SPANS)
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
