"""A published neural network beside ours: NHITS of neuralforecast, on the same stocks.

``python -m benchmarks nhits FOLDER`` trains NHITS (Challu et al. 2023, "NHITS: Neural Hierarchical
Interpolation for Time Series Forecasting") with quantiles on symbols and times that the built-in
model trained on too, lets it forecast the newest candles of symbols that neither has seen, and
compares both, and HAR, on the same forecasts. NHITS gets a network of its own for each horizon,
whose target is the return over it, beside the range volatility. Symbols are taken by a hash of
their names. neuralforecast is in the environment of the peers, see ``benchmarks/peers``. The last
line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.stream_contenders import ROOT
from shared import bundle
from shared.forecaster import OnnxForecaster, Prediction
from trainer import panels
from trainer.dataset import SymbolCandles
from trainer.evaluate import backtest, forecast_table
from trainer.evaluate.baselines.har import Har
from trainer.evaluate.baselines.walk import Walk, forecast_symbol
from trainer.evaluate.evaluation import MODEL, Evaluation, evaluate
from trainer.evaluate.losses import Symbol
from trainer.evaluate.realised import range_variances
from trainer.training import KEPT_OUT

NHITS: Final = "NHITS"
CONTEXT: Final = 480
"""Candles before the first forecast: HAR is fitted on them, the other two look back on them."""

LEAST: Final = 1e-4
"""Floor of a candle's range volatility, of which the logarithm is taken."""

DIGITS: Final = 3


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks nhits", description=__doc__)
    parser.add_argument("folder", type=Path, help="Parquet files of candles")
    parser.add_argument("--file", default="daily-us", help="default: daily-us")
    parser.add_argument("--train", type=int, default=100, help="symbols to train on; default: 100")
    parser.add_argument("--test", type=int, default=50, help="symbols to forecast; default: 50")
    parser.add_argument("--candles", type=int, default=500, help="newest of each; default: 500")
    parser.add_argument("--steps", type=int, default=500, help="of training; default: 500")
    parser.add_argument(
        "--peers-python",
        type=Path,
        default=ROOT / ".venv-peers" / "bin" / "python",
        help="Python of the environment that has neuralforecast; `make bench` makes it",
    )
    options = parser.parse_args(argv)
    of_file = (panel for panel in panels.read(options.folder) if panel.name == options.file)
    panel = next(of_file, None)
    if panel is None:
        parser.error(f"--file: expected a file of {options.folder}, got {options.file}")
    train = chosen(panel, options.train, CONTEXT, is_test=False)
    tested = chosen(panel, options.test, CONTEXT + options.candles, is_test=True)
    model = OnnxForecaster(bundle.load(bundle.default_path()))
    started_s = perf_counter()
    with tempfile.TemporaryDirectory(prefix="candlecast-nhits-") as temporary:
        folder = Path(temporary)
        series_of(train).to_parquet(folder / "train.parquet")
        series_of(tested).to_parquet(folder / "test.parquet")
        command = [
            str(options.peers_python.absolute()), "-m", "benchmarks.peers.nhits", str(folder),
            "--steps", str(options.steps), "--candles", str(options.candles),
            "--horizons", ",".join(map(str, model.horizons)),
            "--levels", ",".join(f"{level:g}" for level in model.quantile_levels),
        ]  # fmt: skip
        subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 - our own
        theirs = pd.read_parquet(folder / "forecasts.parquet")
    seconds = perf_counter() - started_s
    found = compared(model, tested, theirs)
    print(json.dumps({
        "file": options.file, "steps": options.steps, "train_symbols": len(train),
        "test_symbols": len(tested), "forecasts": found.rows // len(found.horizons),
        "first": str(np.datetime64(found.first_ms, "ms"))[:10],
        "last": str(np.datetime64(found.last_ms, "ms"))[:10],
        "nhits_seconds": round(seconds), "model_version": model.model_version,
        "pinball": {
            f"{score.step} {score.method}": score.pinball for score in found.scores
        },
        "inside_80": {
            f"{score.step} {score.method}": round(100 * score.covered[80]["inside"], 1)
            for score in found.scores
        },
        "skill": [_skill(row) for row in found.comparisons if row.loss == "pinball"],
    }))  # fmt: skip
    return 0


def chosen(
    panel: panels.Panel, count: int, least: int, *, is_test: bool
) -> dict[str, SymbolCandles]:
    """Return the candles of some symbols of a part, by a hash of their names.

    Those to train on end where the test's times begin; those of the test are the newest.
    """
    found: dict[str, SymbolCandles] = {}
    for island in sorted(panel.islands, key=lambda island: _hash(island.symbol)):
        if (panels.part_of(island.symbol) == "test") is is_test and island.symbol not in KEPT_OUT:
            candles = island.candles if is_test else island.candles.until(panel.test_ms)
            is_newest = not is_test or candles.open_ms[-1] >= panel.test_ms
            if len(candles.open_ms) > least and is_newest and len(found) < count:
                found.setdefault(island.symbol, candles)
    if is_test:
        return {name: candles.rows(slice(-least - 1, None)) for name, candles in found.items()}
    return found


def _hash(symbol: str) -> str:
    return hashlib.sha256(symbol.encode()).hexdigest()


def series_of(symbols: Mapping[str, SymbolCandles]) -> pd.DataFrame:
    """Return log closes and log range volatilities by symbol and number of the candle."""
    parts = []
    for name, symbol in symbols.items():
        variance = np.nan_to_num(range_variances(symbol.candles))
        parts.append(
            pd.DataFrame(
                {
                    "unique_id": name,
                    "ds": np.arange(len(symbol.open_ms)),
                    "log_close": np.log(symbol.candles[:, 3]),
                    "log_range": np.log(np.maximum(np.sqrt(variance), LEAST)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def compared(
    model: OnnxForecaster, symbols: Mapping[str, SymbolCandles], theirs: pd.DataFrame
) -> Evaluation:
    """Return the losses of all three over the forecasts that all of them made."""
    walk = Walk(model.horizons, model.quantile_levels, first=CONTEXT)
    nhits, har = [], []
    for name, symbol in symbols.items():
        rows = theirs[theirs["unique_id"] == name].sort_values(["ds", "step"])
        rows = rows[rows.groupby("ds")["step"].transform("size") == len(model.horizons)]
        at = rows["ds"].unique()
        shape = (len(at), len(model.horizons), len(model.quantile_levels))
        returns = rows[[f"q{level:g}" for level in model.quantile_levels]].to_numpy(np.float64)
        made = Prediction(np.sort(returns.reshape(shape)), np.full(shape[:2], np.nan))
        nhits.append(
            forecast_table.build(
                name, symbol.open_ms[at], symbol.candles[at, 3], walk.horizons, walk.levels, made
            )
        )
        har.append(forecast_symbol(Har(), name, symbol.open_ms, symbol.candles, walk))
    known: dict[str, Symbol] = dict(symbols)
    tables = {
        MODEL: backtest.run(model, symbols),
        NHITS: pd.concat(nhits, ignore_index=True),
        "HAR": pd.concat(har, ignore_index=True),
    }
    return evaluate(tables, known)


def _skill(row: Any) -> dict[str, Any]:
    """Return by how many per cent our pinball loss is lower than a method's."""
    return {
        "step": row.step,
        "against": row.baseline,
        **{name: round(100 * getattr(row, name), DIGITS) for name in ("skill", "low", "high")},
    }
