"""What the context is worth to a model: its loss with and without it on the same windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from shared.candles import DAY_MS
from trainer.dataset import Samples
from trainer.evaluate.losses import pinball
from trainer.evaluate.skill import BLOCK, ratio_interval
from trainer.fit_config import FitConfig
from trainer.network import Blend, Model

PERCENT: Final = 100.0


@dataclass(frozen=True)
class Worth:
    """How much lower the pinball loss is with the context than without, at one horizon."""

    step: int
    saved: float  # %; below 0 where the context harms
    low: float  # ends of the 95 % interval, by blocks of dates
    high: float
    windows: int

    @property
    def verdict(self) -> str:
        """What it comes to, in a word."""
        if self.low > 0:
            return "helps"
        return "harms" if self.high < 0 else "nothing beyond chance"

    def __str__(self) -> str:
        """Return it for people to read."""
        return (
            f"{self.step} ahead: pinball {self.saved:.2f} % lower with context "
            f"({self.low:.2f} to {self.high:.2f}, {self.windows:,} windows): {self.verdict}"
        )

    def metrics(self) -> dict[str, float]:
        """Return it as metrics of a bundle, by name."""
        name = f"context_saved_{self.step}"
        return {name: self.saved, f"{name}_low": self.low, f"{name}_high": self.high}


def of_model(model: Model | Blend, samples: Samples, config: FitConfig) -> tuple[Worth, ...]:
    """Return the worth on windows that the model has not seen, by horizon; none without context.

    Windows without any context are left out; so is all where fewer than two dates have one.
    """
    if config.context is None:
        return ()
    known = np.zeros(len(samples), np.bool_)
    losses = np.zeros((2, len(samples), len(config.horizons)))
    rows = slice(0)
    for features in samples.chunks():
        rows = slice(rows.stop, rows.stop + len(features))
        without = features.copy()
        without[:, :, len(config.features) :] = 0.0
        known[rows] = (features[:, -1] != without[:, -1]).any(axis=1)
        for number, inputs in enumerate((features, without)):
            losses[number, rows] = pinball_of(model, inputs, samples.log_return[rows], config)
    days = samples.open_ms[known] // DAY_MS
    if len(np.unique(days)) < 2:
        return ()
    weighted = losses[:, known] * samples.weight[known][:, None]
    return tuple(
        compared(step, days, weighted[0, :, column], weighted[1, :, column])
        for column, step in enumerate(config.horizons)
    )


def compared(
    step: int,
    days: NDArray[np.int64],
    with_context: NDArray[np.float64],
    without: NDArray[np.float64],
) -> Worth:
    """Return the worth of paired losses.

    Args:
        step: candles ahead.
        days: since 1970, of each window, (N,); a day is one draw.
        with_context: losses, (N,).
        without: losses of the same windows, (N,).
    """
    dates, index = np.unique(days, return_inverse=True)
    ours, theirs = (
        np.bincount(index, losses).astype(np.float64) for losses in (with_context, without)
    )
    block = int(np.clip(len(dates) // 10, 1, BLOCK))
    low, high = ratio_interval(ours, theirs, block=block)
    saved = PERCENT * (1 - ours.sum() / theirs.sum())
    return Worth(step, float(saved), PERCENT * (1 - high), PERCENT * (1 - low), len(days))


@torch.no_grad()
def pinball_of(
    model: Model | Blend,
    features: NDArray[np.float32],
    returns: NDArray[np.float64],
    config: FitConfig,
) -> NDArray[np.float64]:
    """Return the mean pinball losses of windows, (N, H), in log returns."""
    quantiles = model.distribution(torch.from_numpy(features))[0].numpy().astype(np.float64)
    levels = np.asarray(config.quantile_levels)
    columns = [
        pinball(returns[:, column], quantiles[:, column], levels).mean(axis=1)
        for column in range(len(config.horizons))
    ]
    return np.column_stack(columns)
