"""Arrow without types, and its columns as numpy arrays, with a plain value where there is none.

pyarrow makes its compute functions as it is imported, and has no types of its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import numpy as np

from shared.files.series import Mask, Numbers

pa: Final[Any] = import_module("pyarrow")
pc: Final[Any] = import_module("pyarrow.compute")

Array = Any
"""An array of Arrow, in one piece."""

Column = Any
"""An array of Arrow, in one piece or several."""


def is_text(values: Column) -> bool:
    """Return True when a column holds text."""
    return bool(pa.types.is_string(values.type) or pa.types.is_large_string(values.type))


def whole(values: Column) -> Array:
    """Return a column in one piece."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def filled(values: Column) -> Numbers:
    """Return a column of numbers with 0 where there is none."""
    return np.asarray(whole(pc.fill_null(values, 0)).to_numpy(zero_copy_only=False))


def valid(values: Column) -> Mask:
    """Return which cells hold a value."""
    return mask(pc.is_valid(values))


def mask(values: Column) -> Mask:
    """Return a column of booleans, where none is false."""
    found = whole(pc.fill_null(values, fill_value=False)).to_numpy(zero_copy_only=False)
    return np.asarray(found, np.bool_)


def codes_of(encoded: Array) -> Numbers:
    """Return which value of its dictionary each cell has, (n,); for none one past the last."""
    codes = pc.fill_null(encoded.indices, len(encoded.dictionary))
    return np.asarray(codes.to_numpy(zero_copy_only=False))


def matches(values: Column, pattern: str) -> Mask:
    """Return which cells match a regular expression."""
    return mask(pc.match_substring_regex(values, pattern))
