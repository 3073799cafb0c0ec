"""Back-test: forecasts after every candle of a data set, by the code that serves the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.calibration import Grid, calibrate, grid_of, learn, quantiles
from shared.candles import INTERVALS_MS
from shared.forecaster import Floats, Forecaster, Prediction
from trainer.dataset import SymbolCandles, by_length, windows_at
from trainer.evaluate import forecast_table

BATCH: Final = 128
"""Most windows in one model call, as in the worker."""

MIXED: Final = 2_654_435_761
"""Factor of Knuth's multiplicative hash (The Art of Computer Programming 3, 6.4), of 32 bits."""

PRIME: Final = 10_007


def run(
    forecaster: Forecaster,
    symbols: Mapping[str, SymbolCandles],
    start_ms: int | None = None,
    stop_ms: int | None = None,
    advance: Callable[[str], object] = str,
    interval: str = "1d",
    every: int = 1,
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
        every: forecast from one of so many candles, by a hash of time and symbol: the same ones
            whatever the model and the span, at all times of day.
    """
    tables = []
    for name, symbol in symbols.items():
        span = _span(forecaster, symbol, start_ms, stop_ms)
        ticks = symbol.open_ms[span] // INTERVALS_MS[interval] + crc32(name.encode()) % PRIME
        last = span.start + np.flatnonzero((ticks * MIXED % (1 << 32) >> 16) % every == 0)
        raw = _predict(forecaster, symbol, last, interval)
        tables.append(_table(forecaster, name, symbol, last, raw))
        advance(name)
    return pd.concat(tables, ignore_index=True)


def run_calibrated(
    forecaster: Forecaster,
    symbols: Mapping[str, SymbolCandles],
    advance: Callable[[str], object] = str,
    settled: Callable[[str], object] = str,
    interval: str = "1d",
) -> pd.DataFrame:
    """Return the forecasts as a worker publishes them: calibrated, and the model's own beside.

    Each series learns from the outcomes of its own forecasts before, from its first full window on.

    Args:
        forecaster: the model, as the stream runs it.
        symbols: candles by symbol.
        advance: called with the name of each symbol that the model is done with.
        settled: called for each round of the calibration: a candle of every symbol.
        interval: of the candles.
    """
    spans = {name: _span(forecaster, symbol, None, None) for name, symbol in symbols.items()}
    made = {}
    for name, symbol in symbols.items():
        made[name] = predict_all(forecaster, symbol, spans[name].start, spans[name].stop, interval)
        advance(name)
    grid = grid_of(tuple(forecaster.horizons), tuple(forecaster.quantile_levels))
    closes = [symbol.candles[spans[name], 3] for name, symbol in symbols.items()]
    learned = walk(grid, [raw.log_return for raw in made.values()], closes, settled)
    tables = [
        _table(
            forecaster, name, symbols[name], spans[name],
            Prediction(calibrated, raw.volatility), raw,
        )
        for (name, raw), calibrated in zip(made.items(), learned, strict=True)
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def walk(
    grid: Grid,
    log_return: Sequence[Floats],
    closes: Sequence[NDArray[np.float64]],
    settled: Callable[[str], object] = str,
) -> list[NDArray[np.float64]]:
    """Return the calibrated quantiles of series, (T, H, Q) each, by the worker's own functions.

    Args:
        grid: the model's.
        log_return: the model's quantiles of each series, (T, H, Q), a forecast for each candle.
        closes: of those candles, (T,).
        settled: called for each round.
    """
    lengths = np.array([len(close) for close in closes])
    longest = int(lengths.max(initial=0))
    raw = np.zeros((len(closes), longest, len(grid.steps), len(grid.levels)), dtype=np.float32)
    close = np.ones((len(closes), longest))
    for at, (quantiles_of, closes_of) in enumerate(zip(log_return, closes, strict=True)):
        raw[at, : len(closes_of)] = quantiles_of
        close[at, : len(closes_of)] = closes_of
    state = np.repeat(grid.start()[None], len(closes), axis=0)  # (S, H, W)
    calibrated = np.zeros(raw.shape)
    for now in range(longest):
        due = [row for row, step in enumerate(grid.steps) if step <= now]
        alive = np.flatnonzero(lengths > now)
        owner, row = np.repeat(alive, len(due)), np.tile(due, len(alive)).astype(np.int64)
        if len(row):
            then = now - np.array(grid.steps)[row]
            outcome = np.log(close[owner, now] / close[owner, then])
            known = state[owner, row]
            state[owner, row] = learn(
                grid, known, row, outcome, raw[owner, then, row], np.zeros(len(row))
            )
        codes = calibrate(grid, state[alive], raw[alive, now])
        calibrated[alive, now] = quantiles(grid, raw[alive, now], codes)
        settled("")
    return [calibrated[at, :length] for at, length in enumerate(lengths)]


def rounds(forecaster: Forecaster, symbols: Mapping[str, SymbolCandles]) -> int:
    """Return how many rounds ``run_calibrated`` has."""
    spans = [_span(forecaster, symbol, None, None) for symbol in symbols.values()]
    return max((span.stop - span.start for span in spans), default=0)


def thinning(symbols: Mapping[str, SymbolCandles], start_ms: int, most: int) -> int:
    """Return the ``every`` of ``run`` that leaves ``most`` of the candles from a time on."""
    candles = sum(len(held.open_ms) - _at(held, start_ms) for held in symbols.values())
    return max(1, -(-candles // most))


def _span(
    forecaster: Forecaster, symbol: SymbolCandles, start_ms: int | None, stop_ms: int | None
) -> slice:
    """Return the places of the windows' last candles."""
    before = forecaster.window_length - 1  # candles of a window before its last
    stop = len(symbol.open_ms) if stop_ms is None else _at(symbol, stop_ms)
    start = max(before, 0 if start_ms is None else _at(symbol, start_ms))
    return slice(min(start, stop), stop)


def _table(
    forecaster: Forecaster,
    name: str,
    symbol: SymbolCandles,
    last: slice | NDArray[np.int64],
    made: Prediction,
    raw: Prediction | None = None,
) -> pd.DataFrame:
    return forecast_table.build(
        name,
        symbol.open_ms[last],
        symbol.candles[last, 3],  # in 64 bits, as the stream takes it from the message
        forecaster.horizons,
        forecaster.quantile_levels,
        made,
        raw,
    )


def _at(symbol: SymbolCandles, time_ms: int) -> int:
    return int(np.searchsorted(symbol.open_ms, time_ms))


def predict_all(
    forecaster: Forecaster, symbol: SymbolCandles, first: int, stop: int, interval: str = "1d"
) -> Prediction:
    """Return the predictions made at candles ``first`` to ``stop - 1``; perhaps none.

    Each is of as many candles as a worker's window would hold by then, had it seen all of them.
    """
    return _predict(forecaster, symbol, np.arange(first, stop), interval)


def _predict(
    forecaster: Forecaster, symbol: SymbolCandles, last: NDArray[np.int64], interval: str
) -> Prediction:
    """Return the predictions made at some candles, rising; see ``predict_all``."""
    levels, horizons = len(forecaster.quantile_levels), len(forecaster.horizons)
    parts = [Prediction(np.empty((0, horizons, levels)), np.empty((0, horizons)))]
    parts += [
        forecaster.predict(*inputs)
        for length, at in by_length(last, forecaster.lengths(interval))
        for inputs in windows_at(symbol, length, at, BATCH)
    ]
    return Prediction(
        np.concatenate([part.log_return for part in parts]),
        np.concatenate([part.volatility for part in parts]),
    )
