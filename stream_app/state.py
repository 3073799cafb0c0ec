"""What the worker remembers of a symbol, as bytes, and as records of the windows' changelog.

A whole window is 4 kB, and a new candle changes 28 bytes of it. So most records are *tails*: the
candles that the last *whole* record of the symbol lacks, under a key of their own. Each record
carries the source offset ``n`` of the last message in it. Why any log of them gives back what
was (``tests/unit/test_state.py`` tries it with all kinds of faults):

- A whole record is the window as of its ``n``, which depends on nothing but the messages.
- A writer sends a tail only when a whole record with a lower ``n`` is acknowledged, and no message
  in between touched a candle before the tail's first one; else it sends a whole record.
- So the tail with the highest ``n``, on the candles that opened before it in the whole record with
  the highest ``n``, is the window as of the tail's ``n``. A whole record with a higher ``n``
  needs no tail. This holds for records of any writers in any order, of a worker too that was
  paused past its session's end and writes behind its successor.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from shared.window import RECORD_BYTES, Window

_HEAD: Final = struct.Struct("<BqqdH")  # format, offset, close_ms, last_close, tail
_FORMAT: Final = 2

TAIL_CANDLES: Final = 16
"""Most candles in a tail: about the square root of twice a window's, which sends least."""

TAIL_KEY: Final = b"|tail"
"""Ends the key of a tail's record; no interval is called so."""


class StateError(Exception):
    """A stored state that this version cannot read, or that does not fit the topics."""


@dataclass(frozen=True, slots=True)
class SymbolState:
    """All that the worker remembers of one symbol and interval.

    ``offset`` is the source offset of the last message that was applied: every forecast up to
    it has been acknowledged by the broker before the state was stored.
    """

    window: Window
    offset: int = -1
    close_ms: int = 0  # close of the newest candle, UTC
    last_close: float = 0.0  # its price, quote currency, in 64 bits
    tail: int = 0  # newest candles that the last whole record lacks; all when it is out of date

    def encode(self) -> bytes:
        """Return the state as stored: 27 bytes and 28 for each candle."""
        return self._head() + self.window.records

    def _head(self) -> bytes:
        return _HEAD.pack(_FORMAT, self.offset, self.close_ms, self.last_close, self.tail)

    @classmethod
    def decode(cls, stored: bytes, capacity: int) -> SymbolState:
        """Return a stored state, its window cut to the newest ``capacity`` candles.

        Raises:
            StateError: when the format is another.
        """
        version, offset, close_ms, last_close, tail = _HEAD.unpack_from(stored)
        if version != _FORMAT:
            raise StateError(f"window state: expected format {_FORMAT}, got {version}")
        window = Window.from_records(capacity, stored[_HEAD.size :])
        return cls(window, offset, close_ms, last_close, min(tail, len(window)))

    def touches_whole(self, open_ms: int) -> bool:
        """Tell whether a candle changes one that only the last whole record has."""
        records = self.window.records
        return open_ms < _opening(records, len(records) - self.tail * RECORD_BYTES)

    def to_write(self, key: bytes) -> tuple[SymbolState, bytes, bytes]:
        """Return the state once written, and the key and value of the record to write."""
        if self.tail > TAIL_CANDLES or self.tail >= len(self.window):
            whole = replace(self, tail=0)
            return whole, key, whole.encode()
        newest = self.window.records[len(self.window.records) - self.tail * RECORD_BYTES :]
        return self, key + TAIL_KEY, self._head() + newest


def stored_offset(stored: bytes) -> int:
    """Return the source offset in a stored state or a record without decoding the rest."""
    offset: int = _HEAD.unpack_from(stored)[1]
    return offset


def join(whole: bytes, tail: bytes, capacity: int) -> bytes:
    """Return the stored state that a whole record and a tail give together.

    Args:
        whole: the symbol's whole record with the highest source offset.
        tail: its tail with the highest source offset.
        capacity: candles in a window.
    """
    if stored_offset(whole) >= stored_offset(tail):
        return whole
    older, newer = whole[_HEAD.size :], tail[_HEAD.size :]
    end = len(older)
    if newer:
        first_ms = _opening(newer, 0)
        while end and _opening(older, end - RECORD_BYTES) >= first_ms:
            end -= RECORD_BYTES
    window = Window.from_records(capacity, older[:end] + newer)
    return tail[: _HEAD.size] + window.records


def _opening(records: bytes, at: int) -> int:
    """Return when the candle at a position of some records opened; past the end: never."""
    if at >= len(records):
        return 1 << 62
    return int.from_bytes(records[at : at + 8], "little", signed=True)
