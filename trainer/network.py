"""The LSTM, as it is trained, and the model around it, from candles to a distribution.

Quantiles cannot cross: gaps between neighbouring levels are positive by squareplus and summed up,
as in Gasthaus et al., "Probabilistic forecasting with spline quantile function RNNs" (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.context import ContextSpec
from trainer import context
from trainer.features import Candles, extract, window_length
from trainer.fit_config import DRIFT, FitConfig
from trainer.scaling import MAX_RATIO

CLIP: Final = 6.0
"""Standardised inputs beyond this many deviations say no more than "extreme"."""

CALM: Final = 0.3
"""How far the shape of the distribution follows the state, against how far its scale does."""

LASTING: Final = 0.1
"""Share of a series' drift that a network begins with as lasting."""

MAX_LOG_SCALE: Final = 2.0
"""A network may widen or narrow what volatility says by a factor of at most e^2."""

MAX_LOG_RATIO: Final = 3.0
MIN_LOG_RATIO: Final = -2.0
"""Realised over forecast volatility beyond these teaches nothing but instability."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: all that is needed to rebuild it before its weights are loaded."""

    features: int  # F
    hidden: int
    horizons: int  # H
    levels: int  # Q
    median: int  # index of the median among the levels
    drift: int | None = None  # index among the features of the one that medians follow, if any


def drift_of(features: Sequence[str]) -> int | None:
    """Return the place of the feature that medians follow; None without it."""
    return features.index(DRIFT) if DRIFT in features else None


def shape_of(config: FitConfig) -> Shape:
    """Return the sizes of a network."""
    return Shape(
        features=len(config.inputs),
        hidden=config.hidden,
        horizons=len(config.horizons),
        levels=len(config.quantile_levels),
        median=config.median,
        drift=drift_of(config.inputs),
    )


class Network(nn.Module):
    """An LSTM on standardised features, and a head for quantiles and volatilities."""

    location: Tensor  # (H,), medians of a market that has no drift of its own
    drift_move: Tensor  # (H,), what a drift of 1 adds if it lasts
    calm: Tensor  # (H(Q + 1),), how far each output follows the state
    spans: Tensor  # (Q - 1, Q), from twice the gaps between levels to distances from the median

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        """Make a network of random weights.

        Args:
            shape: its sizes.
            dropout: share of the state dropped before the head, in training.
        """
        super().__init__()
        self.shape = shape
        h, q = shape.horizons, shape.levels
        self.lstm = nn.LSTM(shape.features, shape.hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(shape.hidden, h * (q + 1))  # log scales, log volatilities, gaps
        self.register_buffer("location", torch.zeros(h))
        if shape.drift is not None:
            self.lasting = nn.Linear(shape.hidden, h)  # logit of the share of the drift that lasts
            self.register_buffer("drift_move", torch.zeros(h))
        level, gap = torch.arange(q), torch.arange(q - 1)[:, None]
        above = (gap >= shape.median) & (gap < level)
        below = (gap < shape.median) & (gap >= level)
        self.register_buffer("spans", 0.5 * (above.float() - below.float()), persistent=False)
        calm = torch.ones(h * (q + 1))
        calm[2 * h :] = CALM
        self.register_buffer("calm", calm, persistent=False)

    def start_from(self, unit_quantiles: Tensor, location: Tensor, drift_move: Tensor) -> None:
        """Make the network give an unconditional distribution, whatever the state.

        Args:
            unit_quantiles: of the scaled target, (H, Q), rising along Q.
            location: medians, (H,).
            drift_move: see above, (H,); ``LASTING`` of it is taken at first.
        """
        gaps = torch.diff(unit_quantiles, dim=1).clamp_min(1e-3)  # (H, Q - 1)
        with torch.no_grad():
            self.head.weight.mul_(0.3)
            self.head.bias.zero_()
            self.head.bias[2 * self.shape.horizons :] = (gaps - 1.0 / gaps).flatten()  # see forward
            self.location.copy_(location)
            if self.shape.drift is not None:
                self.lasting.weight.zero_()
                self.lasting.bias.fill_(math.log(LASTING / (1.0 - LASTING)))
                self.drift_move.copy_(drift_move)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantiles (B, H, Q) and log volatilities (B, H) after inputs (L, B, F).

        Both are in units of the window's own scales.
        """
        h, q = self.shape.horizons, self.shape.levels
        _, (state, _) = self.lstm(inputs)  # (1, B, hidden)
        weight = self.head.weight * self.calm[:, None]
        state = self.dropout(state[0])
        out = functional.linear(state, weight, self.head.bias)
        logs, gaps = torch.split(out, [2 * h, h * (q - 1)], dim=1)
        logs = logs.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).view(-1, 2, h)
        medians = self._medians(inputs[-1], state)[..., None]  # (B, H, 1)
        if q == 1:
            return medians, logs[:, 1]
        # twice squareplus, (x + sqrt(x^2 + 4)) / 2: positive; Barron, "Squareplus" (2021)
        heights = (gaps + torch.sqrt(gaps * gaps + 4.0)).view(-1, h, q - 1)
        distances = heights @ self.spans  # (B, H, Q), from the median
        return distances * torch.exp(logs[:, 0, ..., None]) + medians, logs[:, 1]

    def _medians(self, newest: Tensor, state: Tensor) -> Tensor:
        """Return the medians (B, H): no direction, but for a share of the series' own drift."""
        if self.shape.drift is None:
            # len() would be a number, and fix the size of the batch in the graph
            return self.location.expand(newest.shape[0], -1)
        drift = newest[:, self.shape.drift, None]  # (B, 1)
        return self.location + torch.sigmoid(self.lasting(state)) * drift * self.drift_move

    def raise_volatility(self, log_factor: Tensor) -> None:
        """Add to the log volatility, shape (H,)."""
        h = self.shape.horizons
        with torch.no_grad():
            self.head.bias[h : 2 * h] += log_factor


class Model(nn.Module):
    """All between candles and their distribution: features, scaling, network.

    The network's outputs are in units of scales, which are exponentials of linear maps of the
    newest raw features: a HAR's volatility.
    """

    input_weight: Tensor  # (F, F), standardisation
    input_bias: Tensor  # (F,)
    scale_weight: Tensor  # (F, 2H): log spreads, log volatilities
    scale_bias: Tensor  # (2H,)

    def __init__(
        self,
        features: Sequence[str],
        steps: int,
        shape: Shape,
        context: ContextSpec | None = None,
    ) -> None:
        """Make a model of zeros, to be filled from trained parts or by ``load_state_dict``.

        Args:
            features: registered names of those of candles; F with those of the context.
            steps: newest candles whose features the network reads, L.
            shape: the network's sizes.
            context: that it reads, if any.
        """
        super().__init__()
        self.context = context
        self.features = tuple(features)
        self.steps = steps
        self.length = window_length(self.features, steps)
        self.shape = shape
        self.register_buffer("input_weight", torch.zeros(shape.features, shape.features))
        self.register_buffer("input_bias", torch.zeros(shape.features))
        self.register_buffer("scale_weight", torch.zeros(shape.features, 2 * shape.horizons))
        self.register_buffer("scale_bias", torch.zeros(2 * shape.horizons))
        self.network = Network(shape)

    def forward(
        self, candles: Tensor, open_ms: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return quantiles of the log return (B, H, Q) and volatility per candle (B, H).

        Args:
            candles: open, high, low, close, volume; float64, (B, W, 5), W at least ``length``.
            open_ms: opening times, UTC epoch milliseconds; int64, (B, W).
            context: newest closes of the context's symbols; float32, (B, C, K), for a model that
                reads one.
        """
        return self.distribution(_features(self, candles, open_ms, context))

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` does, after raw features (B, L, F)."""
        steps = features.transpose(0, 1)  # (L, B, F)
        inputs = (steps @ self.input_weight + self.input_bias).clamp(-CLIP, CLIP)
        unit, log_volatility = self.network(inputs)  # (B, H, Q), (B, H)
        scales = torch.exp(steps[-1] @ self.scale_weight + self.scale_bias)
        spread, volatility = torch.split(scales, self.shape.horizons, dim=1)
        return unit * spread[..., None], torch.exp(log_volatility) * volatility


def volatility_loss(apart: Tensor, qlike_share: float) -> Tensor:
    """Return the loss of volatilities, of any shape.

    A share of QLIKE (Patton 2011), which asks for the mean of the variance; the rest is the squared
    error of the logarithm, for realised volatility is nearly log-normal (Andersen et al. 2003), and
    a few large ratios would rule QLIKE alone. Both are alike near 0.

    Args:
        apart: log of the realised volatility over the forecast one.
        qlike_share: 0 to 1.
    """
    squared = apart.clamp(MIN_LOG_RATIO, MAX_LOG_RATIO) ** 2
    log_ratio = (2.0 * apart).clamp_max(math.log(MAX_RATIO))  # of variances
    qlike = torch.exp(log_ratio) - log_ratio - 1.0
    return (1.0 - qlike_share) * squared + 0.5 * qlike_share * qlike


class PooledHar(nn.Module):
    """The pooled HAR with the quantiles of its own residuals: what a network begins from."""

    scale_weight: Tensor  # (F, 2H): log spreads, log volatilities
    scale_bias: Tensor  # (2H,)
    unit: Tensor  # (H, Q), quantiles in units of the spread

    def __init__(self, shape: Shape) -> None:
        """Make one of zeros, to be filled."""
        super().__init__()
        self.register_buffer("scale_weight", torch.zeros(shape.features, 2 * shape.horizons))
        self.register_buffer("scale_bias", torch.zeros(2 * shape.horizons))
        self.register_buffer("unit", torch.zeros(shape.horizons, shape.levels))

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``Model.distribution`` does."""
        scales = torch.exp(features[:, -1] @ self.scale_weight + self.scale_bias)
        spread, volatility = torch.split(scales, self.unit.shape[0], dim=1)
        return self.unit * spread[..., None], volatility


def _features(
    model: Model | Blend, candles: Tensor, open_ms: Tensor, closes: Tensor | None
) -> Tensor:
    """Return the raw features that a model reads of windows and their context, (B, L, F)."""
    made = extract(model.features, Candles(candles, open_ms, model.steps, model.length))
    if model.context is None:
        return made
    if closes is None:
        closes = torch.zeros(len(candles), *model.context.shape)
    return context.beside(made, closes)


class Blend(nn.Module):
    """Models of the same features as one: their quantiles and volatilities averaged.

    Quantiles are averaged level by level (Vincent 1912; Busetti 2017, "Quantile aggregation of
    density forecasts"), so that they rise as the members' do.
    """

    shares: Tensor  # (M,), of the members, 1 in all

    def __init__(self, members: Sequence[Model | PooledHar], shares: Sequence[float]) -> None:
        """Take the members, a network first, and the share of each."""
        super().__init__()
        first = members[0]
        assert isinstance(first, Model)  # noqa: S101 - for mypy; the caller's promise
        self.features, self.steps, self.length = first.features, first.steps, first.length
        self.context = first.context
        self._members = tuple(members)
        self.members = nn.ModuleList(members)
        self.register_buffer("shares", torch.tensor(shares, dtype=torch.float32))

    def forward(
        self, candles: Tensor, open_ms: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what ``Model.forward`` does; the features are made once."""
        return self.distribution(_features(self, candles, open_ms, context))

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``Model.distribution`` does."""
        made = [member.distribution(features) for member in self._members]
        quantiles, volatility = (torch.stack(values) for values in zip(*made, strict=True))
        return (
            (quantiles * self.shares[:, None, None, None]).sum(0),
            (volatility * self.shares[:, None, None]).sum(0),
        )
