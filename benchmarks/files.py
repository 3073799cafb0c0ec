"""Times the trainer as it reads files of one-minute candles: seconds, CPU and memory of a process.

Each file is made here, of seven symbols, and read by ``python -m trainer inspect``, which starts,
reads, judges every candle and looks for what is odd.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import one_process
from shared.candles import MINUTE_MS
from shared.files.arrow import pa

pa_csv: Final[Any] = import_module("pyarrow.csv")
pa_parquet: Final[Any] = import_module("pyarrow.parquet")

ROWS: Final = 7_000_000
"""Rows of the large file, a million minutes of each symbol."""

FEW_ROWS: Final = 600_000
"""Rows of the other files, and of all of them with ``--quick``."""

GOALS: Final = {ROWS: {"seconds": 30, "mb": 2000}, FEW_ROWS: {"seconds": 3}}
"""Most that reading a CSV may take, by its rows."""

_SYMBOLS: Final = 7
_START_MS: Final = 1_577_836_800_000  # 2020-01-01


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks files", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{FEW_ROWS:,} rows at most")
    quick = parser.parse_args(argv).quick
    results = []
    with tempfile.TemporaryDirectory() as folder, one_process.elsewhere() as writer:
        for rows in [FEW_ROWS] if quick else [ROWS, FEW_ROWS]:
            for form in FORMS if rows == FEW_ROWS else ["csv"]:
                path = Path(folder) / f"candles-{form.replace(' ', '-')}"
                writer.submit(write, form, rows, path).result()
                results.append({"form": form, "rows": rows, **measure(path, rows)})
                path.unlink()
    print(json.dumps({"files": results, "goals": GOALS}))
    return 0


def write(form: str, rows: int, path: Path) -> None:
    """Write a file of candles."""
    FORMS[form](candles(rows), path)


def candles(rows: int) -> Any:
    """Return an Arrow table of one-minute candles, symbol by symbol."""
    rng = np.random.default_rng(1)
    count = rows // _SYMBOLS
    close = 100 * np.exp(np.cumsum(rng.normal(0, 2e-4, (_SYMBOLS, count)), axis=1)).round(6)
    opened = np.roll(close, 1, axis=1)
    opened[:, 0] = 100
    high, low = np.maximum(opened, close) * 1.0001, np.minimum(opened, close) * 0.9999
    times = np.tile(_START_MS + np.arange(count) * MINUTE_MS, _SYMBOLS)
    prices = {"open": opened, "high": high, "low": low, "close": close}
    return pa.table({
        "symbol": np.repeat([f"S{number}" for number in range(_SYMBOLS)], count),
        "time": pa.array(times // 1000 * 1000, pa.timestamp("ms")).cast(pa.timestamp("s")),
        **{name: values.round(4).ravel() for name, values in prices.items()},
        "volume": rng.integers(0, 10**6, len(times)),
    })  # fmt: skip


def _csv(table: Any, path: Path) -> None:
    pa_csv.write_csv(table, path, pa_csv.WriteOptions(quoting_style="none"))


def _gzip(table: Any, path: Path) -> None:
    plain = path.with_name("plain")
    _csv(table, plain)
    with plain.open("rb") as source, gzip.open(path, "wb", 1) as target:
        shutil.copyfileobj(source, target)
    plain.unlink()


def _zoned(table: Any, path: Path) -> None:
    zoned = table.column("time").cast(pa.string())
    _csv(table.set_column(1, "time", import_module("pyarrow.compute").binary_join_element_wise(
        zoned, "+00:00", "")), path)  # fmt: skip


def _decimal_comma(table: Any, path: Path) -> None:
    table.to_pandas().to_csv(path, sep=";", decimal=",", index=False)


FORMS: Final[Mapping[str, Callable[[Any, Path], None]]] = {
    "csv": _csv,
    "csv in gzip": _gzip,
    "csv with zones": _zoned,
    "csv with decimal commas": _decimal_comma,
    "parquet": pa_parquet.write_table,
}


def measure(path: Path, rows: int) -> dict[str, float]:
    """Read a file in a process of its own; return its seconds, CPU seconds and most memory."""
    command = [
        sys.executable, "-m", "trainer", "inspect", str(path), "--interval", "1m", "--json",
        "--no-progress",
    ]  # fmt: skip
    used = one_process.run(command)
    read = json.loads(used.output)
    count = sum(symbol["candles"] for symbol in read["symbols"])
    if count != rows // _SYMBOLS * _SYMBOLS or read["left_out"]:
        raise SystemExit(f"{path}: expected {rows} candles, got {count}")
    return {
        "seconds": used.seconds,
        "cpu_seconds": used.cpu_seconds,
        "mb": used.mb,
        "file_mb": round(path.stat().st_size / 2**20),
    }
