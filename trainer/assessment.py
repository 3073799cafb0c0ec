"""The network's forecasts and the baselines', to a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from shared.bundle import Bundle
from shared.forecaster import OnnxForecaster
from trainer import backtest, evaluation, rolling
from trainer.baselines.run import forecast_all
from trainer.baselines.walk import Walk
from trainer.evaluation import MODEL, Evaluation
from trainer.fit import Epoch
from trainer.fit_config import FitConfig
from trainer.report import Fold, Protocol, Report
from trainer.source import Source, candles_hash


@dataclass(frozen=True)
class Forecasts:
    """The network's forecasts, and how they were come by."""

    table: pd.DataFrame
    folds: list[Fold]
    kind: str
    separation: str
    walk: Walk  # of the baselines: the same horizons and levels


ROLLING: Final = (
    "For each of its parts a network was trained on the candles before it: windows of training "
    "end at least {embargo} candles, the longest horizon, before the first forecast."
)

FROZEN: Final = (
    "The model was trained on {symbols} up to {last:%Y-%m-%d}: forecasts of these symbols up to "
    "then are left out. Of the others, {share:.0%} lie in the years of training."
)


def of_rolling_origins(
    source: Source,
    config: FitConfig,
    origins_ms: Sequence[int],
    seed: int,
    on_epoch: Callable[[Epoch], object],
    on_fold: Callable[[str], object],
) -> Forecasts:
    """Return the forecasts of networks trained before each origin; see ``rolling.forecast``."""
    parts = []
    for part in rolling.forecast(source, config, origins_ms, seed, on_epoch):
        parts.append(part)
        on_fold(part.fold.model_version)
    return Forecasts(
        table=pd.concat([part.table for part in parts], ignore_index=True),
        folds=[part.fold for part in parts],
        kind="rolling origins",
        separation=ROLLING.format(embargo=config.horizons[-1]),
        walk=Walk(config.horizons, config.quantile_levels),
    )


def of_bundle(
    source: Source, bundle: Bundle, start_ms: int | None, stop_ms: int | None
) -> Forecasts:
    """Return a frozen bundle's forecasts, without those of candles that it was trained on.

    Raises:
        ValueError: when nothing is left.
    """
    config, trained = bundle.config, bundle.config.data
    table = backtest.run(OnnxForecaster(bundle), source.symbols, start_ms, stop_ms)
    seen = table["symbol"].isin(trained.symbols) & (table["open_ms"] <= trained.last_ms)
    table = table[~seen].reset_index(drop=True)
    if table.empty:
        raise ValueError(
            f"{source.name}: {config.model_version} was trained on all that it could forecast "
            f"here ({', '.join(trained.symbols)}); without --model new networks are trained"
        )
    fold = Fold(
        model_version=config.model_version,
        trained_until_ms=trained.last_ms,
        first_ms=int(table["open_ms"].min()),
        last_ms=int(table["open_ms"].max()),
    )
    return Forecasts(
        table=table,
        folds=[fold],
        kind="frozen model",
        separation=FROZEN.format(
            symbols=", ".join(trained.symbols),
            last=pd.Timestamp(trained.last_ms, unit="ms"),
            share=(table["open_ms"] <= trained.last_ms).mean(),
        ),
        walk=Walk(config.horizons, config.quantile_levels),
    )


def assess(
    source: Source,
    found: Forecasts,
    baselines: Sequence[str],
    configurations_tried: int,
    advance: Callable[[str], object],
) -> Report:
    """Return the report of forecasts against baselines; raises ``NothingToCompare``."""
    tables = forecast_all(baselines, source.symbols, found.walk, advance)
    protocol = Protocol(
        source=source.name,
        sha256=candles_hash(source.symbols),
        kind=found.kind,
        separation=found.separation,
        configurations_tried=configurations_tried,
        folds=found.folds,
    )
    return Report(
        made_at_ms=int(time.time() * 1000),
        protocol=protocol,
        evaluation=evaluation.evaluate({MODEL: found.table, **tables}, source.symbols),
    )


def metrics_of(found: Evaluation) -> dict[str, float]:
    """Return the skills by name, such as ``pinball_skill_1_HAR``."""
    return {
        f"{one.loss}_skill_{one.step}_{one.baseline.replace(' ', '_')}": one.skill
        for one in found.comparisons
    }
