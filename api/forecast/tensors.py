"""Tensors of the Open Inference Protocol, in JSON and in binary, to arrays and back, in slices."""

from __future__ import annotations

import math
from array import array
from typing import Any, Final

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from api.edge.problems import broken_field
from api.edge.slicing import Work
from shared.messages import Place

AnyArray = NDArray[Any]

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
}
"""Element types that a graph of ours has, as the protocol's binary data holds them."""

NUMBERS_BYTES: Final = 16_384
"""Bytes of JSON that are read in one slice."""

NUMBERS_ROWS: Final = 128
"""Windows whose numbers are written, or checked, in one slice."""

_DECODERS: Final[dict[str, tuple[str, msgspec.json.Decoder[Any]]]] = {
    "FP64": ("d", msgspec.json.Decoder(list[float])),
    "FP32": ("f", msgspec.json.Decoder(list[float])),
    "INT64": ("q", msgspec.json.Decoder(list[int])),
}
"""Typecode of ``array`` and decoder of a list, for the element types of inputs."""

_NO_BRACKETS: Final = bytes.maketrans(b"[]", b"  ")
_DIGITS: Final = bytes.maketrans(b"123456789+-.eE", b"0" * 14)
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b"[],"))
_NO_ARRAY: Final = (b"[,", b",,", b",]", b"[]", b"][", b"]0", b"0[")
"""Neighbours that no array of numbers has, with all digits zeros and without white space."""


def from_json(
    data: memoryview, datatype: str, shape: tuple[int, ...], place: Place
) -> Work[AnyArray]:
    """Return the numbers of a JSON array, flat in row-major order or nested as the shape is.

    Raises:
        ProblemError: naming the place, when the numbers or their nesting are not as declared.
    """
    typecode, decoder = _DECODERS[datatype]
    numbers = array(typecode)
    nesting: list[bytes] = []
    count = math.prod(shape)
    body, begin = bytes(data), 0
    while begin < len(body):
        comma = body.find(b",", begin + NUMBERS_BYTES)
        end = comma + 1 if comma >= 0 else len(body)
        part = body[begin:end]
        nesting.append(part.translate(None, _NO_STRUCTURE))
        structure = b"," * (begin > 0) + part.translate(_DIGITS, b" \t\r\n")
        if any(neighbours in structure for neighbours in _NO_ARRAY):
            raise broken_field(place, "type", "an array of numbers", "others")
        try:
            flat = part.translate(_NO_BRACKETS).removesuffix(b",")
            numbers.extend(decoder.decode(b"[" + flat + b"]"))
        except (msgspec.MsgspecError, OverflowError, UnicodeDecodeError):
            raise broken_field(place, "type", f"{datatype} numbers alone", "others") from None
        if len(numbers) > count:
            raise broken_field(place, "shape", f"{count} numbers", "more")
        begin = end
        yield
    if len(numbers) != count:
        raise broken_field(place, "shape", f"{count} numbers", len(numbers))
    if b"".join(nesting) not in (_nested((count,)), _nested(shape)):
        raise broken_field(place, "shape", "flat numbers, or nested as the shape is", "others")
    return np.frombuffer(numbers, DTYPES[datatype]).reshape(shape)


def from_binary(data: memoryview, datatype: str, shape: tuple[int, ...], place: Place) -> AnyArray:
    """Return the numbers of a tensor in binary: row-major, little-endian.

    Raises:
        ProblemError: naming the place, when there are not as many bytes as declared.
    """
    dtype = DTYPES[datatype]
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
        raise broken_field(place, "shape", f"{size} bytes", len(data))
    return np.frombuffer(bytes(data), dtype).reshape(shape)


def to_json(tensor: AnyArray) -> Work[bytes]:
    """Return the numbers of a tensor as a flat JSON array."""
    parts: list[bytes] = []
    for first in range(0, len(tensor), NUMBERS_ROWS):
        some = np.ascontiguousarray(tensor[first : first + NUMBERS_ROWS]).ravel()
        parts.append(orjson.dumps(some, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        yield
    return b"[" + b",".join(parts) + b"]"


def to_binary(tensor: AnyArray, datatype: str) -> bytes:
    """Return the numbers of a tensor: row-major, little-endian."""
    return np.ascontiguousarray(tensor, DTYPES[datatype]).tobytes()


def _nested(shape: tuple[int, ...]) -> bytes:
    """Return the brackets and commas of an array of a shape."""
    text = b""
    for size in reversed(shape):
        text = b"[" + b",".join([text] * size) + b"]"
    return text
