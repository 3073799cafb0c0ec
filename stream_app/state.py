"""What the worker remembers of a symbol, as bytes, and as records of the windows' changelog.

A whole window is 4 kB, and a new candle changes 28 bytes of it. So most records are *tails*: the
candles that the last *whole* record of the symbol lacks, under a key of their own. Each record
carries the ``order`` of the last message in it, which rises with every message that is applied.
Why any log of them gives back what was (``tests/unit/stream_app/test_state.py`` tries it with all
kinds of faults):

- A whole record is the window as of its order, which depends on nothing but the messages.
- A writer sends a tail only when a whole record with a lower order is acknowledged, and no message
  in between touched a candle before the tail's first one; else it sends a whole record.
- So the tail with the highest order, on the candles that opened before it in the whole record with
  the highest order, is the window as of the tail's order. A whole record with a higher order
  needs no tail. This holds for records of any writers in any order, of a worker too that was
  paused past its session's end and writes behind its successor.

While a symbol's messages come from one partition, the order is their offset there. A symbol that
changes its partition (more partitions, a client with another partitioner) takes its window along:
offsets are compared within a partition only, and the order goes on by one for each message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from shared.candles import MAX_CANDLES, MAX_NUMBER, MIN_PRICE
from shared.messages import END_MS, FIRST_MS
from shared.window import RECORD_BYTES, Window

_HEAD: Final = struct.Struct("<BqqdHBiqiq")
"""Format, order, close_ms, last_close, tail, number of offsets, two partitions with offsets."""

_FORMAT: Final = 3

ORDERS_END: Final = 1 << 62
"""Bound of orders and offsets, which leaves room to count on."""

PARTITIONS: Final = 2
"""Partitions of which a state remembers the newest offset; a symbol rarely has more than one."""

TAIL_CANDLES: Final = 16
"""Most candles in a tail: about the square root of twice a window's, which sends least."""

TAIL_KEY: Final = b"|tail"
"""Ends the key of a tail's record; no interval is called so."""


class StateError(Exception):
    """A stored state that this version cannot read, or that does not fit the topics."""


@dataclass(frozen=True, slots=True)
class SymbolState:
    """All that the worker remembers of one symbol and interval.

    Every forecast up to ``offsets`` has been acknowledged by the broker before the state was
    stored.
    """

    window: Window
    order: int = -1  # rises with each message applied
    offsets: tuple[tuple[int, int], ...] = ()  # partition, newest offset applied; newest first
    close_ms: int = 0  # close of the newest candle, UTC
    last_close: float = 0.0  # its price, quote currency, in 64 bits
    tail: int = 0  # newest candles that the last whole record lacks; all when it is out of date

    def has_applied(self, partition: int, offset: int) -> bool:
        """Tell whether a message was applied before; offsets count within a partition only."""
        return any(offset <= newest for number, newest in self.offsets if number == partition)

    def moves_to(self, partition: int) -> bool:
        """Tell whether the newest message came from another partition."""
        return bool(self.offsets) and self.offsets[0][0] != partition

    def noting(self, partition: int, offset: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Return order and offsets once a message of a partition is applied."""
        order = max(self.order + 1, offset)
        if not self.offsets or self.offsets[0][0] == partition:
            return order, ((partition, offset), *self.offsets[1:])
        others = [pair for pair in self.offsets if pair[0] != partition]
        return order, ((partition, offset), *others)[:PARTITIONS]

    def encode(self) -> bytes:
        """Return the state as stored: 52 bytes and 28 for each candle."""
        return self._head() + self.window.records

    def _head(self) -> bytes:
        pairs = [part for pair in (*self.offsets, (0, 0), (0, 0))[:PARTITIONS] for part in pair]
        return _HEAD.pack(
            _FORMAT, self.order, self.close_ms, self.last_close, self.tail, len(self.offsets),
            *pairs,
        )  # fmt: skip

    @classmethod
    def decode(cls, stored: bytes, capacity: int) -> SymbolState:
        """Return a stored state, its window cut to the newest ``capacity`` candles.

        Raises:
            StateError: when it is not a state of this format.
        """
        check(stored)
        _, order, close_ms, last_close, tail, count, *pairs = _HEAD.unpack_from(stored)
        window = Window.from_records(capacity, stored[_HEAD.size :])
        offsets = ((pairs[0], pairs[1]), (pairs[2], pairs[3]))[:count]
        return cls(window, order, offsets, close_ms, last_close, min(tail, len(window)))

    def lengthened(self, records: bytes, capacity: int) -> SymbolState:
        """Return the state with older candles too, from the same topic; its next record is whole.

        Args:
            records: a window of the series as of an earlier message; what this one holds wins.
            capacity: most candles in the window.
        """
        window = Window.from_records(capacity, union(records, self.window.records))
        return replace(self, window=window, tail=len(window))

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


def check(stored: bytes) -> None:
    """Raise ``StateError`` unless some bytes are a state or a record of this format."""
    if len(stored) < _HEAD.size or (len(stored) - _HEAD.size) % RECORD_BYTES:
        raise StateError(
            f"window state: expected {_HEAD.size} bytes and {RECORD_BYTES} for each candle, "
            f"got {len(stored)}"
        )
    if stored[0] != _FORMAT:
        raise StateError(f"window state: expected format {_FORMAT}, got {stored[0]}")


def validate(stored: bytes) -> None:
    """Check the head of a changelog's record: whoever may write there may write anything.

    Raises:
        StateError: naming what is wrong, what was expected and what is there.
    """
    check(stored)
    _, order, close_ms, last_close, tail, count, first, newest, second, other = _HEAD.unpack_from(
        stored
    )
    if not (
        0 <= order < ORDERS_END
        and 1 <= count <= PARTITIONS
        and first >= 0 <= second
        and 0 <= newest < ORDERS_END
        and 0 <= other < ORDERS_END
    ):
        raise StateError(
            f"window state: expected an order, 1 or 2 partitions and offsets below {ORDERS_END}, "
            f"got order {order}, {count} partitions, {(first, newest)}, {(second, other)}"
        )
    if not (FIRST_MS <= close_ms < END_MS and MIN_PRICE / 2 <= last_close <= 2 * MAX_NUMBER):
        raise StateError(
            "window state: expected a close of 1900 to 2199 at a price, "
            f"got {close_ms} at {last_close}"
        )
    if tail > MAX_CANDLES or len(stored) > _HEAD.size + MAX_CANDLES * RECORD_BYTES:
        raise StateError(
            f"window state: expected at most {MAX_CANDLES} candles, got a tail of {tail} and "
            f"{(len(stored) - _HEAD.size) // RECORD_BYTES} candles"
        )


def validate_candles(stored: bytes) -> None:
    """Check the candles of a state or a record; raises ``StateError``."""
    wrong = Window(MAX_CANDLES, stored[_HEAD.size :]).fault()
    if wrong:
        raise StateError(f"window state: {wrong}")


def stored_order(stored: bytes) -> int:
    """Return the order in a stored state or a record without decoding the rest."""
    order: int = _HEAD.unpack_from(stored)[1]
    return order


def stored_offsets(stored: bytes) -> tuple[tuple[int, int], ...]:
    """Return the partitions and newest offsets in a stored state without decoding the rest."""
    *_, count, first, first_offset, second, second_offset = _HEAD.unpack_from(stored)
    return ((first, first_offset), (second, second_offset))[:count]


def join(whole: bytes, tail: bytes, capacity: int) -> bytes:
    """Return the stored state that a whole record and a tail give together.

    Args:
        whole: the symbol's whole record with the highest order.
        tail: its tail with the highest order.
        capacity: candles in a window.
    """
    if stored_order(whole) >= stored_order(tail):
        return whole
    older, newer = whole[_HEAD.size :], tail[_HEAD.size :]
    end = len(older)
    if newer:
        first_ms = _opening(newer, 0)
        while end and _opening(older, end - RECORD_BYTES) >= first_ms:
            end -= RECORD_BYTES
    window = Window.from_records(capacity, older[:end] + newer)
    return tail[: _HEAD.size] + window.records


def union(older: bytes, newer: bytes) -> bytes:
    """Return the candles of two windows, sorted; of one opening time that of the newer window."""
    of_time = _by_time(older) | _by_time(newer)
    return b"".join(of_time[open_ms] for open_ms in sorted(of_time))


def _by_time(records: bytes) -> dict[int, bytes]:
    return {
        _opening(records, at): records[at : at + RECORD_BYTES]
        for at in range(0, len(records), RECORD_BYTES)
    }


def _opening(records: bytes, at: int) -> int:
    """Return when the candle at a position of some records opened; past the end: never."""
    if at >= len(records):
        return 1 << 62
    return int.from_bytes(records[at : at + 8], "little", signed=True)
