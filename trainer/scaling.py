"""What is fitted before the network: input scalers, and the scales that targets are divided by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from trainer.dataset import Samples
from trainer.features import MIN_VARIANCE, QUIET_SHARE
from trainer.fit_config import DRIFT, HAR, LEVEL, RATIO, TERMS, FitConfig

Array = NDArray[np.float64]

MAX_RATIO: Final = 30.0
"""Realised over forecast variance counts as no more when the mean is made right."""


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
    """All that is fitted before the network, on the training part alone."""

    inputs: StandardScaler  # of features relative to the level
    har: LinearMap  # log volatility of each horizon, per candle
    ratio: float  # mean of ``RATIO``


def fit_scalers(train: Samples, config: FitConfig) -> Scalers:
    """Return the scalers of a training part."""
    newest = train.newest()  # (N, F)
    inputs, matrix = StandardScaler(), relative(config).astype(np.float32)
    for features in train.chunks():
        inputs.partial_fit(features.reshape(-1, len(matrix)) @ matrix)
    return Scalers(
        inputs=inputs,
        har=_fit_har(newest, floored(train, config), config),
        ratio=float(newest[:, config.index(RATIO)].mean()),
    )


def floored(samples: Samples, config: FitConfig) -> Array:
    """Return realised variances (N, H), at least 1 % of the window's month's mean.

    A market that stands still has no variance whose logarithm could be learned.
    """
    month = np.exp(2.0 * samples.newest()[:, config.index(TERMS[-1])])
    out: Array = np.maximum(samples.variance, QUIET_SHARE * month[:, None])
    return np.maximum(out, QUIET_SHARE * MIN_VARIANCE)


def log_scales(scalers: Scalers, config: FitConfig) -> tuple[LinearMap, LinearMap]:
    """Return log scales: of the h-candle return, and of the volatility per candle."""
    volatility = scalers.har
    spread = LinearMap(volatility.weight.copy(), volatility.bias + 0.5 * np.log(config.horizons))
    spread.weight[config.index(RATIO)] += config.ratio_power
    spread.bias[:] -= config.ratio_power * scalers.ratio
    return spread, volatility


def relative(config: FitConfig) -> Array:
    """Return the matrix (F, F) that takes ``LEVEL`` off the other logarithms of volatility.

    It leaves out the series' own drift where the network shall not follow it.
    """
    matrix = np.eye(len(config.inputs))
    if DRIFT in config.features and config.follows_drift is False:
        matrix[config.index(DRIFT), config.index(DRIFT)] = 0.0
    for term in config.some_of(HAR):
        matrix[config.index(LEVEL), config.index(term)] = -1.0
    return matrix


def _fit_har(newest: Array, variance: Array, config: FitConfig) -> LinearMap:
    """Return HAR in logarithms, relative to the level, pooled over symbols and intervals.

    Being relative, it holds for a market of any volatility. Its bias makes the variance right in
    the mean, where the exponential of a mean logarithm would be too low.
    """
    names = config.some_of(HAR)
    level = newest[:, config.index(LEVEL)]
    terms = newest[:, [config.index(term) for term in names]] - level[:, None]
    inputs = np.column_stack([np.ones(len(terms)), terms])  # (N, 1 + terms)
    target = 0.5 * np.log(variance) - level[:, None]  # (N, H)
    coefficients, *_ = np.linalg.lstsq(inputs, target, rcond=None)  # (1 + terms, H)
    apart = np.exp(2.0 * (target - inputs @ coefficients)).clip(max=MAX_RATIO)
    bias = coefficients[0] + 0.5 * np.log(apart.mean(axis=0))
    weight = np.zeros((len(config.inputs), variance.shape[1]))
    for term, row in zip(names, coefficients[1:], strict=True):
        weight[config.index(term)] = row
    weight[config.index(LEVEL)] = 1.0 - coefficients[1:].sum(axis=0)
    return LinearMap(weight, bias)
