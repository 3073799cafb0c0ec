"""Batches of records as a broker sends them, read so that none of them stops a reader.

aiokafka raises for a batch that it cannot decode, and again each time, since its position stays
where it is. ``install`` has it read batches through ``SafeBatches``: what cannot be read comes
as a record whose value is a ``PartialValue``, with the offset behind which reading goes on.

The layout is Kafka's record batch of version 2
(https://kafka.apache.org/documentation/#recordbatch).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record import util
from aiokafka.record.memory_records import MemoryRecords

from shared import codecs
from shared.messages import PartialValue, measures
from shared.unusable import UnusableMessages

log = logging.getLogger(__name__)

MAX_VALUE_BYTES: Final = 64 << 10
"""Most bytes of a value that are kept: more than any message of ours, a whole window included."""

MAX_KEY_BYTES: Final = 1 << 10
MAX_HEADERS_BYTES: Final = 16 << 10
MAX_HEADERS: Final = 64

_FRAME: Final = struct.Struct(">qi")  # base offset, length of what follows
_HEAD: Final = struct.Struct(">qiibIhiqqqhii")
_MAGIC_AT: Final = 16
_VERSION: Final = 2
_CODEC, _APPEND_TIME = 0x07, 0x08  # in a batch's attributes
_LONGEST_BATCH: Final = 1 << 31  # most offsets that one may span

_varint: Final[Callable[[bytes, int], tuple[int, int]]] = cast("Any", util.decode_varint)
_fetcher: Final[Any] = fetcher

Headers = Sequence[tuple[str, bytes | None]]


class _Unreadable(ValueError):
    """A batch or record that cannot be decoded; its text is why."""


@dataclass(frozen=True, slots=True)
class SafeRecord:
    """A record of our own making, with what aiokafka reads of one."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    checksum: None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an answer's batches begin, or a record is."""

    topic: str = ""
    partition: int = -1
    offset: int = -1


class SafeBatches:
    """Batches in a broker's answer; has the methods of aiokafka's ``MemoryRecords``."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._at = 0
        self.place = _Place()  # the offset is that of the next record

    def size_in_bytes(self) -> int:
        """Return the size of the answer."""
        return len(self._data)

    def has_next(self) -> bool:
        """Tell whether there is a further batch; a broker may cut the last one off."""
        left = len(self._data) - self._at
        return left > 0 and (self._at == 0 or left >= _FRAME.size + self._length())

    def _length(self) -> int:
        return int(_FRAME.unpack_from(self._data, self._at)[1]) if self._has_frame() else 1 << 40

    def _has_frame(self) -> bool:
        return len(self._data) - self._at >= _FRAME.size

    def next_batch(self) -> SafeBatch:
        """Return the next batch, whatever it is."""
        start, whole = self._at, len(self._data)
        end = start + _FRAME.size + self._length()
        if not start + _MAGIC_AT < end <= whole:  # a whole batch comes first, so it is damaged
            self._at = whole
            return SafeBatch(self._data[start:], self.place, None, "its length is damaged")
        self._at = end
        following = _FRAME.unpack_from(self._data, end)[0] if self._has_frame() else None
        batch = SafeBatch(self._data[start:end], self.place, following)
        self.place = replace(self.place, offset=batch.next_offset)
        return batch


class SafeBatch:
    """One batch; has the attributes of aiokafka's own."""

    def __init__(
        self, frame: bytes, place: _Place, following: int | None, fault: str | None = None
    ) -> None:
        self._frame = frame
        self._place = place
        self._fault = fault
        self.base_offset = _FRAME.unpack_from(frame)[0] if len(frame) >= _FRAME.size else 0
        self.producer_id: int | None = None
        self.is_control_batch = self.is_transactional = False
        try:
            self._batch = self._open()
        except Exception as error:  # noqa: BLE001 - aiokafka's own are of many classes
            self._fault = str(error) or repr(error)
            self.next_offset = self._end(following)
            return
        self.next_offset = self._batch.next_offset
        self.producer_id = self._batch.producer_id
        self.is_control_batch = self._batch.is_control_batch
        self.is_transactional = self._batch.is_transactional

    def _open(self) -> Any:
        if self._fault is not None:
            raise _Unreadable(self._fault)
        magic = self._frame[_MAGIC_AT]
        if magic > _VERSION:
            raise _Unreadable(f"its format is {magic}, which is unknown")
        if magic == _VERSION and len(self._frame) < _HEAD.size:
            raise _Unreadable("it is shorter than its head")
        batch = MemoryRecords(self._frame).next_batch()
        if batch is None or not batch.validate_crc():
            raise _Unreadable("its checksum is wrong")
        ahead = batch.next_offset - self._place.offset  # the checksum leaves the offset out
        if not 0 < ahead < 2 * _LONGEST_BATCH:
            raise _Unreadable(f"its offset is damaged: {self.base_offset}")
        return batch

    def _end(self, following: int | None) -> int:
        """Return the offset to go on from, of a batch whose head may be damaged too."""
        end = self._place.offset + 1
        if len(self._frame) >= _HEAD.size:
            *_, delta, _, _, _, _, _, count = _HEAD.unpack_from(self._frame)
            claimed = self.base_offset + delta + 1
            is_sound = 0 <= delta == count - 1
            if is_sound and end <= claimed <= (following or self.base_offset + _LONGEST_BATCH):
                return int(claimed)
        return end

    def validate_crc(self) -> bool:
        """Return True: it was checked when the batch was opened."""
        return True

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        if self._fault is not None:
            yield self._remains(self._fault)
            return
        try:
            for record in self._batch:
                yield record if _is_small(record) else _bounded(record)
        except codecs.UnpackError as error:
            yield self._remains(str(error))
        except Exception as error:  # noqa: BLE001 - see above
            # from the first record: the fetcher drops those that it had
            yield from self._piecewise(str(error) or repr(error))

    def _piecewise(self, fault: str) -> Iterator[SafeRecord]:
        """Yield the records of a batch one by one, with those that cannot be read."""
        if self._frame[_MAGIC_AT] != _VERSION:
            yield self._remains(fault)
            return
        head = _HEAD.unpack_from(self._frame)
        attributes, first_ms, newest_ms = head[5], head[7], head[8]
        append_time = bool(attributes & _APPEND_TIME)
        payload = self._frame[_HEAD.size :]
        try:
            if attributes & _CODEC:
                payload = codecs.CODECS[attributes & _CODEC](payload)
            at = 0
            for _ in range(head[12]):
                length, start = _varint(payload, at)
                at = start + length
                if length < 0 or at > len(payload):
                    raise _Unreadable(f"a record of {length} bytes")
                delta_ms, delta, key, value, headers, wrong = _fields(payload[start:at])
                offset = self.base_offset + delta
                if not self.base_offset <= offset < self.next_offset:
                    raise _Unreadable(f"a record {delta} behind the first")
                record = SafeRecord(
                    offset,
                    newest_ms if append_time else first_ms + delta_ms,
                    int(append_time),
                    key,
                    value,
                    headers,
                )
                if wrong:
                    self._say(offset, offset, wrong)
                yield _bounded(record, wrong) if wrong or not _is_small(record) else record
        except (ValueError, IndexError, KeyError):
            yield self._remains(fault)

    def _remains(self, fault: str) -> SafeRecord:
        """Return what can be said of a batch, at its last offset: reading goes on behind it."""
        first, last = max(self.base_offset, self._place.offset), self.next_offset - 1
        first = min(first, last)
        self._say(first, last, fault)
        value = PartialValue.of(
            self._frame, MAX_VALUE_BYTES, f"offsets {first} to {last}: {fault}"[:500]
        )
        value.about["batch-offsets"] = f"{first} to {last}"
        return SafeRecord(last, 0, 0, None, value, ())

    def _say(self, first: int, last: int, fault: str) -> None:
        span = f"offsets {first} to {last}: {fault}" if first < last else fault
        place = _Place(self._place.topic, self._place.partition, first)
        _unreadable.note(place, "unreadable", _Unreadable(span))


_unreadable: Final = UnusableMessages(log)


def _fields(
    record: bytes,
) -> tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]], str]:
    """Return a record's time and offset after the first's, key, value, headers, and its fault.

    Raises:
        ValueError: when its fields do not fit its length.
        IndexError: likewise.
    """
    delta_ms, at = _varint(record, 1)  # behind the attributes
    delta, at = _varint(record, at)
    key, at = _field(record, at)
    value, at = _field(record, at)
    headers: list[tuple[str, bytes | None]] = []
    fault = ""
    count, at = _varint(record, at)
    for _ in range(count):
        name, at = _field(record, at)
        content, at = _field(record, at)
        if name is None:
            raise _Unreadable("a header without a name")
        try:
            headers.append((name.decode(), content))
        except UnicodeDecodeError:
            headers.append((name.decode(errors="backslashreplace"), content))
            fault = f"the header name {name[:60]!r} is not UTF-8"
    if at != len(record):
        raise _Unreadable(f"{len(record) - at} bytes behind a record's headers")
    return delta_ms, delta, key, value, headers, fault


def _field(record: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(record, at)
    if length < 0:
        return None, at
    if at + length > len(record):
        raise _Unreadable(f"a field of {length} bytes")
    return record[at : at + length], at + length


def _is_small(record: Any) -> bool:
    return (
        len(record.value or b"") <= MAX_VALUE_BYTES
        and len(record.key or b"") <= MAX_KEY_BYTES
        and (not record.headers or _headers_fit(record.headers))
    )


def _headers_fit(headers: Headers) -> bool:
    return len(headers) <= MAX_HEADERS and _size(headers) <= MAX_HEADERS_BYTES


def _size(headers: Headers) -> int:
    size = 0
    for name, content in headers:  # a generator takes twice as long, for each record that is read
        size += len(name) + (len(content) if content else 0)
    return size


def _bounded(record: Any, fault: str = "") -> SafeRecord:
    """Return a record of which only a part is kept, with the measures of the whole."""
    value = PartialValue.of(record.value or b"", MAX_VALUE_BYTES, fault)
    key, headers = record.key, record.headers
    if key is not None and len(key) > MAX_KEY_BYTES:
        value.about |= measures("key", key)
        key = key[:MAX_KEY_BYTES]
    if not _headers_fit(headers):
        value.about["headers-bytes"] = str(_size(headers))
        value.about["headers"] = str(len(headers))
        headers = ()
    return SafeRecord(record.offset, record.timestamp, record.timestamp_type, key, value, headers)


class SafePartition(fetcher.PartitionRecords):
    """The fetcher's reader of one partition's answer, which tells the batches where they lie."""

    def __init__(
        self, tp: TopicPartition, records: SafeBatches, aborted: Any, offset: int, *others: Any
    ) -> None:
        records.place = _Place(tp.topic, tp.partition, offset)
        super().__init__(tp, records, aborted, offset, *others)  # type: ignore[no-untyped-call]


def install() -> None:
    """Let all of aiokafka's consumers in this process read safely, once for all."""
    codecs.install()
    _fetcher.MemoryRecords = SafeBatches
    _fetcher.PartitionRecords = SafePartition
