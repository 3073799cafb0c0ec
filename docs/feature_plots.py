#!/usr/bin/env python
"""Draws docs/images/features: each feature beside the close, on the last bundled year of IBM."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
import numpy as np
import torch

from trainer import dataset
from trainer.features import FEATURES, Candles, extract, window_length

FOLDER: Final = Path(__file__).parent / "images" / "features"
SYMBOL: Final = "IBM"
CANDLES: Final = 250
WINDOW: Final = 512


def main() -> None:
    """Write one small SVG for each feature."""
    plt.rcParams.update({"svg.hashsalt": "candlecast", "font.size": 7, "svg.fonttype": "none"})
    names = list(FEATURES)
    symbol = dataset.load(None).symbols[SYMBOL]
    last = len(symbol.open_ms)
    candles, open_ms = next(dataset.windows(symbol, WINDOW, last - CANDLES, last))
    window = Candles(
        torch.from_numpy(candles), torch.from_numpy(open_ms), 1, window_length(names, 1)
    )
    values = extract(names, window)[:, 0].numpy()  # (CANDLES, F)
    days = symbol.open_ms[-CANDLES:].astype("datetime64[ms]")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        figure, (above, below) = plt.subplots(2, 1, figsize=(5, 1.9), sharex=True)
        above.plot(days, symbol.candles[-CANDLES:, 3], color="0.5", linewidth=0.8)
        above.set_title(f"{SYMBOL}, close, USD", loc="left", fontsize=7, pad=2)
        below.plot(days, values[:, i], linewidth=0.8)
        below.set_title(name, loc="left", fontsize=7, pad=2)
        below.margins(y=0.1)
        figure.tight_layout(pad=0.3)
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    print(f"wrote {len(names)} plots of {np.size(days)} candles to {FOLDER}")


if __name__ == "__main__":
    main()
