"""Table of forecasts, as back-test and baselines write it: a row for each symbol, time and step."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.forecaster import Prediction, to_prices
from shared.forecasts import MEDIAN

KEYS: Final = ["symbol", "open_ms", "step"]
"""Columns that make a row unique; ``open_ms`` is that of the last candle used, UTC."""

SUFFIXES: Final = (".parquet", ".csv")
"""Endings of the files that can be written."""


class TableError(Exception):
    """A table of forecasts that cannot be written."""


def quantile_column(level: float) -> str:
    """Return the name of a quantile's column: 0.05 is ``q0.05``."""
    return f"q{level:g}"


def levels_of(table: pd.DataFrame) -> tuple[float, ...]:
    """Return the quantile levels that a table has columns for, rising."""
    return tuple(sorted(float(name[1:]) for name in table.columns if _is_quantile(name)))


def build(
    symbol: str,
    open_ms: NDArray[np.int64],
    last_close: NDArray[np.float64],
    horizons: tuple[int, ...],
    levels: tuple[float, ...],
    prediction: Prediction,
    raw: Prediction | None = None,
) -> pd.DataFrame:
    """Return the rows of one symbol, by time and step.

    Args:
        symbol: of all rows.
        open_ms: of the last candle that each forecast used, shape (B,).
        last_close: of that candle, shape (B,), quote currency.
        horizons: candles ahead, H of them.
        levels: of the quantiles, Q of them, the median among them.
        prediction: log returns (B, H, Q) and volatility (B, H); NaN without a forecast.
        raw: the model's own, where these are calibrated; in columns like ``raw_q0.05``.
    """
    prices = to_prices(last_close, prediction)  # (B, H, Q)
    steps = len(horizons)
    columns: dict[str, object] = {
        "symbol": np.full(len(open_ms) * steps, symbol, dtype=object),
        "open_ms": np.repeat(open_ms, steps),
        "step": np.tile(np.asarray(horizons, dtype=np.int64), len(open_ms)),
        "last_close": np.repeat(last_close, steps),
        "predicted_close": prices[:, :, levels.index(MEDIAN)].ravel(),
    }
    for i, level in enumerate(levels):
        columns[quantile_column(level)] = prices[:, :, i].ravel()
    if raw is not None:
        own = to_prices(last_close, raw)
        for i, level in enumerate(levels):
            columns[f"raw_{quantile_column(level)}"] = own[:, :, i].ravel()
    columns["volatility"] = prediction.volatility.ravel()
    return pd.DataFrame(columns)


def check_suffix(path: Path) -> None:
    """Raise ``TableError`` unless the file's ending is one of ``SUFFIXES``."""
    if path.suffix not in SUFFIXES:
        raise TableError(f"{path}: expected a name ending in {' or '.join(SUFFIXES)}")


def prepare(path: Path) -> None:
    """Make the folder of a table to be written, so that hours of work do not end in an error.

    Raises:
        TableError: for another ending than ``SUFFIXES``, or when the file cannot be written.
        ModuleNotFoundError: when the package that writes Parquet is missing.
    """
    check_suffix(path)
    if path.suffix == ".parquet":
        import_module("pyarrow")  # pandas names what it lacks at the end alone, and no extra
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise TableError(f"{path}: cannot be written: {error.strerror or error}") from error


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or Parquet, by the file's ending; floats keep every bit.

    Raises:
        TableError: for another ending, or when the file cannot be written.
    """
    check_suffix(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
    except OSError as error:
        raise TableError(f"{path}: cannot be written: {error.strerror or error}") from error


def _is_quantile(name: object) -> bool:
    return isinstance(name, str) and name.startswith("q0.")
