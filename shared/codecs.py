"""The codecs of Kafka, unpacked within a bound: 10 kB on the wire may be 10 MB, or 10 GB.

aiokafka unpacks whatever a batch holds. ``install`` puts these functions in the places of its own,
and one that packs.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import cramjam
import numpy as np
from aiokafka.record._crecords import default_records, legacy_records

MAX_UNPACKED_BYTES: Final = 32 << 20
"""Most bytes of an unpacked batch. One of candles is packed to a tenth, and a broker takes 1 MiB
of packed ones."""

USUAL_BYTES: Final = 1 << 20
"""Size of the buffer that is kept, into which most batches fit."""

ZSTD_LEVEL: Final = 1
"""How hard zstd packs. Level 3, aiokafka's, takes twice as long for forecasts, whose batches it
makes no smaller: the system gives and takes back the megabyte of its tables at each batch."""

_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD_BYTES: Final = 16
_GZIP: Final = 31  # zlib's number for gzip with its header

_kept = threading.local()  # Faust's client has a thread of its own


class UnpackError(ValueError):
    """Packed bytes that are damaged, or that are too many once unpacked."""


def gzip(packed: bytes) -> bytes:
    """Return gzip's content; raises ``UnpackError``."""
    parts, left, size = [], bytes(packed), 0
    while left:
        unpacker = zlib.decompressobj(_GZIP)
        try:
            part = unpacker.decompress(left, MAX_UNPACKED_BYTES + 1 - size)
        except zlib.error as error:
            raise UnpackError(f"gzip: {error}") from None
        parts.append(part)
        size += len(part)
        _check(size)
        if not unpacker.eof:
            raise UnpackError("gzip: it ends in the middle")
        left = unpacker.unused_data
    return b"".join(parts)


def snappy(packed: bytes) -> bytes:
    """Return snappy's content, of a plain block or of Java's framing; raises ``UnpackError``."""
    packed = bytes(packed)
    if not packed.startswith(_XERIAL):
        return _snappy_block(packed, MAX_UNPACKED_BYTES)
    parts, at, size = [], _XERIAL_HEAD_BYTES, 0
    while at < len(packed):
        if at + 4 > len(packed):
            raise UnpackError("snappy: it ends in the middle")
        (length,) = struct.unpack_from(">i", packed, at)
        if not 0 < length <= len(packed) - at - 4:
            raise UnpackError(f"snappy: a block of {length} bytes")
        parts.append(_snappy_block(packed[at + 4 : at + 4 + length], MAX_UNPACKED_BYTES - size))
        size += len(parts[-1])
        at += 4 + length
    return b"".join(parts)


def _snappy_block(packed: bytes, most: int) -> bytes:
    try:
        _check(cramjam.snappy.decompress_raw_len(packed), most)
        return bytes(cramjam.snappy.decompress_raw(packed))
    except cramjam.DecompressionError as error:
        raise UnpackError(f"{error}") from None  # begins with snappy


def lz4(packed: bytes) -> bytes:
    """Return the content of LZ4's frames; raises ``UnpackError``."""
    return _into(cramjam.lz4.decompress_into, "lz4", packed)


def zstd(packed: bytes) -> bytes:
    """Return the content of Zstandard's frames; raises ``UnpackError``."""
    return _into(cramjam.zstd.decompress_into, "zstd", packed)


def pack_zstd(content: bytes | bytearray | memoryview) -> bytes:
    """Return a frame of Zstandard."""
    return bytes(cramjam.zstd.compress(content, level=ZSTD_LEVEL))


def _into(unpack: Callable[[bytes, Any], int], name: str, packed: bytes) -> bytes:
    packed = bytes(packed)
    try:
        buffer = _kept.buffer
    except AttributeError:
        buffer = _kept.buffer = np.empty(USUAL_BYTES, np.uint8)
    try:
        return bytes(buffer[: unpack(packed, buffer)])
    except cramjam.DecompressionError:
        pass  # damaged, or larger
    buffer = np.empty(
        MAX_UNPACKED_BYTES, np.uint8
    )  # the system gives memory only where it is written
    try:
        return bytes(buffer[: unpack(packed, buffer)])
    except cramjam.DecompressionError as error:
        raise UnpackError(f"{name}: {error}, or more than {MAX_UNPACKED_BYTES} bytes") from None


def _check(size: int, most: int = MAX_UNPACKED_BYTES) -> None:
    if size > most:
        raise UnpackError(f"more than {MAX_UNPACKED_BYTES} bytes once unpacked")


CODECS: Final[dict[int, Callable[[bytes], bytes]]] = {1: gzip, 2: snappy, 3: lz4, 4: zstd}
"""The codecs by their numbers in a batch's attributes."""

_REPLACED: Final[dict[str, Callable[..., bytes]]] = {
    "gzip_decode": gzip,
    "snappy_decode": snappy,
    "lz4_decode": lz4,
    "zstd_decode": zstd,
    "zstd_encode": pack_zstd,
}
"""Functions of aiokafka's modules."""

_MMAP_THRESHOLD: Final = -3
"""The number of glibc's parameter M_MMAP_THRESHOLD, see mallopt(3)."""


def install() -> None:
    """Let aiokafka pack and unpack by these functions, in all clients of the process.

    Memory of a megabyte and more goes back to the system once it is free: by itself glibc learns
    from one large message to keep as much forever.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, USUAL_BYTES)
    for name, function in _REPLACED.items():
        for module in (default_records, legacy_records):
            if hasattr(module, name):
                setattr(module, name, function)
