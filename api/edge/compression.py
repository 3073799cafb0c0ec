"""Content encodings of HTTP, gzip and deflate, in slices and within limits."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from typing import Final

from api.edge.problems import FieldError, ProblemError, problem
from api.edge.requests import BodyShare

WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""What zlib calls the encodings; ``deflate`` has zlib's own header (RFC 9110)."""

SLICE_BYTES: Final = 1 << 16
"""Bytes that are packed, or unpacked to, between two yields."""

MIN_PACKED_BYTES: Final = 1_024
"""Smallest answer that is compressed."""


def unpack(
    body: bytes | bytearray, encoding: str, share: BodyShare
) -> Generator[None, None, bytes | bytearray]:
    """Return a body without its content encoding, in slices.

    Raises:
        ProblemError: 413 or 503 when it grows too large, 400 when it is damaged, 415 for an
            encoding that is not known.
    """
    name = encoding.strip().lower()
    if name == "identity":
        return body
    if name not in WINDOW_BITS:
        message = f"expected {' or '.join(WINDOW_BITS)}, got another"
        error = FieldError(field="content-encoding", rule="unsupported", message=message)
        raise problem(415, error)
    unpacker = zlib.decompressobj(WINDOW_BITS[name])
    parts: list[bytes] = []
    for begin in range(0, len(body), SLICE_BYTES):
        packed: bytes | bytearray = body[begin : begin + SLICE_BYTES]
        while packed or (begin + SLICE_BYTES >= len(body) and not unpacker.eof):
            try:
                part = unpacker.decompress(packed, SLICE_BYTES)
            except zlib.error:
                raise _damaged(name) from None
            packed = unpacker.unconsumed_tail
            if unpacker.unused_data or not (part or packed or unpacker.eof):
                raise _damaged(name)
            share.unpack(len(part))
            parts.append(part)
            yield
    return b"".join(parts)


def pack(body: bytes, encoding: str) -> Generator[None, None, bytes]:
    """Return a body in a content encoding of ``WINDOW_BITS``, in slices."""
    packer = zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, WINDOW_BITS[encoding])
    parts: list[bytes] = []
    for begin in range(0, len(body), SLICE_BYTES):
        parts.append(packer.compress(body[begin : begin + SLICE_BYTES]))
        yield
    return b"".join((*parts, packer.flush()))


def accepted(header: str) -> str | None:
    """Return the encoding to use for an ``Accept-Encoding`` header, None for identity."""
    wanted = set()
    for choice in header.lower().split(","):
        name, _, weight = choice.partition(";")
        if weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}:
            wanted.add(name.strip())
    return next((name for name in WINDOW_BITS if name in wanted), None)


def _damaged(encoding: str) -> ProblemError:
    message = f"expected a whole body in {encoding}, got one that is damaged"
    return problem(400, FieldError(field="content-encoding", rule="damaged", message=message))
