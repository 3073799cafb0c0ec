"""Rolling origins: train on the candles before each, forecast those up to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from shared.bundle import load
from shared.forecaster import LstmForecaster
from trainer import backtest
from trainer.fit import Epoch, fit
from trainer.fit_config import FitConfig
from trainer.report import Fold
from trainer.source import Source
from trainer.training import save, split_at


@dataclass(frozen=True)
class Part:
    """The forecasts between two origins."""

    table: pd.DataFrame
    fold: Fold


def forecast(
    source: Source,
    config: FitConfig,
    origins_ms: Sequence[int],
    seed: int,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Iterator[Part]:
    """Yield the forecasts of each fold, made through a bundle and the code that serves it.

    Training sees no outcome that reaches an origin: its windows end at least the longest horizon
    before it.

    Args:
        source: the candles.
        config: how to train.
        origins_ms: rising, UTC; the last one ends the last fold.
        seed: of all that is random.
        on_epoch: told of every epoch.

    Raises:
        ValueError: when there are too few candles before an origin.
    """
    samples = source.samples(config)
    for start_ms, stop_ms in pairwise(origins_ms):
        past, _ = split_at(source, samples, start_ms)
        fitted = fit(past, config, seed, on_epoch)
        with TemporaryDirectory(prefix="candlecast-fold-") as folder:
            saved = save(Path(folder), fitted, source, start_ms, past, {})
            forecaster = LstmForecaster(load(Path(folder)))
        table = backtest.run(forecaster, source.symbols, start_ms, stop_ms)
        if table.empty:
            first, last = (pd.Timestamp(at, unit="ms") for at in (start_ms, stop_ms))
            raise ValueError(
                f"{source.name}: expected candles to forecast from between {first:%Y-%m-%d} and "
                f"{last:%Y-%m-%d}, a fold, got none that ends a full window"
            )
        yield Part(
            table,
            Fold(
                model_version=saved.model_version,
                trained_until_ms=saved.data.last_ms,
                first_ms=int(table["open_ms"].min()),
                last_ms=int(table["open_ms"].max()),
            ),
        )


def origins(start_ms: int, stop_ms: int, folds: int) -> list[int]:
    """Return the ends of ``folds`` spans of equal length."""
    return [start_ms + (stop_ms - start_ms) * i // folds for i in range(folds + 1)]
