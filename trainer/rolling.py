"""Rolling origins: train on the candles before each, forecast those up to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from shared.forecaster import Prediction
from trainer import backtest
from trainer.fit import Epoch, Fitted, fit
from trainer.fit_config import FitConfig
from trainer.report import Fold
from trainer.source import Source, data_span
from trainer.training import NAME, split_at


@dataclass(frozen=True)
class Part:
    """The forecasts between two origins."""

    table: pd.DataFrame
    fold: Fold


class TorchForecaster:
    """A fitted model run by PyTorch: implements the port ``Forecaster`` without an export.

    An export takes seconds, and its numbers are the same within ``shared.forecaster.TOLERANCE``.
    """

    def __init__(self, fitted: Fitted) -> None:
        self._model = fitted.model
        self.window_length = fitted.config.window_length
        self.horizons = fitted.config.horizons
        self.quantile_levels = fitted.config.quantile_levels
        digest = hashlib.sha256()
        for tensor in fitted.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        self.model_version = f"{NAME}-{digest.hexdigest()[:12]}"

    @torch.no_grad()
    def predict(self, candles: NDArray[np.float64], open_ms: NDArray[np.int64]) -> Prediction:
        found = self._model(torch.from_numpy(candles), torch.from_numpy(open_ms))
        return Prediction(*(values.numpy() for values in found))


def forecast(
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
        on_epoch: told of every epoch.

    Raises:
        ValueError: when there are too few candles before an origin.
    """
    samples = source.samples(config)
    for start_ms, stop_ms in pairwise(origins_ms):
        past, _ = split_at(source, samples, start_ms)
        fitted = fit(past, config, seed, on_epoch)
        forecaster = TorchForecaster(fitted)
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
                model_version=forecaster.model_version,
                trained_until_ms=data_span(source, start_ms).last_ms,
                first_ms=int(table["open_ms"].min()),
                last_ms=int(table["open_ms"].max()),
            ),
        )


def origins(start_ms: int, stop_ms: int, folds: int) -> list[int]:
    """Return the ends of ``folds`` spans of equal length."""
    return [start_ms + (stop_ms - start_ms) * i // folds for i in range(folds + 1)]
