"""NHITS of neuralforecast with quantiles, a network for each horizon; runs where that is installed.

Reads ``train.parquet`` and ``test.parquet`` of a folder (unique_id, ds, log_close, log_range) and
writes ``forecasts.parquet``: quantiles of the log return by symbol, candle and step. The target of
a network is the return over its horizon, so that nothing has to learn what the price is; windows
are standardised by their own mean and deviation, as its authors do; the rest are its defaults.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import pandas as pd
import torch
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import NHITS

LOOK_BACK: Final = 120
"""Candles that a network reads."""

WINDOWS: Final = 512
"""Windows of a training step."""

SERIES: Final = 8
"""Series that they are drawn of; all windows of each are laid out first."""

TRAINER: Final = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "logger": False,
}


def main(argv: Sequence[str]) -> None:
    """Train and forecast, horizon by horizon."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.nhits", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--candles", type=int, required=True)
    parser.add_argument("--horizons", required=True)
    parser.add_argument("--levels", required=True)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # two on a busy machine wait for each other
    levels = [float(level) for level in options.levels.split(",")]
    train, test = (
        pd.read_parquet(options.folder / f"{name}.parquet") for name in ("train", "test")
    )
    parts = []
    for step in map(int, options.horizons.split(",")):
        started_s = perf_counter()
        parts.append(forecast(train, test, step, levels, options.steps, options.candles))
        print(f"NHITS {step}: {perf_counter() - started_s:.0f} s", file=sys.stderr, flush=True)
    pd.concat(parts, ignore_index=True).to_parquet(options.folder / "forecasts.parquet")


def forecast(
    train: pd.DataFrame,
    test: pd.DataFrame,
    step: int,
    levels: Sequence[float],
    steps: int,
    candles: int,
) -> pd.DataFrame:
    """Return the quantiles of the return over ``step`` candles after each of the newest candles."""
    network = NHITS(
        h=step, input_size=LOOK_BACK, hist_exog_list=["log_range"], scaler_type="standard",
        loss=MQLoss(quantiles=list(levels)), max_steps=steps, windows_batch_size=WINDOWS,
        batch_size=SERIES, inference_windows_batch_size=4 * WINDOWS, random_seed=0, **TRAINER,
    )  # fmt: skip
    model = NeuralForecast(models=[network], freq=1)
    model.fit(returns(train, step))
    made = model.cross_validation(
        returns(test, step), n_windows=None, test_size=candles, step_size=1, use_fitted=True
    )
    last = made[made["ds"] == made["cutoff"] + step]
    quantiles = [name for name in last.columns if name.startswith("NHITS")]  # rising
    renamed = last[quantiles].set_axis([f"q{level:g}" for level in levels], axis=1)
    return renamed.assign(unique_id=last["unique_id"], ds=last["cutoff"], step=step)


def returns(candles: pd.DataFrame, step: int) -> pd.DataFrame:
    """Return the log return up to each candle over ``step`` candles, as ``y``."""
    past = candles.groupby("unique_id")["log_close"].shift(step)
    table = candles.assign(y=candles["log_close"] - past)
    return table.dropna(subset=["y"])[["unique_id", "ds", "y", "log_range"]]


if __name__ == "__main__":
    main(sys.argv[1:])
