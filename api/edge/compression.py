"""Content encodings of HTTP, gzip and deflate, and entity tags, in slices and within limits."""

from __future__ import annotations

import hashlib
import zlib
from typing import Final

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from api.edge.problems import FieldError, ProblemError, problem
from api.edge.requests import BodyShare
from api.edge.slicing import Slicer, Work

WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""What zlib calls the encodings; ``deflate`` has zlib's own header (RFC 9110)."""

SLICE_BYTES: Final = 1 << 16
"""Bytes that are packed, or unpacked to, between two yields."""

MIN_PACKED_BYTES: Final = 1_024
"""Smallest answer that is compressed."""

MIN_TAGGED_BYTES: Final = 4_096
"""Smallest answer that gets an entity tag and is compressed, whatever the route."""


def unpack(body: bytes | bytearray, encoding: str, share: BodyShare) -> Work[bytes | bytearray]:
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


def pack(body: bytes, encoding: str) -> Work[bytes]:
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


async def lighten(request: Request, response: Response, slicer: Slicer) -> Response:
    """Return an answer as light as the client takes it.

    A large one to a GET has an entity tag, by content, and is 304 without a body for a client
    that has it already; any large one is in gzip or deflate. Others are answered between slices.
    """
    if isinstance(response, StreamingResponse) or response.status_code != 200:
        return response
    body, headers = bytes(response.body), response.headers
    is_large = len(body) >= MIN_TAGGED_BYTES
    if request.method == "GET" and is_large and "etag" not in headers:
        headers["etag"] = await slicer.run(_tag(body))
    known = request.headers.get("if-none-match", "")
    if "etag" in headers and headers["etag"] in (tag.strip() for tag in known.split(",")):
        of_body = ("content-length", "content-encoding")
        kept = {name: value for name, value in headers.items() if name not in of_body}
        return Response(status_code=304, headers=kept)
    if not is_large or "content-encoding" in headers:
        return response
    headers["vary"] = "accept-encoding"
    encoding = accepted(request.headers.get("accept-encoding", ""))
    if encoding is None:
        return response
    response.body = await slicer.run(pack(body, encoding))
    headers["content-encoding"] = encoding
    headers["content-length"] = str(len(response.body))
    return response


def _tag(body: bytes) -> Work[str]:
    """Return a weak entity tag: the same content in each encoding has the same."""
    hashed = hashlib.blake2b(digest_size=12)
    for begin in range(0, len(body), 8 * SLICE_BYTES):
        hashed.update(body[begin : begin + 8 * SLICE_BYTES])
        yield
    return f'W/"{hashed.hexdigest()}"'


def _damaged(encoding: str) -> ProblemError:
    message = f"expected a whole body in {encoding}, got one that is damaged"
    return problem(400, FieldError(field="content-encoding", rule="damaged", message=message))
