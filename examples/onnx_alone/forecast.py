"""Forecasts from a bundle's graph alone, without Candlecast: pip install onnxruntime numpy.

``python forecast.py BUNDLE CANDLES.csv 1d``, with the columns open_ms, open, high, low, close and
volume, oldest first. The graph takes raw candles and their opening times; its features are within.
The quantiles are the model's own: the stream's are calibrated by how the last ones have held.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(bundle: Path, table: Path, interval: str) -> None:
    """Print the quantiles of each horizon as prices."""
    config = json.loads((bundle / "config.json").read_text())
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lengths = [count for count in config["window_lengths"][interval] if count <= len(rows)]
    if not lengths:
        needed = config["window_lengths"][interval][0]
        sys.exit(f"{table}: expected at least {needed} candles of {interval}, got {len(rows)}")
    newest = rows[-lengths[-1] :]
    fields = ("open", "high", "low", "close", "volume")
    # the stream holds prices in 32 bits, so that all who forecast see the same
    candles = np.array([[float(row[name]) for name in fields] for row in newest], np.float32)
    open_ms = np.array([int(row["open_ms"]) for row in newest], np.int64)
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    log_return, volatility = session.run(
        ("log_return", "volatility"),
        {"candles": candles.astype(np.float64)[None], "open_ms": open_ms[None]},
    )
    close = float(newest[-1]["close"])
    for at, step in enumerate(config["horizons"]):
        prices = close * np.exp(log_return[0, at].astype(np.float64))
        shown = ", ".join(
            f"{level:g}: {price:.4f}"
            for level, price in zip(config["quantile_levels"], prices, strict=True)
        )
        print(f"{step} ahead, volatility {volatility[0, at]:.4%} a candle: {shown}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
