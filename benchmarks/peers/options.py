"""Command-line options of every contender but the worker."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from shared.bundle import default_path


@dataclass(frozen=True)
class Options:
    """Where to read and write."""

    bootstrap: str
    candles: str
    forecasts: str
    group: str
    windows: Path  # the windows before the first candle, (S, 28 T) bytes; the row is the symbol
    state_dir: Path
    model: Path

    @classmethod
    def read(cls) -> Options:
        """Return the options of the command line."""
        parser = argparse.ArgumentParser()
        for name in ("bootstrap", "candles", "forecasts", "group"):
            parser.add_argument(f"--{name}", required=True)
        parser.add_argument("--windows", type=Path, required=True)
        parser.add_argument("--state-dir", type=Path, required=True)
        parser.add_argument("--model", type=Path, default=default_path())
        return cls(**vars(parser.parse_args()))


def row_of(symbol: str) -> int:
    """Return the row of a symbol's window."""
    return int(symbol[1:])
