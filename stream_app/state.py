"""What the worker remembers of a series, as bytes, and as records of the windows' changelog.

A whole state is some 7 kB, and a new candle changes little of it. So most records are *spans*:
the messages since the series' record before, each with what it adds (a candle, a forecast that is
pending), and what the last of them leaves: offsets and calibration. Each record carries the
``order`` of the last message in it, which rises with every message that is applied, and a span
the order ``previous`` that it begins behind. Why any log of them gives back what was
(``tests/unit/stream_app/test_state.py`` tries it with all kinds of faults):

- A state depends on nothing but the messages up to its order, and the model.
- A whole record is the state as of its order. A span that begins at or before a state's order and
  ends behind it holds every message in between, so it leads from the one state to the other.
- A writer sends a span only when the record that ends at its ``previous`` is acknowledged, or was
  read from the log; else it sends a whole record. So from the whole record with the highest order
  spans lead to every state that was ever acknowledged behind it, whoever wrote them, and in any
  order of the log: also behind a worker that was paused past its session's end and writes late.
- A span's key ends with its number since the last whole record, up to ``SPANS``. The next record
  of that key comes behind a whole record with a higher order, so compaction takes away only what
  leads nowhere.

While a symbol's messages come from one partition, the order is their offset there. A symbol that
changes its partition (more partitions, a client with another partitioner) takes its state along,
as a whole record: offsets are compared within a partition only, and the order goes on by one for
each message.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from shared.candles import MAX_CANDLES, MAX_NUMBER, MIN_PRICE, Candle
from shared.messages import END_MS, FIRST_MS
from shared.window import RECORD_BYTES, Push, Window, record_of
from stream_app.ledger import Ledger, are_finite

_HEAD: Final = struct.Struct("<BBqqqdHBiqiqdHHHH")
"""Format, kind, order, previous, close_ms, last_close, tail, number of offsets, two partitions with
offsets, baseline's variance, bytes of layouts and of calibration, bytes of an entry, entries (of a
span: messages)."""

_EVENT: Final = struct.Struct("<qB")
"""Order of a message, and what of it follows."""

_FORMAT: Final = 5
_WHOLE: Final = 0
_SPAN: Final = 1
_CANDLE: Final = 1
_ENTRY: Final = 2

ORDERS_END: Final = 1 << 62
"""Bound of orders and offsets, which leaves room to count on."""

PARTITIONS: Final = 2
"""Partitions of which a state remembers the newest offset; a symbol rarely has more than one."""

SPANS: Final = 32
"""Most spans behind a whole record, which so costs each candle little."""

STALE: Final = 0xFFFF
"""``tail`` of a state whose next record must be a whole one."""

TAIL_KEY: Final = b"|tail"
"""Comes between a series and the number of a span in its record's key; no interval is called so."""


class StateError(Exception):
    """A stored state that this version cannot read, or that does not fit the topics."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a message added to a state."""

    order: int
    record: bytes = b""  # of its candle, where that changed the window
    entry: bytes = b""  # of the forecast made at it, where one was


@dataclass(frozen=True, slots=True)
class SymbolState:
    """All that the worker remembers of one symbol and interval.

    Every forecast and score up to ``offsets`` has been acknowledged by the broker before the state
    was stored.
    """

    window: Window
    order: int = -1  # rises with each message applied
    offsets: tuple[tuple[int, int], ...] = ()  # partition, newest offset applied; newest first
    close_ms: int = 0  # close of the newest candle, UTC
    last_close: float = 0.0  # its price, quote currency, in 64 bits
    tail: int = STALE  # spans since the last whole record
    ledger: Ledger = field(default_factory=Ledger)

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

    def with_tail(self, tail: int) -> SymbolState:
        """Return the state after a number of spans since the last whole record."""
        return SymbolState(
            self.window, self.order, self.offsets, self.close_ms, self.last_close, tail, self.ledger
        )

    def with_ledger(self, ledger: Ledger) -> SymbolState:
        """Return the state with another ledger."""
        return SymbolState(
            self.window, self.order, self.offsets, self.close_ms, self.last_close, self.tail, ledger
        )

    def encode(self) -> bytes:
        """Return the state as stored."""
        ledger = self.ledger
        return b"".join(
            (
                self.head(_WHOLE, self.order, len(ledger.layouts), ledger.count),
                ledger.layouts,
                ledger.calibration,
                ledger.entries,
                self.window.records,
            )
        )

    def head(self, kind: int, previous: int, layouts: int, count: int) -> bytes:
        """Return the head of a record of the state."""
        pairs = [part for pair in (*self.offsets, (0, 0), (0, 0))[:PARTITIONS] for part in pair]
        ledger = self.ledger
        return _HEAD.pack(
            _FORMAT, kind, self.order, previous, self.close_ms, self.last_close, self.tail,
            len(self.offsets), *pairs, ledger.variance, layouts, len(ledger.calibration),
            ledger.entry_bytes, count,
        )  # fmt: skip

    @classmethod
    def decode(cls, stored: bytes, capacity: int) -> SymbolState:
        """Return a stored state, its window cut to the newest ``capacity`` candles.

        Raises:
            StateError: when it is not a state of this format.
        """
        check(stored)
        head = _HEAD.unpack_from(stored)
        _, _, order, _, close_ms, last_close, tail, known, *pairs = head[:12]
        variance, layouts, calibration, size, count = head[12:]
        at = _HEAD.size
        parts = []
        for length in (layouts, calibration, size * count):
            parts.append(stored[at : at + length])
            at += length
        ledger = Ledger(parts[0], parts[1], variance, size, parts[2])
        offsets = ((pairs[0], pairs[1]), (pairs[2], pairs[3]))[:known]
        window = Window.from_records(capacity, stored[at:])
        return cls(window, order, offsets, close_ms, last_close, tail, ledger)

    def lengthened(self, records: bytes, capacity: int) -> SymbolState:
        """Return the state with older candles too, from the same topic; its next record is whole.

        Args:
            records: a window of the series as of an earlier message; what this one holds wins.
            capacity: most candles in the window.
        """
        window = Window.from_records(capacity, union(records, self.window.records))
        return replace(self, window=window, tail=STALE)

    def to_write(
        self, key: bytes, before: SymbolState | None, events: Sequence[Event]
    ) -> tuple[SymbolState, bytes, bytes]:
        """Return the state once written, and the key and value of the record to write.

        Args:
            key: of the series.
            before: the state that was last written; None for a new series.
            events: the messages since, in order.
        """
        ledger = self.ledger
        added = len(events) * (RECORD_BYTES + ledger.entry_bytes)
        if (
            before is None
            or before.tail >= SPANS
            or self.tail == STALE
            or ledger.layouts != before.ledger.layouts
            or added > len(self.window.records) + len(ledger.entries)
        ):
            whole = self.with_tail(0)
            return whole, key, whole.encode()
        written = self.with_tail(before.tail + 1)
        parts = [written.head(_SPAN, before.order, 0, len(events)), ledger.calibration]
        for event in events:
            flags = (_CANDLE if event.record else 0) | (_ENTRY if event.entry else 0)
            parts += [_EVENT.pack(event.order, flags), event.record]
            if event.entry:
                parts.append(event.entry.ljust(ledger.entry_bytes, b"\0"))
        return written, key + TAIL_KEY + b"%d" % written.tail, b"".join(parts)

    def following(self, span: bytes) -> SymbolState:
        """Return the state that a span leads to; the same where it leads no further."""
        head = _HEAD.unpack_from(span)
        _, _, order, previous, close_ms, last_close, tail, known, *pairs = head[:12]
        variance, _, calibration, size, count = head[12:]
        if not previous <= self.order < order:
            return self
        window, ledger = self.window, self.ledger
        if calibration != len(ledger.calibration) or size != ledger.entry_bytes:
            return self  # of a writer with another model
        at = _HEAD.size
        learned = span[at : at + calibration]
        at += calibration
        for _ in range(count):
            event, flags = _EVENT.unpack_from(span, at)
            at += _EVENT.size
            record, entry = b"", None
            if flags & _CANDLE:
                record = span[at : at + RECORD_BYTES]
                at += RECORD_BYTES
            if flags & _ENTRY:
                entry = span[at : at + size]
                at += size
            if event <= self.order or not record:
                continue
            window, push = window.push_record(record)
            open_ms = int.from_bytes(record[:8], "little", signed=True)
            ledger = ledger.noting(push, open_ms, entry)
        ledger = ledger.learned(learned, variance)
        offsets = ((pairs[0], pairs[1]), (pairs[2], pairs[3]))[:known]
        return SymbolState(window, order, offsets, close_ms, last_close, tail, ledger)


def effect(window: Window, push: Push, candle: Candle) -> bytes:
    """Return what an event says of a candle: its record, nothing where it changed nothing.

    Args:
        window: after the candle.
        push: what it did.
        candle: itself.
    """
    if push is Push.APPENDED or push is Push.REPLACED_NEWEST:
        return window.records[-RECORD_BYTES:]
    return b"" if push is Push.DUPLICATE or push is Push.TOO_OLD else record_of(candle)


def check(stored: bytes) -> None:
    """Raise ``StateError`` unless some bytes are a state or a record of this format."""
    if stored[:1] != bytes((_FORMAT,)) and stored:
        raise StateError(f"window state: expected format {_FORMAT}, got {stored[0]}")
    if len(stored) < _HEAD.size:
        raise StateError(f"window state: expected at least {_HEAD.size} bytes, got {len(stored)}")
    kind = stored[1]
    layouts, calibration, size, count = _HEAD.unpack_from(stored)[13:]
    rest = len(stored) - _HEAD.size - layouts - calibration
    if kind not in {_WHOLE, _SPAN}:
        raise StateError(f"window state: expected a whole record or a span, got kind {kind}")
    if kind == _WHOLE:
        rest -= size * count
        fits = rest >= 0 and rest % RECORD_BYTES == 0
    else:
        fits = 0 <= rest - count * _EVENT.size <= count * (RECORD_BYTES + size)
    if not fits:
        raise StateError(
            f"window state: expected the bytes that its head says and {RECORD_BYTES} for each "
            f"candle, got {len(stored)}"
        )


def validate(stored: bytes) -> None:
    """Check the head of a changelog's record: whoever may write there may write anything.

    Raises:
        StateError: naming what is wrong, what was expected and what is there.
    """
    check(stored)
    _, kind, order, previous, close_ms, last_close, tail, known, *rest = _HEAD.unpack_from(stored)
    first, newest, second, other, variance, _, _, _, count = rest
    if not (
        0 <= previous <= order < ORDERS_END
        and 1 <= known <= PARTITIONS
        and first >= 0 <= second
        and 0 <= newest < ORDERS_END
        and 0 <= other < ORDERS_END
    ):
        raise StateError(
            f"window state: expected an order, 1 or 2 partitions and offsets below {ORDERS_END}, "
            f"got order {order} behind {previous}, {known} partitions, {(first, newest)}, "
            f"{(second, other)}"
        )
    if not (FIRST_MS <= close_ms < END_MS and MIN_PRICE / 2 <= last_close <= 2 * MAX_NUMBER):
        raise StateError(
            "window state: expected a close of 1900 to 2199 at a price, "
            f"got {close_ms} at {last_close}"
        )
    if not 0 <= variance < math.inf:
        raise StateError(f"window state: expected a variance, got {variance}")
    most = MAX_CANDLES if kind == _WHOLE else len(stored)
    if (tail > SPANS and tail != STALE) or count > most or _candles_in(stored) > MAX_CANDLES:
        raise StateError(
            f"window state: expected at most {SPANS} spans and {MAX_CANDLES} candles, got a tail "
            f"of {tail} and {_candles_in(stored)} candles"
        )


def _candles_in(stored: bytes) -> int:
    """Return how many candles a whole record holds, or a span at most."""
    kind = stored[1]
    layouts, calibration, size, count = _HEAD.unpack_from(stored)[13:]
    if kind != _WHOLE:
        return int(count)
    rest = len(stored) - _HEAD.size - layouts - calibration - size * count
    return int(rest // RECORD_BYTES)


def validate_content(stored: bytes) -> None:
    """Check what a record holds behind its head; raises ``StateError``."""
    if stored[1] == _WHOLE:
        state = SymbolState.decode(stored, MAX_CANDLES)
        wrong = state.window.fault() or state.ledger.fault()
    else:
        wrong = _span_fault(stored)
    if wrong:
        raise StateError(f"window state: {wrong}")


def _span_fault(span: bytes) -> str:
    """Return what no span of ours has; empty for one of ours."""
    head = _HEAD.unpack_from(span)
    order, previous, calibration, size, count = head[2], head[3], *head[14:]
    at = _HEAD.size
    if not are_finite(span[at : at + calibration]):
        return "expected a calibration of finite numbers"
    at += calibration
    for _ in range(count):
        if at + _EVENT.size > len(span):
            return f"expected {count} messages, got fewer"
        event, flags = _EVENT.unpack_from(span, at)
        at += _EVENT.size
        if not previous < event <= order or flags > _CANDLE | _ENTRY:
            return f"expected orders that rise to {order}, got {event} behind {previous}"
        previous = event
        if flags & _CANDLE:
            wrong = Window(1, span[at : at + RECORD_BYTES]).fault()
            if wrong:
                return wrong
            at += RECORD_BYTES
        at += size if flags & _ENTRY else 0
    return "" if at == len(span) else f"expected {at} bytes, got {len(span)}"


def stored_order(stored: bytes) -> int:
    """Return the order in a stored state or a record without decoding the rest."""
    order: int = _HEAD.unpack_from(stored)[2]
    return order


def stored_offsets(stored: bytes) -> tuple[tuple[int, int], ...]:
    """Return the partitions and newest offsets in a stored state without decoding the rest."""
    count, first, first_offset, second, second_offset = _HEAD.unpack_from(stored)[7:12]
    return ((first, first_offset), (second, second_offset))[:count]


def is_span(record: bytes) -> bool:
    """Tell whether a record is a span; it must have a head."""
    return record[1] == _SPAN


def series_of(key: bytes) -> tuple[bytes, bool]:
    """Return the series of a record's key, and whether the record is a span."""
    series, mark, _ = key.partition(TAIL_KEY)
    return series, bool(mark)


def span_keys(key: bytes) -> list[bytes]:
    """Return the keys of all spans of a series."""
    return [key + TAIL_KEY + b"%d" % number for number in range(1, SPANS + 1)]


def join(whole: bytes, spans: Iterable[bytes], capacity: int) -> bytes:
    """Return the stored state that a whole record and spans give together.

    Args:
        whole: the series' whole record with the highest order.
        spans: others of its records, in any order.
        capacity: candles in a window.
    """
    state = SymbolState.decode(whole, capacity)
    for span in sorted(spans, key=_previous_and_order):
        state = state.following(span)
    return state.encode()


def union(older: bytes, newer: bytes) -> bytes:
    """Return the candles of two windows, sorted; of one opening time that of the newer window."""
    of_time = _by_time(older) | _by_time(newer)
    return b"".join(of_time[open_ms] for open_ms in sorted(of_time))


def _by_time(records: bytes) -> dict[int, bytes]:
    return {
        int.from_bytes(records[at : at + 8], "little", signed=True): records[at : at + RECORD_BYTES]
        for at in range(0, len(records), RECORD_BYTES)
    }


def _previous_and_order(span: bytes) -> tuple[int, int]:
    _, _, order, previous = _HEAD.unpack_from(span)[:4]
    return previous, order
