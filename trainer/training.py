"""Trains on the candles before a time, exports the model, and tests it on those after."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from shared.bundle import CONFIG_NAME, BundleConfig, default_path
from shared.bundle import load as load_bundle
from shared.candles import INTERVALS_MS
from shared.context import Contexts
from shared.forecaster import Forecaster
from trainer import blend, panels, reference
from trainer import export as exporting
from trainer.context import join
from trainer.dataset import Samples, Source, data_span, load, split
from trainer.evaluate import backtest, losses
from trainer.evaluate.baselines.empirical import Drift, Persistence
from trainer.evaluate.baselines.run import BASELINES
from trainer.evaluate.baselines.walk import Walk, forecast_symbol
from trainer.evaluate.evaluation import MODEL, Evaluation, NothingToCompare, evaluate
from trainer.export import Exported
from trainer.fit import Epoch, Fitted, fit_parts
from trainer.fit_config import FitConfig
from trainer.network import Model
from trainer.panels import Panel

log = logging.getLogger("trainer")

COMPARED: Final = ("garch", "har", "persistence")
"""Baselines that a training is compared with on its test: the best of evaluations, and none."""

MOST_TESTED: Final = 200_000
"""Most candles that a test of one interval forecasts from, some 0.5 GB of tables."""

NAME: Final = "lstm"
"""Name of the models trained here; their version follows it."""

KEPT_OUT: Final = frozenset({"AAPL", "GOOG", "IBM", "MSFT"})
"""Symbols of the bundled candles, on which the demo runs and ``evaluate`` measures."""


def built_in_for(config: FitConfig) -> Model | None:
    """Return the built-in model if one of this config can be mixed with it; None otherwise."""
    loaded = load_bundle(default_path())
    different = blend.unlike(config, loaded.config)
    if different:
        log.info("trained on these candles alone: the built-in model has other %s", different)
        return None
    model = exporting.rebuild(loaded)
    return model if isinstance(model, Model) else None


def keep_built_in(out: Path) -> BundleConfig:
    """Write a copy of the built-in bundle into a folder, and return its config."""
    loaded = load_bundle(default_path())
    if out.resolve() != loaded.path.resolve():
        out.mkdir(parents=True, exist_ok=True)
        for name in (*loaded.config.file_names, CONFIG_NAME):
            shutil.copyfile(loaded.path / name, out / name)
    return loaded.config


@dataclass(frozen=True)
class Errors:
    """One method's errors of the predicted close at one horizon."""

    step: int
    method: str
    mse: float  # in the quote currency
    rmse: float
    mae: float
    return_rmse: float  # of log returns
    return_mae: float


@dataclass(frozen=True)
class Test:
    """How a new bundle did on the candles that training did not see."""

    __test__ = False  # not a test of pytest's

    table: pd.DataFrame  # the network's forecasts
    joined: pd.DataFrame  # the same with their outcomes
    errors: list[Errors]  # by step and method


def split_at(source: Source, samples: Samples, stop_ms: int) -> tuple[Samples, Samples]:
    """Return the samples whose outcomes had come before ``stop_ms``, and those from then on.

    Raises:
        ValueError: when there is none before.
    """
    past, later = split(samples, stop_ms)
    if not len(past):
        first = pd.Timestamp(int(samples.known_ms.min()), unit="ms")
        last = pd.Timestamp(stop_ms, unit="ms")
        raise ValueError(
            f"{source.name}: expected windows with outcomes before {last:%Y-%m-%d} to train on, "
            f"got none: the first outcome comes on {first:%Y-%m-%d}"
        )
    return past, later


def export(fitted: Fitted, source: Source, stop_ms: int) -> Exported:
    """Return a fitted model as a checked graph.

    Args:
        fitted: the model.
        source: the candles, of which those before ``stop_ms`` were trained on.
        stop_ms: UTC; PyTorch and ONNX Runtime must agree on the windows from then on, the test
            set, or on all when there are none.

    Raises:
        ExportError: when they do not agree.
    """
    lengths = fitted.config.window_lengths(source.interval)
    seen = partial(source.until(stop_ms).windows, lengths, 0)
    check_on = partial(source.windows, lengths, stop_ms)
    span = data_span(source, stop_ms)
    exported = exporting.export(fitted, seen, check_on, NAME, (source.interval,), span)
    least = fitted.config.window_length
    return exported.with_reference(reference.of_source(source.until(stop_ms), least))


def fit_folder(
    folder: Path,
    config: FitConfig,
    seed: int,
    on_epoch: Callable[[Epoch], object],
    on_panel: Callable[[str], object],
) -> tuple[Fitted, list[Panel]]:
    """Train one model on a folder of candles of many symbols and intervals; see ``panels``.

    No symbol of the bundled candles trains, so that they show what the model does on new ones.

    Raises:
        ValueError: when there are too few candles.
    """
    data = panels.read(folder)
    if config.context:
        data = panels.joined(data, panels.contexts_of(folder, config.context))
    train, validation, final = (
        partial(panels.draw, data, config, part, count, seed, KEPT_OUT, on_panel)
        for part, count in (
            ("train", 9 * config.windows // 10),
            ("validation", 3 * config.windows // 25),
            ("all", config.windows),
        )
    )
    return fit_parts(train(), validation(), final, config, seed, on_epoch), data


def export_folder(fitted: Fitted, data: Sequence[Panel]) -> Exported:
    """Return a model of ``fit_folder`` as a checked graph; its golden windows are bundled candles.

    It is for every interval from the shortest to the longest that it has seen: to the network an
    interval is a number.

    Raises:
        ExportError: when PyTorch and ONNX Runtime do not agree.
    """
    config = fitted.config
    bundled = load(None)
    lengths = config.window_lengths("1d")[-1:]
    symbols = bundled.symbols
    if contexts := _contexts(data):
        symbols = {name: join(candles, "1d", contexts) for name, candles in symbols.items()}
    seen = partial(Source(bundled.name, "1d", symbols).windows, lengths, 0)
    trained = {panel.interval for panel in data if panel.trains}
    least, most = (pick(INTERVALS_MS[name] for name in trained) for pick in (min, max))
    intervals = [name for name, length in INTERVALS_MS.items() if least <= length <= most]
    check_on = partial(panels.some_windows, data, config)
    span = panels.span(data, KEPT_OUT)
    exported = exporting.export(fitted, seen, check_on, NAME, intervals, span)
    longest = max(config.horizons)
    return exported.with_reference(
        reference.of_panels(data, config.window_length, longest, KEPT_OUT)
    )


def _contexts(data: Sequence[Panel]) -> Contexts | None:
    """Return the context that candles of panels have around them, if any."""
    around = (island.candles.around for panel in data for island in panel.islands)
    return next((some.contexts for some in around if some), None)


def test(forecaster: Forecaster, source: Source, stop_ms: int) -> Test:
    """Return the errors of a model, persistence and drift on the candles from ``stop_ms`` on.

    Of more than ``MOST_TESTED`` one of n.
    """
    every = backtest.thinning(source.symbols, stop_ms, MOST_TESTED)
    table = backtest.run(forecaster, source.symbols, stop_ms, interval=source.interval, every=every)
    tested = {name: rows["open_ms"].unique() for name, rows in table.groupby("symbol")}
    walk = Walk(forecaster.horizons, forecaster.quantile_levels, first=forecaster.window_length)
    joined = {MODEL: losses.join_outcomes(table, source.symbols)}
    for baseline in (Persistence(), Drift()):
        parts = []
        for name, symbol in source.symbols.items():
            rows = forecast_symbol(baseline, name, symbol.open_ms, symbol.candles, walk)
            parts.append(rows[rows["open_ms"].isin(tested.get(name, ()))])
        joined[baseline.name] = losses.join_outcomes(
            pd.concat(parts, ignore_index=True), source.symbols
        )
    return Test(table, joined[MODEL], list(_errors(joined)))


def compare(
    test: Test,
    forecaster: Forecaster,
    source: Source,
    stop_ms: int,
    advance: Callable[[str], object] = str,
) -> Evaluation | None:
    """Return the test's forecasts beside ``COMPARED``; None when none of them has enough candles.

    The baselines are fitted on all candles before each forecast, as in an evaluation.
    """
    tables = {}
    for name in COMPARED:
        baseline = BASELINES[name]()
        parts = []
        for symbol, candles in source.symbols.items():
            first = int(np.searchsorted(candles.open_ms, stop_ms))
            walk = Walk(
                forecaster.horizons,
                forecaster.quantile_levels,
                first=max(first, forecaster.window_length),
            )
            parts.append(forecast_symbol(baseline, symbol, candles.open_ms, candles.candles, walk))
            advance(f"{baseline.name} {symbol}")
        tables[baseline.name] = pd.concat(parts, ignore_index=True)
    try:
        return evaluate({MODEL: test.table, **tables}, source.symbols)
    except NothingToCompare:
        return None


def curves(fitted: Fitted) -> Iterator[tuple[str, int, float]]:
    """Yield the losses by epoch: name, epoch, value."""
    for epoch in fitted.history:
        for name in ("train_loss", "pinball", "volatility"):
            yield name, epoch.epoch, getattr(epoch, name)


def metrics_of(test: Test) -> dict[str, float]:
    """Return the test's figures by name, such as ``rmse_1`` and ``rmse_1_persistence``."""
    metrics = {}
    for row in test.errors:
        suffix = "" if row.method == MODEL else f"_{row.method}"
        for name in ("mse", "rmse", "mae", "return_rmse", "return_mae"):
            metrics[f"{name}_{row.step}{suffix}"] = float(getattr(row, name))
    by_step = losses.losses(test.joined).groupby("step")
    for name in ("pinball", "crps", "qlike"):
        for step, value in by_step[name].mean().items():
            metrics[f"{name}_{step}"] = float(value)
    return metrics


def _errors(joined: Mapping[str, pd.DataFrame]) -> Iterator[Errors]:
    by_method = {method: losses.losses(rows) for method, rows in joined.items()}
    for step in sorted(by_method[MODEL]["step"].unique()):
        for method, rows in by_method.items():
            mean = rows[rows["step"] == step].mean(numeric_only=True)
            yield Errors(
                step=int(step),
                method=method,
                mse=mean["price_squared"],
                rmse=math.sqrt(mean["price_squared"]),
                mae=mean["price_absolute"],
                return_rmse=math.sqrt(mean["squared"]),
                return_mae=mean["absolute"],
            )
