"""Expected shortfall: the mean outcome of a forecast's worst cases, from its quantiles. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LEVELS: Final = (0.01, 0.025)
"""Shares of worst cases that are averaged, as risk people ask for them."""


def has_shortfall(levels: Sequence[float]) -> bool:
    """Tell whether quantiles of some levels give an expected shortfall."""
    return all(level in levels for level in LEVELS)


def shortfalls(
    levels: Sequence[float], log_return: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the mean log returns below the quantiles of ``LEVELS``, (..., 2).

    Nothing is forecast beyond the outer quantile. The tail is taken as exponential through the two
    quantiles: ``q(a) = q(u) + s·ln(a/u)``, whose mean below ``q(a)`` is ``q(a) - s``, with ``s``
    the distance of the two over ``ln 2.5``. It is the generalised Pareto tail of shape 0 (McNeil,
    Frey and Embrechts, "Quantitative Risk Management", 2015, section 5.2).

    Args:
        levels: rising, Q of them, with ``LEVELS`` among them.
        log_return: quantiles, (..., Q).
    """
    low, high = (log_return[..., levels.index(level)].astype(np.float64) for level in LEVELS)
    scale = (high - low) / math.log(LEVELS[1] / LEVELS[0])
    return np.stack([low - scale, high - scale], axis=-1)
