"""Protocols of evaluation: rolling origins, or a frozen bundle; both beside the baselines."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from shared.bundle import Bundle
from shared.context import Closes, ContextSpec
from shared.forecaster import Forecaster, OnnxForecaster, Prediction
from trainer.context import without_context
from trainer.dataset import Source, candles_hash, data_span
from trainer.evaluate import backtest, evaluation
from trainer.evaluate.baselines.run import forecast_all
from trainer.evaluate.baselines.walk import Walk
from trainer.evaluate.evaluation import MODEL, WITHOUT_CONTEXT, Evaluation
from trainer.evaluate.report import Fold, Protocol, Report
from trainer.fit import Epoch, Fitted, fit
from trainer.fit_config import FitConfig
from trainer.training import NAME, split_at


@dataclass(frozen=True)
class Forecasts:
    """The network's forecasts, and how they were made."""

    table: pd.DataFrame
    without: pd.DataFrame | None  # the same without the context that the network reads, if any
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

MOST_NAMED: Final = 10
"""Most symbols of a training that a report names."""


@dataclass(frozen=True)
class Part:
    """The forecasts between two origins."""

    table: pd.DataFrame
    without: pd.DataFrame | None  # as in ``Forecasts``
    fold: Fold


class TorchForecaster:
    """A fitted model run by PyTorch: implements the port ``Forecaster`` without an export.

    An export takes seconds, and its numbers are the same within ``shared.forecaster.TOLERANCE``.
    """

    def __init__(self, fitted: Fitted, intervals: Sequence[str]) -> None:
        """Run a model that was trained on candles of some intervals."""
        self._model = fitted.model
        self.intervals = tuple(intervals)
        self._config = fitted.config
        self.window_length = fitted.config.window_length
        self.horizons = fitted.config.horizons
        self.quantile_levels = fitted.config.quantile_levels
        self.context: ContextSpec | None = fitted.model.context
        digest = hashlib.sha256()
        for tensor in fitted.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        self.model_version = f"{NAME}-{digest.hexdigest()[:12]}"

    def lengths(self, interval: str) -> tuple[int, ...]:
        return self._config.window_lengths(interval)

    @torch.no_grad()
    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        closes = None if context is None else torch.from_numpy(context)
        outputs = self._model(torch.from_numpy(candles), torch.from_numpy(open_ms), closes)
        return Prediction(*(tensor.numpy() for tensor in outputs))


def rolling(
    source: Source,
    config: FitConfig,
    origins_ms: Sequence[int],
    seed: int,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Iterator[Part]:
    """Yield the forecasts of each fold.

    Training sees no outcome that reaches an origin: its windows end at least the longest horizon
    before it.

    Args:
        source: the candles.
        config: how to train.
        origins_ms: rising, UTC; the last one ends the last fold.
        seed: of all that is random.
        on_epoch: called with every epoch.

    Raises:
        ValueError: when there are too few candles before an origin.
    """
    samples = source.samples(config)
    for start_ms, stop_ms in pairwise(origins_ms):
        past, _ = split_at(source, samples, start_ms)
        fitted = fit(past, config, seed, on_epoch)
        forecaster = TorchForecaster(fitted, (source.interval,))
        table, without = _run(forecaster, source, start_ms, stop_ms)
        if table.empty:
            first, last = (pd.Timestamp(at, unit="ms") for at in (start_ms, stop_ms))
            raise ValueError(
                f"{source.name}: expected candles to forecast from between {first:%Y-%m-%d} and "
                f"{last:%Y-%m-%d}, a fold, got none that ends a full window"
            )
        yield Part(
            table,
            without,
            Fold(
                model_version=forecaster.model_version,
                trained_until_ms=data_span(source, start_ms).last_ms,
                first_ms=int(table["open_ms"].min()),
                last_ms=int(table["open_ms"].max()),
            ),
        )


def _run(
    forecaster: Forecaster, source: Source, start_ms: int | None, stop_ms: int | None
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the forecasts of a span, and the same without the context that the model reads."""
    span = partial(backtest.run, forecaster, start_ms=start_ms, stop_ms=stop_ms)
    made = span(symbols=source.symbols, interval=source.interval)
    if forecaster.context is None:
        return made, None
    return made, span(symbols=without_context(source.symbols), interval=source.interval)


def origins(start_ms: int, stop_ms: int, folds: int) -> list[int]:
    """Return the ends of ``folds`` spans of equal length."""
    return [start_ms + (stop_ms - start_ms) * i // folds for i in range(folds + 1)]


def of_rolling_origins(
    source: Source,
    config: FitConfig,
    origins_ms: Sequence[int],
    seed: int,
    on_epoch: Callable[[Epoch], object],
    on_fold: Callable[[str], object],
) -> Forecasts:
    """Return the forecasts of networks trained before each origin; see ``rolling``."""
    parts = []
    for part in rolling(source, config, origins_ms, seed, on_epoch):
        parts.append(part)
        on_fold(part.fold.model_version)
    blind = [part.without for part in parts if part.without is not None]
    return Forecasts(
        table=pd.concat([part.table for part in parts], ignore_index=True),
        without=pd.concat(blind, ignore_index=True) if blind else None,
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
    table, without = _run(OnnxForecaster(bundle), source, start_ms, stop_ms)
    if table.empty:
        raise ValueError(
            f"{source.name}: expected a symbol with {config.window_length} candles up to the time "
            f"to forecast from, got none between --start and --end"
        )
    seen = table["symbol"].isin(trained.symbols) & (table["open_ms"] <= trained.last_ms)
    table = table[~seen].reset_index(drop=True)
    if table.empty:
        raise ValueError(
            f"{source.name}: {config.model_version} was trained on all that it could forecast "
            f"here, until {pd.Timestamp(trained.last_ms, unit='ms'):%Y-%m-%d}; without --model new "
            "networks are trained"
        )
    fold = Fold(
        model_version=config.model_version,
        trained_until_ms=trained.last_ms,
        first_ms=int(table["open_ms"].min()),
        last_ms=int(table["open_ms"].max()),
    )
    return Forecasts(
        table=table,
        without=without,
        folds=[fold],
        kind="frozen model",
        separation=FROZEN.format(
            symbols=_some(trained.symbols),
            last=pd.Timestamp(trained.last_ms, unit="ms"),
            share=(table["open_ms"] <= trained.last_ms).mean(),
        ),
        walk=Walk(config.horizons, config.quantile_levels),
    )


def _some(symbols: Sequence[str]) -> str:
    """Return symbols in words: a model of all classes is trained on hundreds."""
    more = len(symbols) - MOST_NAMED
    named = ", ".join(symbols[:MOST_NAMED])
    return f"{named} and {more:,} others" if more > 0 else named


def assess(
    source: Source,
    forecasts: Forecasts,
    baselines: Sequence[str],
    configurations_tried: int,
    advance: Callable[[str], object],
) -> Report:
    """Return the report of forecasts against baselines; raises ``NothingToCompare``."""
    methods = {MODEL: forecasts.table}
    if forecasts.without is not None:
        methods[WITHOUT_CONTEXT] = forecasts.without
    methods |= forecast_all(baselines, source.symbols, forecasts.walk, advance)
    protocol = Protocol(
        source=source.name,
        sha256=candles_hash(source.symbols),
        kind=forecasts.kind,
        separation=forecasts.separation,
        configurations_tried=configurations_tried,
        folds=forecasts.folds,
    )
    return Report(
        made_at_ms=int(time.time() * 1000),
        protocol=protocol,
        evaluation=evaluation.evaluate(methods, source.symbols),
    )


def metrics_of(result: Evaluation) -> dict[str, float]:
    """Return the skills by name, such as ``pinball_skill_1_HAR``."""
    return {
        f"{row.loss}_skill_{row.step}_{row.baseline.replace(' ', '_')}": row.skill
        for row in result.comparisons
    }
