"""Kafka offsets as event ids, so that ``Last-Event-ID`` resumes at any instance of the API.

Partitions of all topics count as one row of parts: those of the candles, then those of the
forecasts, then those of the scores. A position is the next offset to read of each part, so it
means the same to every instance of the API, before and after a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

Origin = tuple[int, int]
"""Part and offset of a message."""

Positions = Sequence[int]
"""The next offset to read, of each part."""


def tag_of(topics: Iterable[str], parts: int) -> str:
    """Return the beginning of these topics' ids, by which those of other topics are known."""
    names = "\n".join((*topics, str(parts)))
    return hashlib.blake2b(names.encode(), digest_size=4).hexdigest()


def encode(tag: str, positions: Positions) -> str:
    """Return positions as an id."""
    return f"{tag}-{'.'.join(map(str, positions))}"


def decode(tag: str, parts: int, identity: str) -> list[int] | None:
    """Return the positions that an id stands for; None for an id of other topics."""
    own, _, rest = identity.partition("-")
    numbers = rest.split(".", maxsplit=parts)
    if own != tag or len(numbers) != parts or not all(map(_is_offset, numbers)):
        return None
    return [int(number) for number in numbers]


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
