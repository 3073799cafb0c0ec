"""A model over a whole data set, candle by candle, through the code that serves the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.forecaster import Forecaster, Prediction
from trainer import forecast_table
from trainer.scoring import Symbol

BATCH: Final = 1024
"""Windows of one model call."""


def run(
    forecaster: Forecaster,
    symbols: Mapping[str, Symbol],
    start_ms: int | None = None,
    stop_ms: int | None = None,
    advance: Callable[[str], object] = str,
) -> pd.DataFrame:
    """Return the forecasts after every candle that ends a full window, by symbol, time and step.

    A symbol with too short a history has no rows.

    Args:
        forecaster: the model, as the stream runs it.
        symbols: candles by symbol.
        start_ms: forecast from candles that open then (UTC) or later; all by default.
        stop_ms: forecast from candles that open before then; all by default.
        advance: called with each symbol that is done; by default nothing comes of it.
    """
    tables = []
    for name, symbol in symbols.items():
        tables.append(_run_symbol(forecaster, name, symbol, start_ms, stop_ms))
        advance(name)
    return pd.concat(tables, ignore_index=True)


def _run_symbol(
    forecaster: Forecaster, name: str, symbol: Symbol, start_ms: int | None, stop_ms: int | None
) -> pd.DataFrame:
    before = forecaster.window_length - 1  # candles of a window before its last
    stop = len(symbol.open_ms) if stop_ms is None else _at(symbol, stop_ms)
    start = max(before, 0 if start_ms is None else _at(symbol, start_ms))
    last = slice(min(start, stop), stop)  # of the windows' last candles
    return forecast_table.build(
        name,
        symbol.open_ms[last],
        symbol.candles[last, 3],  # in 64 bits, as the stream takes it from the message
        forecaster.horizons,
        forecaster.quantile_levels,
        predict_all(forecaster, symbol.candles[max(last.start - before, 0) : stop]),
    )


def _at(symbol: Symbol, time_ms: int) -> int:
    return int(np.searchsorted(symbol.open_ms, time_ms))


def predict_all(forecaster: Forecaster, candles: NDArray[np.float64]) -> Prediction:
    """Return the predictions after candles T-1 to n-1, of candles (n, 5); none when n < T.

    The candles pass through 32 bits, as every window does.
    """
    length = forecaster.window_length
    levels, horizons = len(forecaster.quantile_levels), len(forecaster.horizons)
    if len(candles) < length:
        return Prediction(np.empty((0, horizons, levels)), np.empty((0, horizons)))
    held = candles.astype(np.float32).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(held, length, axis=0)  # (B, 5, T)
    parts = [
        forecaster.predict(np.ascontiguousarray(windows[i : i + BATCH].transpose(0, 2, 1)))
        for i in range(0, len(windows), BATCH)
    ]
    return Prediction(
        np.concatenate([part.log_return for part in parts]),
        np.concatenate([part.volatility for part in parts]),
    )
