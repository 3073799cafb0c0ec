"""Back-test: forecasts after every candle of a data set, by the code that serves the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd

from shared.forecaster import Forecaster, Prediction
from trainer.dataset import SymbolCandles, by_length, windows_at
from trainer.evaluate import forecast_table

BATCH: Final = 128
"""Most windows in one model call, as in the worker."""


def run(
    forecaster: Forecaster,
    symbols: Mapping[str, SymbolCandles],
    start_ms: int | None = None,
    stop_ms: int | None = None,
    advance: Callable[[str], object] = str,
    interval: str = "1d",
) -> pd.DataFrame:
    """Return the forecasts after every candle that ends a full window, by symbol, time and step.

    A symbol with too short a history has no rows.

    Args:
        forecaster: the model, as the stream runs it.
        symbols: candles by symbol.
        start_ms: forecast from candles that open then (UTC) or later; all by default.
        stop_ms: forecast from candles that open before then; all by default.
        advance: called with the name of each symbol that is done.
        interval: of the candles.
    """
    tables = []
    for name, symbol in symbols.items():
        tables.append(_run_symbol(forecaster, name, symbol, start_ms, stop_ms, interval))
        advance(name)
    return pd.concat(tables, ignore_index=True)


def _run_symbol(
    forecaster: Forecaster,
    name: str,
    symbol: SymbolCandles,
    start_ms: int | None,
    stop_ms: int | None,
    interval: str,
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
        predict_all(forecaster, symbol, last.start, last.stop, interval),
    )


def _at(symbol: SymbolCandles, time_ms: int) -> int:
    return int(np.searchsorted(symbol.open_ms, time_ms))


def predict_all(
    forecaster: Forecaster, symbol: SymbolCandles, first: int, stop: int, interval: str = "1d"
) -> Prediction:
    """Return the predictions made at candles ``first`` to ``stop - 1``; perhaps none.

    Each is of as many candles as a worker's window would hold by then, had it seen all of them.
    """
    levels, horizons = len(forecaster.quantile_levels), len(forecaster.horizons)
    parts = [Prediction(np.empty((0, horizons, levels)), np.empty((0, horizons)))]
    parts += [
        forecaster.predict(candles, open_ms)
        for length, at in by_length(np.arange(first, stop), forecaster.lengths(interval))
        for candles, open_ms in windows_at(symbol, length, at, BATCH)
    ]
    return Prediction(
        np.concatenate([part.log_return for part in parts]),
        np.concatenate([part.volatility for part in parts]),
    )
