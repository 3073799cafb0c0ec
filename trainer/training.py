"""Candles to a bundle on disk, and how good its point forecast is on those after them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from shared.bundle import BundleConfig, DataSpan, load
from shared.forecaster import LstmForecaster
from trainer import backtest, export, scoring
from trainer.baselines.empirical import Drift, Persistence
from trainer.baselines.run import forecast_symbol
from trainer.baselines.walk import Walk
from trainer.dataset import Samples, SymbolCandles, samples_of, split
from trainer.evaluation import MODEL
from trainer.fit import Epoch, Fitted, fit
from trainer.fit_config import FitConfig

NAME: Final = "lstm"
"""Of the models trained here, before their version."""

ERRORS: Final = ("mse", "rmse", "mae", "return_rmse", "return_mae")


@dataclass(frozen=True)
class Source:
    """The candles that training may draw from."""

    name: str
    interval: str
    symbols: Mapping[str, SymbolCandles]

    def samples(self, config: FitConfig) -> Samples:
        """Return every window whose outcomes have all come; raises ``ValueError`` for none."""
        return samples_of(self.symbols, config.features, config.sequence_length, config.horizons)


@dataclass(frozen=True)
class Test:
    """How a new bundle did on the candles that training did not see."""

    __test__ = False  # no test of pytest's

    joined: pd.DataFrame  # the network's forecasts with what came
    errors: pd.DataFrame  # by (step, method): the columns ERRORS


def train(
    source: Source,
    samples: Samples,
    config: FitConfig,
    stop_ms: int,
    seed: int,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> tuple[Fitted, Samples]:
    """Return what was trained on outcomes before ``stop_ms``, and the samples from then on.

    Raises:
        ValueError: when there are too few samples before it.
    """
    past, test = split(samples, stop_ms)
    del source
    return fit(past, config, seed, on_epoch), test


def save(
    folder: Path,
    fitted: Fitted,
    source: Source,
    stop_ms: int,
    check_on: Samples,
    metrics: Mapping[str, float],
) -> BundleConfig:
    """Write a bundle and return its config.

    Args:
        folder: of the bundle.
        fitted: what to write.
        source: the candles, of which those before ``stop_ms`` were trained on.
        stop_ms: UTC.
        check_on: windows on which PyTorch and ONNX Runtime must agree.
        metrics: to keep with it.

    Raises:
        ExportError: when they do not agree.
        OSError: when the folder cannot be written.
    """
    span = data_span(source, stop_ms)
    return export.write_bundle(
        folder, fitted, check_on.features, NAME, source.interval, span, dict(metrics)
    )


def data_span(source: Source, stop_ms: int) -> DataSpan:
    """Return what the candles before ``stop_ms`` are."""
    seen = {name: one.until(stop_ms) for name, one in source.symbols.items()}
    seen = {name: one for name, one in seen.items() if len(one.open_ms)}
    return DataSpan(
        source=source.name,
        symbols=tuple(sorted(seen)),
        first_ms=min(int(one.open_ms[0]) for one in seen.values()),
        last_ms=max(int(one.open_ms[-1]) for one in seen.values()),
        candles=sum(len(one.open_ms) for one in seen.values()),
        sha256=candles_hash(seen),
    )


def candles_hash(symbols: Mapping[str, SymbolCandles]) -> str:
    """Return the SHA-256 of candles as used: names, times and values, little-endian."""
    digest = hashlib.sha256()
    for name in sorted(symbols):
        digest.update(name.encode() + b"\0")
        digest.update(symbols[name].open_ms.astype("<i8").tobytes())
        digest.update(symbols[name].candles.astype("<f8").tobytes())
    return digest.hexdigest()


def test(folder: Path, source: Source, stop_ms: int, config: FitConfig) -> Test:
    """Return the errors of a bundle, persistence and drift on the candles from ``stop_ms`` on."""
    table = backtest.run(LstmForecaster(load(folder)), source.symbols, stop_ms)
    walk = Walk(config.horizons, config.quantile_levels, first=config.window_length)
    joined = {MODEL: scoring.join_outcomes(table, source.symbols)}
    for baseline in (Persistence(), Drift()):
        rows = pd.concat(
            [
                forecast_symbol(baseline, name, one.open_ms, one.candles, walk)
                for name, one in source.symbols.items()
            ]
        )
        rows = rows[rows["open_ms"] >= stop_ms]
        joined[baseline.name] = scoring.join_outcomes(rows, source.symbols)
    return Test(joined[MODEL], _errors(joined))


def metrics_of(found: Test) -> dict[str, float]:
    """Return the test's figures by name, such as ``rmse_1`` and ``rmse_1_persistence``."""
    metrics = {}
    for (step, method), row in found.errors.iterrows():
        suffix = "" if method == MODEL else f"_{method}"
        for name in ERRORS:
            metrics[f"{name}_{step}{suffix}"] = float(row[name])
    losses = scoring.losses(found.joined).groupby("step")
    for name in ("pinball", "crps", "qlike"):
        for step, value in losses[name].mean().items():
            metrics[f"{name}_{step}"] = float(value)
    return metrics


def _errors(joined: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    parts = {}
    for method, rows in joined.items():
        mean = scoring.losses(rows).groupby("step").mean(numeric_only=True)
        parts[method] = pd.DataFrame(
            {
                "mse": mean["price_squared"],
                "rmse": np.sqrt(mean["price_squared"]),
                "mae": mean["price_absolute"],
                "return_rmse": np.sqrt(mean["squared"]),
                "return_mae": mean["absolute"],
            }
        )
    return pd.concat(parts, names=["method"]).swaplevel().sort_index(level=0, sort_remaining=False)
