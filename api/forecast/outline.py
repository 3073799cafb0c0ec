"""Large JSON bodies in two parts: an outline, read at once, and arrays of numbers or candles.

The arrays are found by their key and end, not by parsing: a body of 16 MB takes 2 ms, in slices
of some microseconds. ``msgspec.Raw`` needs 10 ms for it, in one go that holds up everybody else.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from api.edge.problems import broken_field
from api.edge.requests import MAX_BODY_BYTES
from api.edge.slicing import Work

MAX_ARRAYS: Final = 10_000
"""Most arrays in a body that are looked for."""

SEARCH_BYTES: Final = 1 << 20
"""Bytes of a body that one slice searches for the next array."""

Buffer = bytes | bytearray

EndOf = Callable[[Buffer, int], int]
"""Takes a body and where an array begins in it; returns where it ends, -1 if it does not."""


def end_of_objects(body: Buffer, begin: int) -> int:
    """Return the end of an array of objects which hold no arrays."""
    close = body.find(b"]", begin)
    return close + 1 if close >= 0 else -1


def end_of_numbers(body: Buffer, begin: int) -> int:
    """Return the end of an array of numbers, or of such arrays: no string or object is inside."""
    brace = body.find(b"}", begin)
    stop = brace if brace >= 0 else len(body)
    quote = body.find(b'"', begin, stop)
    close = body.rfind(b"]", begin, quote if quote >= 0 else stop)
    return close + 1 if close >= 0 else -1


@dataclass
class Outline:
    """A body in which marks, which are strings, stand in the places of its large arrays.

    No body can know the marks, and within another string their quotes would break the outline.
    So an outline that is JSON, and arrays that are, prove that the body is: each array has to be
    read.
    """

    text: bytes
    _mark: str
    _arrays: list[memoryview]
    _unread: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self._unread = set(range(len(self._arrays)))

    def array(self, value: object) -> memoryview | None:
        """Return the array in whose place the outline has a value; None if that is not a mark."""
        if not (isinstance(value, str) and value.startswith(self._mark)):
            return None
        number = int(value.removeprefix(self._mark))
        self._unread.discard(number)
        return self._arrays[number]

    def require_all_read(self) -> None:
        """Refuse a body with an array that was not read; raises ``ProblemError``."""
        if self._unread:
            expected = "each key once, and arrays only where they are read"
            raise broken_field(("body",), "unread_array", expected, "others")


def outline_of(body: Buffer, key: str, end_of: EndOf) -> Work[Outline]:
    """Return the outline of a body, with the arrays under a key put aside.

    An array whose key is written in another way, with escapes, stays in the outline.

    Raises:
        ProblemError: when there are too many arrays, or the outline is too large.
    """
    mark = secrets.token_hex(8)
    arrays: list[memoryview] = []
    parts: list[Buffer] = []
    view = memoryview(body)
    done = size = 0
    for place in _places(body, key, end_of):
        if place is not None:
            begin, end = place
            parts += body[done:begin], f'"{mark}{len(arrays)}"'.encode()
            size += begin - done
            arrays.append(view[begin:end])
            done = end
        if size > MAX_BODY_BYTES:
            break
        yield
    size += len(body) - done
    if size > MAX_BODY_BYTES:
        expected = f"at most {MAX_BODY_BYTES} bytes beside the arrays"
        raise broken_field(("body",), "too_large", expected, f"at least {size}")
    return Outline(b"".join((*parts, body[done:])), mark, arrays)


def _places(body: Buffer, key: str, end_of: EndOf) -> Iterator[tuple[int, int] | None]:
    """Yield where arrays begin and end, None after a stretch without one."""
    name = f'"{key}"'.encode()
    opening = re.compile(re.escape(name) + rb"\s{0,64}:\s{0,64}(?=\[)")
    at = found = 0
    while at < len(body):
        near = body.find(name, at, at + SEARCH_BYTES + len(name))
        if near < 0:
            at += SEARCH_BYTES
            yield None
            continue
        found += 1
        if found > MAX_ARRAYS:
            raise broken_field(("body",), "too_long", f"at most {MAX_ARRAYS} arrays", "more")
        opened = opening.match(body, near)
        end = end_of(body, opened.end()) if opened else -1
        if opened is None or end < 0:
            at = near + len(name)
            yield None
            continue
        yield opened.end(), end
        at = end
