"""Sums whose last bit does not depend on what else is summed beside them. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def added(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the sums along the last axis, (...,) of (..., N), added one by one.

    ``np.sum`` takes an order that follows the shape, so a row alone may differ from the same row
    among others.
    """
    total: NDArray[np.float64] = np.add.accumulate(values, axis=-1)[..., -1]
    return total
