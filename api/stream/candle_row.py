"""The newest candles of a series, packed: 120 bytes each instead of 320 as objects; no I/O."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from shared.messages import FIRST_MS

CANDLE_BYTES: Final = 120
"""What a candle takes in memory, about."""

# Times since FIRST_MS, unsigned and big-endian: packed candles sort by their opening times.
_PACKED: Final = Struct(">QQ5dq")
_OPEN: Final = slice(0, 8)
_CLOSE: Final = slice(8, 16)
_CONTENT: Final = slice(0, 56)


class KeptCandle(NamedTuple):
    """A candle of the topic."""

    open_ms: int
    close_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    appended_ms: int  # by the broker

    def as_json(self) -> dict[str, float]:
        """Return the candle as ``StreamCandle`` has it."""
        whole = self._asdict()
        del whole["appended_ms"]
        return whole


class CandleRow:
    """Candles by opening time."""

    __slots__ = ("_packed",)

    def __init__(self) -> None:
        self._packed: list[bytes] = []

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[KeptCandle]:
        return map(_unpack, self._packed)

    def __getitem__(self, number: int) -> KeptCandle:
        return _unpack(self._packed[number])

    def newest(self, count: int) -> list[KeptCandle]:
        """Return the newest candles, at most so many; ``count`` is positive."""
        return [_unpack(packed) for packed in self._packed[-count:]]

    def put(self, candle: KeptCandle, most: int) -> bool:
        """Put a candle in its place; return whether that changed anything."""
        open_ms, close_ms, *rest = candle
        packed, kept = _PACKED.pack(open_ms - FIRST_MS, close_ms - FIRST_MS, *rest), self._packed
        if not kept or packed[_OPEN] > kept[-1][_OPEN]:
            kept.append(packed)
            if len(kept) > most:
                del kept[0]
            return True
        at = bisect_left(kept, packed[_OPEN])
        if kept[at][_OPEN] == packed[_OPEN]:
            if kept[at][_CONTENT] == packed[_CONTENT]:
                return False
            kept[at] = packed
            return True
        if len(kept) >= most:
            return False
        kept.insert(at, packed)
        return True

    def drop_oldest(self) -> None:
        """Forget the oldest candle; there must be one."""
        del self._packed[0]

    def closes_after(self, time_ms: int) -> list[int]:
        """Return the closes of the candles that closed after a time, oldest first."""
        at = bisect_right(self._packed, time_ms, key=_close_ms)
        return [_close_ms(packed) for packed in self._packed[at:]]

    def closed_at(self, close_ms: int) -> KeptCandle | None:
        """Return the candle that closed at a time; None where there is none."""
        at = bisect_left(self._packed, close_ms, key=_close_ms)
        found = self[at] if at < len(self) else None
        return found if found and found.close_ms == close_ms else None


def _unpack(packed: bytes) -> KeptCandle:
    since_open, since_close, *rest = _PACKED.unpack(packed)
    return KeptCandle(FIRST_MS + since_open, FIRST_MS + since_close, *rest)


def _close_ms(packed: bytes) -> int:
    return FIRST_MS + int.from_bytes(packed[_CLOSE])
