"""Trains on many long series with the default settings: seconds, CPU and memory of the process.

``python -m benchmarks fit`` makes a Parquet file of 500 series of 20,000 five-minute candles, whose
volatility comes and goes and has a daily course, and runs ``python -m trainer fit`` on it in a
process of its own. It prints one JSON object; the exit code is 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import signal

from benchmarks import one_process
from shared.candles import DAY_MS, INTERVALS_MS
from shared.files.arrow import pa

pa_parquet: Final[Any] = import_module("pyarrow.parquet")

GOALS: Final = {"seconds": 900, "mb": 4096}
"""Most that training on the default number of candles may take."""

START_MS: Final = 1_577_836_800_000  # 2020-01-01
BLOCK: Final = 25
"""Series that are made at once."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fit", description=__doc__)
    parser.add_argument("--series", type=int, default=500, help="default: 500")
    parser.add_argument("--candles", type=int, default=20_000, help="of each; default: 20,000")
    parser.add_argument("--interval", choices=INTERVALS_MS, default="5m", help="default: 5m")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="candlecast-fit-") as temporary:
        folder = Path(temporary)
        path = folder / "candles.parquet"
        with one_process.elsewhere() as executor:
            executor.submit(write, path, options.series, options.candles, options.interval).result()
        print(f"training on {path.stat().st_size >> 20} MB of candles", file=sys.stderr, flush=True)
        used = one_process.run(
            [
                sys.executable, "-m", "trainer", "fit", "--data", str(path),
                "--interval", options.interval, "--out", str(folder / "bundle"), "--no-progress",
                "--tracking-uri", f"sqlite:///{folder}/mlflow.db",
            ]
        )  # fmt: skip
        trained = json.loads((folder / "bundle" / "config.json").read_bytes())
    result = {
        "series": options.series, "candles": options.series * options.candles,
        "interval": options.interval, "model_version": trained["model_version"],
        "seconds": used.seconds, "cpu_seconds": used.cpu_seconds, "mb": used.mb, "goals": GOALS,
    }  # fmt: skip
    print(json.dumps(result))
    return int(used.seconds > GOALS["seconds"] or used.mb > GOALS["mb"])


def write(path: Path, series: int, count: int, interval: str) -> None:
    """Write candles of series as a Parquet file."""
    with pa_parquet.ParquetWriter(path, candles(0, 1, 1, interval).schema) as writer:
        for first in range(0, series, BLOCK):
            writer.write_table(candles(first, min(BLOCK, series - first), count, interval))


def candles(first: int, series: int, count: int, interval: str) -> Any:
    """Return an Arrow table of some series, numbered from ``first``, one after the other."""
    rng = np.random.default_rng(first)
    length_ms = INTERVALS_MS[interval]
    open_ms = START_MS + np.arange(count) * length_ms
    course = 0.4 * np.cos(2 * np.pi * (open_ms % DAY_MS) / DAY_MS)
    comes = signal.lfilter([0.06], [1, -0.995], rng.standard_normal((series, count)))
    daily = rng.uniform(0.01, 0.04, (series, 1))
    spread = daily * np.sqrt(length_ms / DAY_MS) * np.exp(course + comes)
    moves = spread * rng.standard_t(5, (series, count)) * np.sqrt(3 / 5)
    close = 100 * np.exp(np.cumsum(moves, axis=1))
    opened = np.column_stack([np.full(series, 100.0), close[:, :-1]])
    beyond = np.exp(0.4 * spread[None] * np.abs(rng.standard_normal((2, series, count))))
    names = [f"S{number:04d}" for number in range(first, first + series)]
    return pa.table(
        {
            "symbol": np.repeat(names, count),
            "open_ms": np.tile(open_ms, series),
            "open": opened.ravel(),
            "high": (np.maximum(opened, close) * beyond[0]).ravel(),
            "low": (np.minimum(opened, close) / beyond[1]).ravel(),
            "close": close.ravel(),
            "volume": rng.integers(1, 10**6, series * count).astype(np.float64),
        }
    )
