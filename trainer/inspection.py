"""What would be read of a file of candles: shown on the terminal, as JSON, or written tidy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.files import findings
from shared.files.findings import Finding, in_words
from shared.files.series import History, HistoryError, SymbolRows
from shared.intervals import closes_of

SHOWN: Final = 20
"""Symbols that are shown one by one."""

WIDTH: Final = 64
HEIGHT: Final = 8
"""Size of the plot, in characters."""

_LEVELS: Final = " ▁▂▃▄▅▆▇█"
_ENDINGS: Final = (".parquet", ".csv")


def print_history(history: History, odd: Sequence[Finding]) -> None:
    """Print how the file was understood, its symbols, what is odd, and the first one's closes."""
    console = Console()
    about = Table(
        title=escape(history.name), title_justify="left", box=box.SIMPLE, show_header=False
    )
    about.add_column(style="bold", no_wrap=True)
    about.add_column(overflow="fold")
    for name, value in _about(history).items():
        about.add_row(name, escape(value))
    console.print(about)
    symbols = Table(title="symbols", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("symbol", "candles", "first", "last", "low", "high"):
        symbols.add_column(name, justify="left" if name == "symbol" else "right")
    for rows in history.series[:SHOWN]:
        symbols.add_row(*(escape(str(value)) for value in _symbol(rows).values()))
    if len(history.series) > SHOWN:
        symbols.add_row(f"and {len(history.series) - SHOWN:,} more", "", "", "", "", "")
    console.print(symbols)
    told = list(findings.lines(history, odd))
    for line in told or ["nothing odd was found"]:
        console.print(f"  {escape(line)}", highlight=False)
    if history.series:
        rows = history.series[0]
        console.print(f"\n  close of {escape(rows.symbol)}")
        for line in plot(rows.candles[:, 3]):
            console.print(f"  {line}", highlight=False, markup=False, no_wrap=True)


def as_json(history: History, odd: Sequence[Finding]) -> str:
    """Return the same as JSON."""
    return json.dumps(
        {
            "name": history.name,
            **_about(history),
            "symbols": [_symbol(rows) for rows in history.series],
            "left_out": dict(history.left_out),
            "findings": list(findings.lines(history, odd)),
        },
        ensure_ascii=False,
        indent=2,
    )


def _about(history: History) -> dict[str, str]:
    notes = dict(note.split(": ", 1) for note in history.notes)
    first = min(int(rows.open_ms[0]) for rows in history.series)
    last = max(int(rows.open_ms[-1]) for rows in history.series)
    return {
        "interval": history.interval,
        "candles": f"{history.count:,} of {len(history.series):,} symbols",
        "span": f"{in_words(first)} to {in_words(last)} UTC",
        **notes,
    }


def _symbol(rows: SymbolRows) -> dict[str, str | int]:
    return {
        "symbol": rows.symbol,
        "candles": len(rows.open_ms),
        "first": in_words(int(rows.open_ms[0])),
        "last": in_words(int(rows.open_ms[-1])),
        "low": f"{rows.candles[:, 2].min():.6g}",
        "high": f"{rows.candles[:, 1].max():.6g}",
    }


def plot(values: NDArray[np.float64]) -> Iterator[str]:
    """Yield the lines of a small plot of positive numbers, on a logarithmic scale."""
    parts = np.array_split(np.log(values), min(WIDTH, len(values)))
    heights = np.array([part.mean() for part in parts])
    low, high = heights.min(), heights.max()
    steps = HEIGHT * (len(_LEVELS) - 1)
    scaled = (heights - low) / (high - low if high > low else 1.0) * (steps - 1) + 1
    filled = np.rint(scaled).astype(int)
    for line in reversed(range(HEIGHT)):
        level = np.clip(filled - line * (len(_LEVELS) - 1), 0, len(_LEVELS) - 1)
        scale = {HEIGHT - 1: high, 0: low}.get(line)
        label = "" if scale is None else f" {np.exp(scale):.6g}"
        yield "".join(_LEVELS[at] for at in level) + label


def write(history: History, path: Path) -> None:
    """Write the candles tidy: symbol, open_ms, close_ms, open, high, low, close, volume.

    Raises:
        HistoryError: for another ending than .parquet and .csv.
        OSError: when it cannot be written.
    """
    if path.suffix not in _ENDINGS:
        raise HistoryError(f"{path}: expected the ending {' or '.join(_ENDINGS)} for --to")
    table = pd.concat([_frame(rows, history.interval) for rows in history.series])
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)


def _frame(rows: SymbolRows, interval: str) -> pd.DataFrame:
    opened, high, low, close, volume = rows.candles.T
    ends = closes_of(rows.open_ms, rows.close_ms, interval)
    times = {"open_ms": rows.open_ms, "close_ms": ends}
    prices = {"open": opened, "high": high, "low": low, "close": close, "volume": volume}
    return pd.DataFrame({"symbol": rows.symbol, **times, **prices})
