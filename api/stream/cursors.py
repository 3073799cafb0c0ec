"""How far the topics have been read, as the id of an event.

Partitions of both topics count as one row of parts: those of the candles, then those of the
forecasts. A position is the next offset to read of each part, so it means the same to every
instance of the API, before and after a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

Source = tuple[int, int]
"""Part and offset of a message."""

Positions = Sequence[int]
"""The next offset to read, of each part."""


def tag_of(topics: Iterable[str], parts: int) -> str:
    """Return what ids of these topics begin with: those of others are not understood."""
    names = "\n".join((*topics, str(parts)))
    return hashlib.blake2b(names.encode(), digest_size=4).hexdigest()


def encode(tag: str, positions: Positions) -> str:
    """Return positions as an id."""
    return f"{tag}-{'.'.join(map(str, positions))}"


def decode(tag: str, parts: int, identity: str) -> list[int] | None:
    """Return the positions that an id stands for; None if it is none of these topics."""
    own, _, rest = identity.partition("-")
    numbers = rest.split(".", maxsplit=parts)
    if own != tag or len(numbers) != parts or not all(map(_is_offset, numbers)):
        return None
    return [int(one) for one in numbers]


def is_after(sources: Iterable[Source], positions: Positions) -> bool:
    """Whether something that follows from these messages is not known at a position."""
    return any(offset >= positions[part] for part, offset in sources)


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
