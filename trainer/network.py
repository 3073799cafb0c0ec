"""The LSTM, as it is trained, and the model around it, from candles to a distribution.

Quantiles cannot cross: gaps between neighbouring levels are positive by squareplus and summed up,
as in Gasthaus et al., "Probabilistic forecasting with spline quantile function RNNs" (2019), and
averages of non-crossing quantiles do not cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.features import Candles, extract

CLIP: Final = 6.0
"""Standardised inputs beyond this many deviations say no more than "extreme"."""

CALM: Final = 0.3
"""How far the shape of the distribution follows the state, against how far its scale does."""

MAX_LOG_SCALE: Final = 2.0
"""A network may widen or narrow what volatility says by a factor of at most e^2."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: all that is needed to rebuild it before its weights are loaded."""

    features: int  # F
    members: int  # n
    hidden: int  # of each member
    horizons: int  # H
    levels: int  # Q
    median: int  # index of the median among the levels


class Network(nn.Module):
    """LSTMs of n members side by side, on standardised features.

    A network is trained with one member. A model's members are joined in one LSTM with
    block-diagonal weights, since one call of 3 x 24 units costs less than three of 24.
    """

    location: Tensor  # (n, H), medians: no function of the state, since none was found
    calm: Tensor  # (nH(Q + 1),), how far each output follows the state
    spans: Tensor  # (Q - 1, Q), from twice the gaps between levels to distances from the median

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        """Make a network of random weights.

        Args:
            shape: its sizes.
            dropout: share of the state dropped before the head, in training.
        """
        super().__init__()
        self.shape = shape
        n, h, q = shape.members, shape.horizons, shape.levels
        self.lstm = nn.LSTM(shape.features, n * shape.hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(
            n * shape.hidden, n * h * (q + 1)
        )  # log scales, log volatilities, gaps
        self.register_buffer("location", torch.zeros(n, h))
        level, gap = torch.arange(q), torch.arange(q - 1)[:, None]
        above = (gap >= shape.median) & (gap < level)
        below = (gap < shape.median) & (gap >= level)
        self.register_buffer("spans", 0.5 * (above.float() - below.float()), persistent=False)
        calm = torch.ones(n * h * (q + 1))
        calm[2 * n * h :] = CALM
        self.register_buffer("calm", calm, persistent=False)

    def start_from(self, unit_quantiles: Tensor, location: Tensor) -> None:
        """Make the only member give an unconditional distribution, whatever the state.

        Args:
            unit_quantiles: of the scaled target, (H, Q), rising along Q.
            location: medians, (H,).
        """
        gaps = torch.diff(unit_quantiles, dim=1).clamp_min(1e-3)  # (H, Q - 1)
        with torch.no_grad():
            self.head.weight.mul_(0.3)
            self.head.bias.zero_()
            self.head.bias[2 * self.shape.horizons :] = (gaps - 1.0 / gaps).flatten()  # see forward
            self.location.copy_(location[None])

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantiles (B, n, H, Q) and log volatilities (B, n, H) after inputs (L, B, F).

        Both are in units of the members' scales.
        """
        n, h, q = self.shape.members, self.shape.horizons, self.shape.levels
        _, (state, _) = self.lstm(inputs)  # (1, B, n x hidden)
        weight = self.head.weight * self.calm[:, None]
        out = functional.linear(self.dropout(state[0]), weight, self.head.bias)
        logs, gaps = torch.split(out, [2 * n * h, n * h * (q - 1)], dim=1)
        logs = logs.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).view(-1, 2, n, h)
        if q == 1:
            return self.location[..., None].expand(out.shape[0], n, h, 1), logs[:, 1]
        # twice squareplus, (x + sqrt(x^2 + 4)) / 2: positive; Barron, "Squareplus" (2021)
        heights = (gaps + torch.sqrt(gaps * gaps + 4.0)).view(-1, n, h, q - 1)
        distances = heights @ self.spans  # (B, n, H, Q), from the median
        quantiles = distances * torch.exp(logs[:, 0, ..., None]) + self.location[..., None]
        return quantiles, logs[:, 1]

    def raise_volatility(self, log_factor: Tensor) -> None:
        """Add to the log volatility of the only member, shape (H,)."""
        h = self.shape.horizons
        with torch.no_grad():
            self.head.bias[h : 2 * h] += log_factor

    def place(self, member: int, trained: Network) -> None:
        """Copy a network of one member into this one, as its member of that number."""
        n, hidden = self.shape.members, self.shape.hidden
        own = slice(member * hidden, (member + 1) * hidden)
        with torch.no_grad():
            for name, theirs in trained.lstm.named_parameters():
                gates = self.lstm.get_parameter(name).view(4, n * hidden, -1)  # i, f, g, o
                gates[:, own] = 0.0
                columns = own if name == "weight_hh_l0" else slice(None)
                gates[:, own, columns] = theirs.view(4, hidden, -1)
            rows = self._head_rows(member)
            self.head.weight[rows] = 0.0
            self.head.weight[rows, own] = trained.head.weight
            self.head.bias[rows] = trained.head.bias
            self.location[member] = trained.location[0]

    def _head_rows(self, member: int) -> Tensor:
        """Return the head's outputs that are a member's: log scales, log volatilities, gaps."""
        n, h, q = self.shape.members, self.shape.horizons, self.shape.levels
        rows, start = [], 0
        for width in (h, h, h * (q - 1)):
            rows.append(torch.arange(start + member * width, start + (member + 1) * width))
            start += n * width
        return torch.cat(rows)


class Model(nn.Module):
    """All between candles and their distribution: features, scaling, network, mixture.

    The members' scales are exponentials of linear maps of the newest raw features; the mixture
    trusts a member less the further the market's level of volatility is from what it knows.
    """

    input_weight: Tensor  # (F, F), standardisation
    input_bias: Tensor  # (F,)
    scale_weight: Tensor  # (F, 2nH + 1): log spreads, log volatilities, the level's deviation
    scale_bias: Tensor  # (2nH + 1,)
    distrust: Tensor  # (n,), at most 0

    def __init__(self, features: Sequence[str], steps: int, shape: Shape) -> None:
        """Make a model of zeros, to be filled from trained parts or by ``load_state_dict``.

        Args:
            features: registered names, F of them.
            steps: newest candles whose features the network reads, L.
            shape: the network's sizes.
        """
        super().__init__()
        self.features = tuple(features)
        self.steps = steps
        self.shape = shape
        scales = 2 * shape.members * shape.horizons + 1
        self.register_buffer("input_weight", torch.zeros(shape.features, shape.features))
        self.register_buffer("input_bias", torch.zeros(shape.features))
        self.register_buffer("scale_weight", torch.zeros(shape.features, scales))
        self.register_buffer("scale_bias", torch.zeros(scales))
        self.register_buffer("distrust", torch.zeros(shape.members))
        self.network = Network(shape)

    def forward(self, candles: Tensor, open_ms: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantiles of the log return (B, H, Q) and volatility per candle (B, H).

        Args:
            candles: open, high, low, close, volume; float64, (B, T, 5).
            open_ms: opening times, UTC epoch milliseconds; int64, (B, T).
        """
        return self.distribution(extract(self.features, Candles(candles, open_ms, self.steps)))

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` does, after raw features (B, L, F)."""
        n, h = self.shape.members, self.shape.horizons
        steps = features.transpose(0, 1)  # (L, B, F)
        inputs = (steps @ self.input_weight + self.input_bias).clamp(-CLIP, CLIP)
        unit, log_volatility = self.network(inputs)  # (B, n, H, Q), (B, n, H)
        scales = steps[-1] @ self.scale_weight + self.scale_bias
        log_spread, log_level, strangeness = torch.split(scales, [n * h, n * h, 1], dim=1)
        trust = torch.softmax(strangeness * strangeness * self.distrust, dim=1)[
            ..., None
        ]  # (B, n, 1)
        spread = torch.exp(log_spread).view(-1, n, h) * trust
        log_return = (unit * spread[..., None]).sum(1)
        variance = torch.exp(2.0 * (log_volatility + log_level.view(-1, n, h)))
        return log_return, torch.sqrt((variance * trust).sum(1))
