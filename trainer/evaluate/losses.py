"""Losses of forecasts against outcomes, row by row, and calibration over rows. Pure.

Losses are of log returns from the last close, so that symbols of any price can be pooled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trainer.evaluate.forecast_table import KEYS, levels_of, quantile_column
from trainer.evaluate.realised import mean_ahead, range_variances

MAX_QLIKE: Final = 20.0
"""Most that one forecast's QLIKE counts."""


class Symbol(Protocol):
    """One symbol's candles."""

    @property
    def open_ms(self) -> NDArray[np.int64]:
        """Opening times, shape (n,), UTC, rising."""
        ...

    @property
    def candles(self) -> NDArray[np.float64]:
        """Open, high, low, close, volume, shape (n, 5)."""
        ...


def join_outcomes(table: pd.DataFrame, symbols: Mapping[str, Symbol]) -> pd.DataFrame:
    """Return the rows whose outcome is known, with it, in the table's order.

    Adds ``close``, that of the candle ``step`` after the last one used, and
    ``realised_variance``, the mean range variance of the candles between (per candle). Rows
    beyond the data's end fall out: their number is the difference in length.

    Raises:
        KeyError: when the table holds a symbol or a time that the candles lack.
    """
    parts = [
        _with_outcomes(rows, str(name), symbols[str(name)])
        for name, rows in table.groupby("symbol", sort=False)
    ]
    if not parts:
        return table.assign(close=table["last_close"], realised_variance=table["volatility"])
    return pd.concat(parts).sort_index()


def _with_outcomes(rows: pd.DataFrame, name: str, symbol: Symbol) -> pd.DataFrame:
    times, step = rows["open_ms"].to_numpy(), rows["step"].to_numpy()
    at = np.searchsorted(symbol.open_ms, times)
    newest = len(symbol.open_ms) - 1
    exists = symbol.open_ms[np.minimum(at, newest)] == times
    if not exists.all():
        raise KeyError(f"{name}: no candle at open_ms {times[~exists][0]}")
    is_known = at + step <= newest
    at, step, rows = at[is_known], step[is_known], rows[is_known]
    return rows.assign(
        close=symbol.candles[at + step, 3],
        realised_variance=mean_ahead(range_variances(symbol.candles), at, step),
    )


def losses(joined: pd.DataFrame) -> pd.DataFrame:
    """Return each row's losses, with its symbol, open_ms and step; NaN without a forecast.

    ``pinball``, ``crps``, ``qlike`` as the functions below; ``squared`` and ``absolute`` are the
    errors of the predicted close as log returns, ``price_squared`` and ``price_absolute`` in the
    quote currency.
    """
    levels = levels_of(joined)
    last = joined["last_close"].to_numpy(dtype=np.float64)
    outcome = np.log(joined["close"].to_numpy(dtype=np.float64) / last)  # (N,)
    forecast = log_quantiles(joined)  # (N, Q)
    error = outcome - np.log(joined["predicted_close"].to_numpy(dtype=np.float64) / last)
    price_error = (joined["close"] - joined["predicted_close"]).to_numpy()
    by_level = pinball(outcome, forecast, np.asarray(levels))
    return joined[KEYS].assign(
        pinball=by_level.mean(axis=1),
        crps=crps(by_level, np.asarray(levels)),
        qlike=qlike(joined["realised_variance"].to_numpy(), joined["volatility"].to_numpy() ** 2),
        squared=error**2,
        absolute=np.abs(error),
        price_squared=price_error**2,
        price_absolute=np.abs(price_error),
    )


def log_quantiles(joined: pd.DataFrame) -> NDArray[np.float64]:
    """Return the quantiles as log returns from the last close, shape (N, Q)."""
    names = [quantile_column(level) for level in levels_of(joined)]
    prices: NDArray[np.float64] = joined[names].to_numpy(dtype=np.float64)
    relative = prices / joined["last_close"].to_numpy(dtype=np.float64)[:, None]
    returns: NDArray[np.float64] = np.log(relative)
    return returns


def pinball(
    outcome: NDArray[np.float64], forecast: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the pinball (quantile) loss at each level, shape (N, Q).

    ``(y - q)·level`` above the quantile, ``(q - y)·(1 - level)`` below; Koenker and Bassett,
    "Regression quantiles" (1978).

    Args:
        outcome: shape (N,).
        forecast: quantiles, shape (N, Q).
        levels: shape (Q,).
    """
    error = outcome[:, None] - forecast
    return np.maximum(levels * error, (levels - 1) * error)


def crps(by_level: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the CRPS by quantiles, shape (N,), of their pinball losses (N, Q).

    ``CRPS = 2 ∫ pinball(level) d level``, Gneiting and Raftery, "Strictly proper scoring rules"
    (2007), the integral by the levels' shares of (0, 1): each reaches half-way to its neighbours.
    """
    edges = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    return 2 * by_level @ np.diff(edges)


def qlike(realised: NDArray[np.float64], forecast: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the QLIKE loss of variance forecasts, shape (N,).

    ``r - ln r - 1``, r the realised variance over the forecast one.

    Patton, "Volatility forecast comparison using imperfect volatility proxies" (2011): its
    ranking survives the noise of the proxy. A market that stood still over the whole step has
    no variance to score: NaN. At most ``MAX_QLIKE``, so that one forecast cannot rule a mean.
    """
    ratio = np.where(realised > 0, realised, np.nan) / forecast
    return np.minimum(ratio - np.log(ratio) - 1, MAX_QLIKE)


def central_intervals(levels: Sequence[float]) -> dict[int, tuple[float, float]]:
    """Return the central intervals between quantile levels, the narrowest first.

    Returns:
        Nominal per cent, rounded, -> the levels of the ends: 80 -> (0.1, 0.9).
    """
    ends = [(low, high) for low in levels for high in levels if low < high]
    central = [(low, high) for low, high in ends if math.isclose(low + high, 1)]
    return {round(100 * (high - low)): (low, high) for low, high in reversed(central)}


def coverage(joined: pd.DataFrame, interval: tuple[float, float]) -> dict[str, float]:
    """Return the shares of outcomes ``inside``, ``below`` and ``above`` an interval.

    Args:
        joined: forecasts with their outcomes.
        interval: levels of its two ends. An outcome on an end counts as inside.
    """
    low, high = (joined[quantile_column(level)] for level in interval)
    below = float((joined["close"] < low).mean())
    above = float((joined["close"] > high).mean())
    return {"inside": 1.0 - below - above, "below": below, "above": above}


def reliability(joined: pd.DataFrame) -> NDArray[np.float64]:
    """Return the share of outcomes at or below each quantile, shape (Q,); ideally its level."""
    levels = levels_of(joined)
    return np.array([(joined["close"] <= joined[quantile_column(q)]).mean() for q in levels])


def pit_density(joined: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the histogram of the probability integral transform: edges (Q+2,), densities (Q+1,).

    Its bins lie between the quantile levels, so that nothing is assumed between or beyond them;
    a calibrated forecast has density 1 everywhere.
    """
    edges = np.concatenate([[0.0], levels_of(joined), [1.0]])
    below = np.concatenate([[0.0], reliability(joined), [1.0]])
    return edges, np.diff(below) / np.diff(edges)
