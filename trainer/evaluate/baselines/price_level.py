"""LSTM on min-max scaled prices, as most tutorials build it; in the report as a warning."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shared.forecaster import Prediction
from trainer.evaluate.baselines.walk import Walk, only_median

SEQUENCE: Final = 60
HIDDEN: Final = 32
BATCH: Final = 64
LEARNING_RATE: Final = 1e-3
FIRST_EPOCHS: Final = 12
REFIT_EPOCHS: Final = 2


class PriceLevelLstm:
    """One LSTM a symbol on the min-max scaled close, as most tutorials build it.

    Unlike most of them its scaler sees the past alone. Each refit takes a new scaler and trains
    the same weights on. Where the price leaves its past range, so do the forecasts.
    """

    name = "price-level LSTM"

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        torch.set_num_threads(1)
        close = candles[:, 3]
        net, medians = (
            _Net(len(walk.horizons)),
            np.full((max(len(close) - walk.first, 0), len(walk.horizons)), np.nan),
        )
        generator = torch.Generator().manual_seed(0)
        net.start(generator)
        for start, stop in walk.blocks(len(close)):
            low, high = close[: start + 1].min(), close[: start + 1].max()
            scaled = (close[:stop] - low) / (high - low)  # (stop,)
            epochs = FIRST_EPOCHS if start == walk.first else REFIT_EPOCHS
            _train(net, scaled[: start + 1], walk.horizons, epochs, generator)
            ahead = _predict(net, scaled, start) * (high - low) + low  # (block, H), prices
            # a price that the net puts at or below 0 has no log return; a hundredth stands for it
            floor = np.maximum(ahead, close[start:stop, None] / 100)
            medians[start - walk.first : stop - walk.first] = np.log(
                floor / close[start:stop, None]
            )
        return only_median(walk, medians)


class _Net(nn.Module):
    def __init__(self, horizons: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, horizons)

    def start(self, generator: torch.Generator) -> None:
        """Draw all weights from the generator, leaving torch's own random state alone."""
        bound = HIDDEN**-0.5
        with torch.no_grad():
            for weights in self.parameters():
                weights.uniform_(-bound, bound, generator=generator)

    def forward(self, prices: torch.Tensor) -> torch.Tensor:
        """Return scaled prices ahead, (B, H), of scaled prices (B, L, 1)."""
        states, _ = self.lstm(prices)
        ahead: torch.Tensor = self.head(states[:, -1])
        return ahead


def _windows(scaled: NDArray[np.float64], first: int, stop: int) -> torch.Tensor:
    """Return the newest prices at candles ``first`` to ``stop - 1``, shape (B, L, 1)."""
    view = np.lib.stride_tricks.sliding_window_view(scaled, SEQUENCE)
    return torch.tensor(view[first - SEQUENCE + 1 : stop - SEQUENCE + 1, :, None].astype("f4"))


def _train(
    net: _Net,
    scaled: NDArray[np.float64],
    horizons: tuple[int, ...],
    epochs: int,
    generator: torch.Generator,
) -> None:
    last = len(scaled) - horizons[-1]  # candles before it have all outcomes
    inputs = _windows(scaled, SEQUENCE - 1, last)
    ahead = np.stack([scaled[SEQUENCE - 1 + h : last + h] for h in horizons], axis=1)
    outcomes = torch.tensor(ahead.astype("f4"))
    optimiser = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for at in range(0, len(order), BATCH):
            rows = order[at : at + BATCH]
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(net(inputs[rows]), outcomes[rows])
            torch.autograd.backward(loss)
            optimiser.step()


def _predict(net: _Net, scaled: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    """Return the scaled prices ahead of each candle from ``start`` on, shape (block, H)."""
    with torch.no_grad():
        ahead: torch.Tensor = net(_windows(scaled, start, len(scaled)))
    return ahead.numpy().astype(np.float64)
