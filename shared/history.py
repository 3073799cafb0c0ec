"""Histories of candles: the bundled real ones, or those of any file that people have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np

from shared.files.collector import Collector, Rows
from shared.files.series import History, HistoryError

BUNDLED: Final = "bokeh_sampledata/_data/stocks.csv.gz"
"""Name of the bundled candles."""

BUNDLED_SYMBOLS: Final = ("AAPL", "GOOG", "IBM", "MSFT")
"""Those with years of daily candles; the data holds FB too, with 196."""

Progress = Callable[[int, int], object]
"""Called with the bytes of the files that are read, and with all of them."""


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a file; what is not said is found out, or refused."""

    symbols: tuple[str, ...] = ()  # the ones to keep, all if empty
    symbol: str | None = None  # of a file without a column for it
    columns: Mapping[str, str] = field(default_factory=dict)  # role -> name of its column
    rename: Mapping[str, str] = field(default_factory=dict)  # a symbol of the file -> ours
    date_format: str | None = None  # as strptime has it
    timezone: str | None = None  # IANA name, of times without a zone and of dates
    decimal: str | None = None  # the decimal mark, . or ,
    allow_bad_rows: bool = False  # whether one rule may reject many rows


def bundled(symbols: Sequence[str] = BUNDLED_SYMBOLS) -> History:
    """Return real daily candles of 2000 to 2013, scaled by Adj Close; no row is rejected.

    Raises:
        HistoryError: when the package that carries them is missing, or a symbol.
    """
    import pandas as pd  # noqa: PLC0415 -- takes a second, which other sources do without

    try:
        data = files("bokeh_sampledata") / "_data" / "stocks.csv.gz"
    except ModuleNotFoundError as error:
        raise HistoryError(
            'the bundled candles are missing: pip install "candlecast[local]"'
        ) from error
    with as_file(data) as path:
        table = pd.read_csv(path, float_precision="round_trip")
    codes, names = pd.factorize(table["Ticker"])
    days = pd.to_datetime(table["Date"], format="%Y-%m-%d").to_numpy()
    prices = [table[name].to_numpy(np.float64) for name in ("Open", "High", "Low", "Close")]
    factor = table["Adj Close"].to_numpy(np.float64) / prices[3]
    collector = Collector("1d", symbols)
    collector.add(
        Rows(
            tuple(names),
            codes.astype(np.int32),
            days.astype("datetime64[ms]").astype(np.int64),
            None,
            (*(price * factor for price in prices), table["Volume"].to_numpy(np.float64)),
            np.arange(2, len(table) + 2, dtype=np.int64),
        )
    )
    return collector.history(BUNDLED)


def from_file(
    path: Path,
    interval: str,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> History:
    """Return the candles in a file, a folder or those that a glob matches.

    Any form, separator, packing, names of columns and times that mean one thing are read, told by
    content (docs/data.md).

    Args:
        path: a file of CSV, JSON, Parquet or Feather, packed or not; a folder; or a glob.
        interval: of all its candles, such as ``1d``.
        options: what the user says about it.
        progress: called as it is read.

    Raises:
        HistoryError: when it cannot be read, may mean two things, is of another interval, or a
            rule rejects many rows; a single row that breaks a rule is in ``rejected`` instead.
    """
    history: History = _reader().read(path, interval, options or ReadOptions(), progress)
    return history


def interval_of(path: Path, options: ReadOptions | None = None) -> str:
    """Return the interval that most candles of a file have.

    Raises:
        HistoryError: when it cannot be read, or is not an interval of ours.
    """
    interval: str = _reader().interval_of(path, options or ReadOptions())
    return interval


def _reader() -> ModuleType:
    try:
        from shared.files import reader  # noqa: PLC0415 -- needs pyarrow, which serving does without
    except ImportError as error:
        raise HistoryError(
            f'files need one more package ({error.name}): pip install "candlecast[files]"'
        ) from error
    return reader
