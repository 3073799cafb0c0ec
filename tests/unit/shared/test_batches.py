"""Batches that a broker may send and aiokafka cannot decode: stepped over, with what is known."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import batches, codecs, kafka
from shared.candles import InvalidCandle, RejectReason, decode_candle
from shared.messages import PartialValue
from tests.record_batches import (
    Message,
    batch,
    read,
    record,
    with_format,
    with_wrong_checksum,
)

kafka.mend_clients()

GOOD: Final[list[Message]] = [
    (b"AAPL", b'{"n": %d}' % number, [(b"h", b"1"), (b"none", None)]) for number in range(5)
]
NEXT: Final = batch(GOOD[:1], base=5)
PACK: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: gzip.compress,
    2: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    3: lambda data: bytes(cramjam.lz4.compress(data)),
    4: lambda data: bytes(cramjam.zstd.compress(data)),
}


def packed(codec: int, messages: list[Message]) -> bytes:
    records = b"".join(record(delta, message) for delta, message in enumerate(messages))
    return batch(messages, codec=codec, payload=PACK[codec](records))


def fault_of(value: bytes | None) -> str:
    return value.fault if isinstance(value, PartialValue) else ""


DAMAGED: Final[dict[str, tuple[bytes, str]]] = {
    "checksum": (with_wrong_checksum(batch(GOOD)), "its checksum is wrong"),
    "unknown format": (with_format(batch(GOOD), 9), "its format is 9"),
    "old format": (with_format(batch(GOOD), 1), ""),
    "unknown codec": (batch(GOOD, codec=7), "codec"),
    "no records": (batch(GOOD, payload=b""), ""),
    "records of noise": (batch(GOOD, payload=b"\xff" * 300), ""),
    **{
        f"codec {codec} of noise": (batch(GOOD, codec=codec, payload=b"noise" * 20), "")
        for codec in PACK
    },
    **{
        f"codec {codec} cut off": (
            batch(GOOD, codec=codec, payload=PACK[codec](b"".join([record(0, GOOD[0])] * 5))[:-9]),
            "",
        )
        for codec in PACK
    },
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_batch_that_cannot_be_read_is_one_record_and_reading_goes_on(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches._unreadable, "_next_s", {})
    sent, fault = DAMAGED[name]
    first, second = read(sent + NEXT)
    assert (first.offset, second.offset, second.value) == (4, 5, b'{"n": 0}')
    assert "offsets 0 to 4: " in fault_of(first.value)
    assert fault in fault_of(first.value)
    assert "topic, partition 3, offset 0: passed over (unreadable)" in caplog.text
    with pytest.raises(InvalidCandle) as refused:
        decode_candle(first.key, first.value, 0)
    assert refused.value.reason is RejectReason.UNREADABLE


def test_a_header_name_that_is_no_text_costs_its_record_alone() -> None:
    for codec in (0, *PACK):
        messages = [*GOOD[:2], (b"AAPL", b"{}", [(b"\xff\xfe", b"1"), (b"h", b"2")]), *GOOD[3:]]
        sent = packed(codec, messages) if codec else batch(messages)
        records = read(sent + NEXT)
        assert [got.offset for got in records] == [0, 1, 2, 3, 4, 5]
        faults = [fault_of(got.value) for got in records]
        assert faults[2] == "the header name b'\\xff\\xfe' is not UTF-8"
        assert not any(faults[:2] + faults[3:])
        bad = records[2]
        assert (bad.key, bad.value) == (b"AAPL", b"{}")
        assert bad.headers == (("\\xff\\xfe", b"1"), ("h", b"2"))


@pytest.mark.parametrize("codec", PACK)
def test_every_codec_is_read(codec: int) -> None:
    assert read(packed(codec, GOOD)) == read(batch(GOOD))
    assert len(read(packed(codec, GOOD))) == 5


def test_snappy_is_read_in_javas_framing() -> None:
    from aiokafka.codec import snappy_encode  # noqa: PLC0415

    assert codecs.snappy(snappy_encode(b"candle" * 30_000)) == b"candle" * 30_000


@pytest.mark.parametrize("codec", PACK)
def test_a_large_record_is_kept_in_part_with_the_measures_of_the_whole(codec: int) -> None:
    """Ten megabytes are ten kilobytes on the wire."""
    huge = (b"k" * 5000, b"x" * 10_000_000, [(b"h", b"y" * 100_000)])
    [got] = read(packed(codec, [huge]))
    assert isinstance(got.value, PartialValue)
    assert len(got.value) == batches.MAX_VALUE_BYTES
    assert got.value.about["value-bytes"] == "10000000"
    assert got.value.about["key-bytes"] == "5000"
    assert got.value.about["headers-bytes"] == "100001"
    assert len(got.value.about["value-sha256"]) == len(got.value.about["key-sha256"]) == 64
    assert got.key == b"k" * batches.MAX_KEY_BYTES
    assert got.headers == ()


@pytest.mark.parametrize("codec", PACK)
def test_a_bomb_is_not_unpacked_beyond_the_bound(codec: int) -> None:
    bomb = packed(codec, [(b"k", b"x" * (codecs.MAX_BATCH_BYTES + 1), [])])
    tracemalloc.start()
    try:
        first, second = read(bomb + batch(GOOD[:1], base=1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"{codecs.MAX_BATCH_BYTES} bytes" in fault_of(first.value)
    assert second.value == b'{"n": 0}'
    assert peak < len(bomb) * 3 + 2.1 * codecs.MAX_BATCH_BYTES


def test_an_answer_is_read_from_the_offset_that_was_requested() -> None:
    assert [got.offset for got in read(batch(GOOD, base=10), 12)] == [12, 13, 14]
    [got] = read(with_wrong_checksum(batch(GOOD)), 2)
    assert "offsets 2 to 4" in fault_of(got.value)


def test_a_last_batch_that_is_cut_off_is_left_for_the_next_answer() -> None:
    assert [got.offset for got in read(batch(GOOD) + NEXT[:-1])] == [0, 1, 2, 3, 4]


@given(st.binary(max_size=300), st.integers(0, 70))
def test_noise_never_stops_a_reader_nor_takes_it_back(noise: bytes, at: int) -> None:
    sent = bytearray(batch(GOOD))
    sent[at : at + len(noise)] = noise
    offsets = [got.offset for got in read(bytes(sent), 2)]
    assert offsets == sorted(offsets)
    assert all(offset >= 2 for offset in offsets)
    assert offsets, "or it would be requested again, and again"


@given(st.sampled_from(sorted(PACK)), st.binary(max_size=200), st.integers(0, 60))
def test_damaged_packing_is_an_error_of_ours(codec: int, noise: bytes, at: int) -> None:
    payload = bytearray(PACK[codec](b"".join(record(0, got) for got in GOOD)))
    payload[at : at + len(noise)] = noise
    with suppress(codecs.UnpackError):
        codecs.CODECS[codec](bytes(payload))
