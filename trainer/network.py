"""The networks: a small LSTM as it is trained, and the ensemble of them as it is served.

Both give non-crossing quantiles: gaps between neighbouring levels are positive by squareplus
and summed up, as in Gasthaus et al., "Probabilistic forecasting with spline quantile function RNNs"
(2019), and averages of non-crossing quantiles do not cross.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

CLIP: Final = 6.0
"""Standardised inputs beyond this many deviations say no more than "extreme"."""

CALM: Final = 0.3
"""How far the shape of the distribution follows the state, against how far its scale does."""

MAX_LOG_SCALE: Final = 2.0
"""A net may widen or narrow what volatility says by a factor of at most e^2."""


class Net(nn.Module):
    """One LSTM on standardised features; its outputs are in units of its target's scale."""

    location: Tensor  # (H,), the medians

    def __init__(
        self,
        inputs: int,
        hidden: int,
        dropout: float,
        unit_quantiles: Tensor,
        location: Tensor,
        median: int,
    ) -> None:
        """Start from the unconditional distribution.

        Args:
            inputs: features, F.
            hidden: size of the LSTM's state.
            dropout: share of the state dropped before the head, in training.
            unit_quantiles: quantiles of the scaled target, shape (H, Q), rising along Q.
            location: medians, shape (H,): no function of the state, since none was found.
            median: index of its level.
        """
        super().__init__()
        self.median = median
        self.register_buffer("location", location)
        self.horizons, self.levels = unit_quantiles.shape
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, self.horizons * (self.levels + 1))
        with torch.no_grad():
            self.head.weight.mul_(0.3)
            self.head.bias.zero_()
        gaps = torch.diff(unit_quantiles, dim=1).clamp_min(1e-3)  # (H, Q-1)
        self.base = nn.Parameter(gaps - 1.0 / gaps)  # the inverse of squareplus

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantiles (N, H, Q) and log volatilities (N, H) after inputs (N, L, F)."""
        steps, _ = self.lstm(features)
        out = self.head(self.dropout(steps[:, -1])).view(-1, self.horizons, self.levels + 1)
        gaps = self.base + CALM * out[..., 2:]
        quantiles = quantiles_of(gaps, out[..., :1], self.location[..., None], self.median)
        return quantiles, out[..., 1].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)

    def raise_volatility(self, log_factor: Tensor) -> None:
        """Add to the log volatility of each horizon, shape (H,)."""
        with torch.no_grad():
            self.head.bias.view(self.horizons, self.levels + 1)[:, 1] += log_factor


def squareplus(values: Tensor) -> Tensor:
    """Return positive numbers, (x + sqrt(x^2 + 4)) / 2; Barron, "Squareplus" (2021).

    ONNX Runtime's Softplus rounds an element by its place in the batch; these steps do not.
    """
    return 0.5 * (values + torch.sqrt(values * values + 4.0))


def quantiles_of(gaps: Tensor, log_scale: Tensor, location: Tensor, median: int) -> Tensor:
    """Return quantiles (..., Q) from raw gaps (..., Q-1), a log scale and a location (..., 1)."""
    heights = functional.pad(torch.cumsum(squareplus(gaps), dim=-1), (1, 0))
    around = heights - heights[..., median : median + 1]
    return around * torch.exp(log_scale.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)) + location


@dataclass(frozen=True)
class Shape:
    """Sizes of an ensemble: all that is needed to rebuild it before its weights are loaded."""

    features: int  # F
    members: int  # n
    hidden: int  # of each member
    horizons: int  # H
    levels: int  # Q
    median: int  # index of the median among the levels


class Ensemble(nn.Module):
    """Several nets as one: raw features in, the mean of their forecasts out.

    The members' states lie side by side in one LSTM whose recurrent weights are block-diagonal:
    one call of 3 x 16 costs less than three of 16. Their scalings are folded into linear maps of
    the raw features: all scales are exponentials of such maps.
    """

    input_weight: Tensor  # (F, F), standardisation
    input_bias: Tensor  # (F,)
    scale_weight: Tensor  # (F, 2nH + 1): log spreads, log volatilities, level's deviation
    scale_bias: Tensor  # (2nH + 1,)
    head_weight: Tensor  # (n x hidden, nH(Q + 1)), block-diagonal
    head_bias: Tensor  # (nH(Q + 1),)
    location: Tensor  # (n, H), medians
    distrust: Tensor  # (n,), at most 0

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        per_member = shape.horizons * (shape.levels + 1)
        self.register("input_weight", shape.features, shape.features)
        self.register("input_bias", shape.features)
        self.register("scale_weight", shape.features, 2 * shape.members * shape.horizons + 1)
        self.register("scale_bias", 2 * shape.members * shape.horizons + 1)
        self.register("head_weight", shape.members * shape.hidden, shape.members * per_member)
        self.register("head_bias", shape.members * per_member)
        self.register("location", shape.members, shape.horizons)
        self.register("distrust", shape.members)
        self.lstm = nn.LSTM(shape.features, shape.members * shape.hidden, batch_first=True)

    def register(self, name: str, *size: int) -> None:
        """Add a tensor of zeros that is saved with the weights, but not trained."""
        self.register_buffer(name, torch.zeros(size))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantiles of the log return (B, H, Q) and volatility (B, H) after (B, L, F)."""
        n, h, q = self.shape.members, self.shape.horizons, self.shape.levels
        inputs = (features @ self.input_weight + self.input_bias).clamp(-CLIP, CLIP)
        _, (state, _) = self.lstm(inputs)  # (1, B, n x hidden)
        scales = features[:, -1] @ self.scale_weight + self.scale_bias  # (B, 2nH + 1)
        log_spread, log_level, strangeness = torch.split(scales, [n * h, n * h, 1], dim=1)
        trust = torch.softmax(strangeness * strangeness * self.distrust, dim=1)  # (B, n)
        out = (state[0] @ self.head_weight + self.head_bias).view(-1, n, h, q + 1)
        log_scale, log_volatility, gaps = torch.split(out, [1, 1, q - 1], dim=-1)
        unit = quantiles_of(gaps, log_scale, self.location[..., None], self.shape.median)
        spread = torch.exp(log_spread).view(-1, n, h, 1)
        log_return = (unit * spread * trust[..., None, None]).sum(1)
        log_volatility = log_volatility[..., 0].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)
        variance = torch.exp(2.0 * (log_volatility + log_level.view(-1, n, h)))
        return log_return, torch.sqrt((variance * trust[..., None]).sum(1))

    def place(self, member: int, net: Net) -> None:
        """Copy a trained net into the ensemble as its member of that number."""
        n, hidden = self.shape.members, self.shape.hidden
        own = slice(member * hidden, (member + 1) * hidden)
        with torch.no_grad():
            for name, theirs in net.lstm.named_parameters():
                gates = self.lstm.get_parameter(name).view(4, n * hidden, -1)  # i, f, g, o
                gates[:, own] = 0.0
                columns = own if name == "weight_hh_l0" else slice(None)
                gates[:, own, columns] = theirs.view(4, hidden, -1)
            self._place_head(member, own, net)

    def _place_head(self, member: int, own: slice, net: Net) -> None:
        h, q = self.shape.horizons, self.shape.levels
        calm = torch.tensor([1.0, 1.0, *[CALM] * (q - 1)]).repeat(h)  # (H(Q+1),)
        outputs = slice(member * h * (q + 1), (member + 1) * h * (q + 1))
        self.head_weight[own, outputs] = net.head.weight.T * calm
        bias = (net.head.bias * calm).view(h, q + 1)
        bias[:, 2:] += net.base
        self.head_bias[outputs] = bias.flatten()
