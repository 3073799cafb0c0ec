"""What is fitted before the nets: input scalers, and the scales that targets are divided by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from trainer.dataset import Samples
from trainer.features import MIN_VARIANCE
from trainer.fit_config import LEVEL, QUARTER, RATIO, TERMS, FitConfig, Scaling

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearMap:
    """A function of a window's newest raw features: ``x @ weight + bias``."""

    weight: Array  # (F, H)
    bias: Array  # (H,)

    def __call__(self, newest: Array) -> Array:
        """Return shape (N, H) after (N, F)."""
        out: Array = newest @ self.weight + self.bias
        return out


@dataclass(frozen=True)
class Scalers:
    """All that is fitted before the nets, on the training part alone."""

    inputs: StandardScaler  # of features relative to the level
    har: LinearMap  # log volatility of each horizon, per candle
    absolute: float  # log volatility, per candle
    level: tuple[float, float]  # mean and deviation of ``LEVEL``
    ratio: float  # mean of ``RATIO``


def fit_scalers(train: Samples, config: FitConfig) -> Scalers:
    """Return the scalers of a training part."""
    newest = train.features[:, -1].astype(np.float64)  # (N, F)
    flat = train.features.reshape(-1, train.features.shape[2]).astype(np.float64)
    level = newest[:, config.index(LEVEL)]
    variance = np.maximum(train.variance, MIN_VARIANCE)
    return Scalers(
        inputs=StandardScaler().fit(flat @ relative(config)),
        har=_fit_har(newest, variance, config),
        absolute=0.5 * float(np.log(variance[:, 0].mean())),
        level=(float(level.mean()), float(level.std()) or 1.0),
        ratio=float(newest[:, config.index(RATIO)].mean()),
    )


def log_scales(
    scaling: Scaling, scalers: Scalers, config: FitConfig
) -> tuple[LinearMap, LinearMap]:
    """Return a net's log scales: of the h-candle return, and of the volatility per candle."""
    count, horizons = len(config.features), len(config.horizons)
    volatility = LinearMap(np.zeros((count, horizons)), np.zeros(horizons))
    if scaling == "har":
        volatility = scalers.har
    elif scaling == "level":
        volatility.weight[config.index(LEVEL)] = 1.0
    else:
        volatility.bias[:] = scalers.absolute
    spread = LinearMap(volatility.weight.copy(), volatility.bias + 0.5 * np.log(config.horizons))
    if scaling != "absolute":
        spread.weight[config.index(RATIO)] += config.ratio_power
        spread.bias[:] -= config.ratio_power * scalers.ratio
    return spread, volatility


def relative(config: FitConfig) -> Array:
    """Return the matrix (F, F) that takes ``LEVEL`` off the other logarithms of volatility."""
    matrix = np.eye(len(config.features))
    for term in (*TERMS, *(one for one in QUARTER if one in config.features)):
        matrix[config.index(LEVEL), config.index(term)] = -1.0
    return matrix


def _fit_har(newest: Array, variance: Array, config: FitConfig) -> LinearMap:
    """Return HAR in logarithms, relative to the level, pooled over symbols.

    Being relative, it holds for a market of any volatility. Its bias makes the variance right in
    the mean, where the exponential of a mean logarithm would be too low.
    """
    level = newest[:, config.index(LEVEL)]
    terms = newest[:, [config.index(term) for term in TERMS]] - level[:, None]
    inputs = np.column_stack([np.ones(len(terms)), terms])  # (N, 4)
    target = 0.5 * np.log(variance) - level[:, None]  # (N, H)
    coefficients, *_ = np.linalg.lstsq(inputs, target, rcond=None)  # (4, H)
    predicted = np.exp(2.0 * (inputs @ coefficients + level[:, None]))
    bias = coefficients[0] + 0.5 * np.log((variance / predicted).mean(axis=0))
    weight = np.zeros((len(config.features), variance.shape[1]))
    for term, row in zip(TERMS, coefficients[1:], strict=True):
        weight[config.index(term)] = row
    weight[config.index(LEVEL)] = 1.0 - coefficients[1:].sum(axis=0)
    return LinearMap(weight, bias)
