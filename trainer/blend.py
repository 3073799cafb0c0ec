"""Own network, built-in model and HAR as one model, in the shares that validation chooses.

Little data teaches less than the built-in model knows of many markets; much data has something of
its own to say, and the average of both is better than either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from shared.bundle import BundleConfig
from trainer.dataset import CHUNK, Samples
from trainer.fit_config import FitConfig
from trainer.network import Blend, Model, PooledHar, shape_of, volatility_loss
from trainer.scaling import Scalers, floored, log_scales

LEAST_WINDOWS: Final = 5000
"""With fewer windows the built-in model serves better than any of their own: measured on 5 stocks
of 250 days, where an own network lost 1.7 % of pinball to it."""

MARGIN: Final = 1e-4
"""Share of the loss by which something must be better than the built-in model on validation."""

BUILT_IN: Final = "built-in"
OWN: Final = "own"
HAR: Final = "HAR"

MIXES: Final[Sequence[Mapping[str, float]]] = tuple(
    MappingProxyType(mix)
    for mix in (
        {BUILT_IN: 1.0},
        {OWN: 0.5, BUILT_IN: 0.5},
        {OWN: 0.4, BUILT_IN: 0.4, HAR: 0.2},
        {BUILT_IN: 0.8, HAR: 0.2},
        {OWN: 1.0},
        {OWN: 0.8, HAR: 0.2},
    )
)
"""What validation chooses from; the built-in model stays unless another is better."""


@dataclass(frozen=True)
class Choice:
    """A mix, and what each was worth on validation."""

    mix: Mapping[str, float]
    losses: tuple[float, ...]  # by ``MIXES``

    @property
    def keeps_built_in(self) -> bool:
        """Whether the built-in model as it is serves best."""
        return self.mix == MIXES[0]


def alone(config: FitConfig) -> Mapping[str, float]:
    """Return the mix of a model that is trained without the built-in one."""
    share = config.har_share or 0.0
    return {OWN: 1.0 - share, HAR: share} if share else {OWN: 1.0}


def in_words(mix: Mapping[str, float]) -> str:
    """Return a mix as ``0.5 own, 0.5 built-in``."""
    return ", ".join(f"{share:g} {name}" for name, share in mix.items())


def unlike(config: FitConfig, built_in: BundleConfig) -> str:
    """Return in what a model to train differs from the built-in one; empty if they may be mixed."""
    steps = built_in.training.get("sequence_length")
    for name, ours, theirs in (
        ("features", config.features, tuple(built_in.features)),
        ("horizons", config.horizons, built_in.horizons),
        ("quantile levels", config.quantile_levels, built_in.quantile_levels),
        ("sequence length", config.sequence_length, steps),
    ):
        if ours != theirs:
            return name
    return ""


def widened(model: Model, config: FitConfig) -> Model:
    """Return a model that takes the context of a config too, of which it makes nothing."""
    if config.context is None:
        return model
    shape = replace(model.shape, features=len(config.inputs))
    wide = Model(model.features, model.steps, shape, config.context)
    state = wide.state_dict()
    for name, values in model.state_dict().items():
        state[name].zero_()
        state[name][tuple(map(slice, values.shape))] = values
    wide.load_state_dict(state)
    return wide.eval()


def pooled_har(scalers: Scalers, samples: Samples, config: FitConfig) -> PooledHar:
    """Return the HAR that the targets are divided by, with the quantiles of its residuals."""
    made = PooledHar(shape_of(config))
    spread, volatility = log_scales(scalers, config)
    newest = samples.newest()
    unit = np.quantile(
        samples.log_return / np.exp(spread(newest)), config.quantile_levels, axis=0
    ).T  # (H, Q)
    for name, values in (
        ("scale_weight", np.hstack([spread.weight, volatility.weight])),
        ("scale_bias", np.concatenate([spread.bias, volatility.bias])),
        ("unit", unit),
    ):
        made.get_buffer(name).copy_(torch.from_numpy(values))
    return made


def of_mix(mix: Mapping[str, float], models: Mapping[str, Model | PooledHar]) -> Model | Blend:
    """Return a mix as one model; networks come first in it."""
    members = [models[name] for name in mix]
    if len(members) == 1 and isinstance(members[0], Model):
        return members[0]
    return Blend(members, list(mix.values())).eval()


def choose(
    models: Mapping[str, Model | PooledHar],
    validation: Samples,
    scalers: Scalers,
    config: FitConfig,
) -> Choice:
    """Return the mix with the lowest loss on windows that the own network has not seen."""
    losses = tuple(loss(of_mix(mix, models), validation, scalers, config) for mix in MIXES)
    best = int(np.argmin(losses))
    if losses[best] > (1.0 - MARGIN) * losses[0]:
        best = 0
    return Choice(MIXES[best], losses)


@torch.no_grad()
def loss(model: Model | Blend, samples: Samples, scalers: Scalers, config: FitConfig) -> float:
    """Return the loss that training stops by.

    It is the pinball loss of returns in units of HAR's spread, and a share of the volatility's.
    """
    spread, _ = log_scales(scalers, config)
    newest = samples.newest()
    unit = torch.from_numpy(np.exp(spread(newest)))  # (N, H)
    log_volatility = torch.from_numpy(0.5 * np.log(floored(samples, config)))
    returns, weight = torch.from_numpy(samples.log_return), torch.from_numpy(samples.weight)
    levels = torch.tensor(config.quantile_levels, dtype=torch.float64)
    total = 0.0
    places = torch.split(torch.arange(len(samples)), CHUNK)
    for rows, features in zip(places, samples.chunks(), strict=True):
        quantiles, volatility = model.distribution(torch.from_numpy(features))
        error: Tensor = (returns[rows][..., None] - quantiles) / unit[rows][..., None]
        pinball = torch.maximum(levels * error, (levels - 1.0) * error).mean((1, 2))
        apart = log_volatility[rows] - torch.log(volatility)
        missed = volatility_loss(apart, config.qlike_share or 0.0)
        each = pinball + config.stop_weight * missed.mean(1)
        total += float((each * weight[rows]).sum())
    return total / float(samples.weight.sum())
