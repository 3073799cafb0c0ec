"""Port of baselines: one symbol's candles in, one causal forecast for each candle out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.forecaster import Prediction
from shared.forecasts import MEDIAN
from trainer.evaluate import forecast_table


@dataclass(frozen=True)
class Walk:
    """How a baseline is walked over candles 0 to n-1.

    Forecasts are made at the close of candles ``first`` to n-1. Parameters are fitted at
    ``first`` and every ``refit`` candles after it, on the candles up to and with that one.
    """

    horizons: tuple[int, ...] = (1, 5, 10)  # candles ahead, rising; H of them
    levels: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # Q of them
    first: int = 500  # some two years of daily candles
    refit: int = 126  # half a year of daily candles

    def blocks(self, count: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, stop) of origins that share a fit, over ``count`` candles."""
        for start in range(self.first, count, self.refit):
            yield start, min(start + self.refit, count)

    def blank(self, count: int) -> Prediction:
        """Return a prediction of NaN for the origins of ``count`` candles."""
        origins, horizons = max(count - self.first, 0), len(self.horizons)
        return Prediction(
            np.full((origins, horizons, len(self.levels)), np.nan),
            np.full((origins, horizons), np.nan),
        )


class Baseline(Protocol):
    """A method that forecasts one symbol by itself.

    ``forecast`` is causal: what it gives for an origin depends on the candles up to and with
    that origin alone, so cutting or changing later ones changes nothing.
    """

    @property
    def name(self) -> str:
        """As the report shows it."""
        ...

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        """Return the forecasts made at candles ``walk.first`` to n-1, B of them.

        Args:
            candles: shape (n, 5): open, high, low, close, volume; one a row, oldest first.
            walk: horizons, levels and refits.

        Returns:
            Log returns from the origin's close (B, H, Q) and volatility per candle (B, H). NaN
            where the method has nothing to say: point methods fill the median alone.
        """
        ...


@runtime_checkable
class Timed(Protocol):
    """A baseline that reads the candles' times."""

    def timed(self, open_ms: NDArray[np.int64]) -> Baseline:
        """Return the method for candles of these opening times, UTC (n,)."""
        ...


def forecast_symbol(
    baseline: Baseline,
    symbol: str,
    open_ms: NDArray[np.int64],
    candles: NDArray[np.float64],
    walk: Walk,
) -> pd.DataFrame:
    """Return a baseline's table of one symbol; empty when its history is too short.

    Args:
        baseline: the method.
        symbol: whose candles these are.
        open_ms: opening times, shape (n,), UTC.
        candles: shape (n, 5).
        walk: horizons, levels and refits.
    """
    prediction = walked(baseline, open_ms, candles, walk)
    first = min(walk.first, len(candles))
    return forecast_table.build(
        symbol, open_ms[first:], candles[first:, 3], walk.horizons, walk.levels, prediction
    )


def walked(
    baseline: Baseline, open_ms: NDArray[np.int64], candles: NDArray[np.float64], walk: Walk
) -> Prediction:
    """Return a baseline's forecasts of one symbol, told its times if it reads them.

    There are none where the history is too short. For the arguments see ``forecast_symbol``.
    """
    if len(candles) <= walk.first:
        return walk.blank(len(candles))
    method = baseline.timed(open_ms) if isinstance(baseline, Timed) else baseline
    return method.forecast(candles, walk)


def past_moves(log_close: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Return the log returns over ``step`` candles, shape (n - step,), by their origin."""
    return log_close[step:] - log_close[:-step]


def trailing_mean(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the mean of the newest ``count`` values at each one, NaN before there are as many.

    Summed window by window, not by running totals, so that no earlier value leaves a trace.
    """
    out = np.full(len(values), np.nan)
    if len(values) >= count:
        out[count - 1 :] = np.lib.stride_tricks.sliding_window_view(values, count).mean(axis=1)
    return out


def only_median(walk: Walk, medians: NDArray[np.float64]) -> Prediction:
    """Return the prediction of a point method, of log returns ``medians`` (B, H)."""
    log_return = np.full((*medians.shape, len(walk.levels)), np.nan)
    log_return[:, :, walk.levels.index(MEDIAN)] = medians
    return Prediction(log_return, np.full(medians.shape, np.nan))
