"""What others may write into the changelog: each is refused with its place, whatever it is."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import PartialValue
from shared.window import RECORD_BYTES, Window
from stream_app.rebuild import SOURCE_KEY, skip_key
from stream_app.state import TAIL_KEY, StateError, SymbolState
from stream_app.windows import WindowStore, WindowTable
from tests.candles import walk

KEY: Final = b"AAPL|1d"
HEAD: Final = struct.Struct("<BqqdHBiqiq")


def state() -> bytes:
    """Return the record of a window of four candles."""
    window = Window(8)
    for candle in walk(4):
        window, _ = window.push(candle)
    return SymbolState(window, 7, ((3, 7),), walk(4)[-1].close_ms, 100.0).encode()


STATE: Final = state()


def with_head(**changes: Any) -> bytes:
    names = [
        "format",
        "order",
        "close_ms",
        "last_close",
        "tail",
        "count",
        "first",
        "at",
        "second",
        "at2",
    ]
    fields = dict(zip(names, HEAD.unpack_from(STATE), strict=True)) | changes
    return HEAD.pack(*fields.values()) + STATE[HEAD.size :]


def with_candle(number: int, **changes: float) -> bytes:
    record = struct.Struct("<q5f")
    at = HEAD.size + number * RECORD_BYTES
    names = ["open_ms", "open", "high", "low", "close", "volume"]
    fields = dict(zip(names, record.unpack_from(STATE, at), strict=True)) | changes
    return STATE[:at] + record.pack(*fields.values()) + STATE[at + RECORD_BYTES :]


INF, NAN = float("inf"), float("nan")
POISON: Final[dict[str, tuple[bytes | None, bytes | None]]] = {
    "unreadable": (KEY, PartialValue.of(STATE, 9999, "its checksum is wrong")),
    "no key": (None, STATE),
    "empty key": (b"", STATE),
    "key of noise": (b"\xff\xfe|1d", STATE),
    "key without an interval": (b"AAPL", STATE),
    "unknown interval": (b"AAPL|7y", STATE),
    "long symbol": (b"A" * 900 + b"|1d", STATE),
    "key of a terminal": (b"\x1b[2J|1d", STATE),
    "empty": (KEY, b""),
    "noise": (KEY, b"\xff" * 300),
    "JSON": (KEY, b'{"window": []}'),
    "cut off": (KEY, STATE[:-1]),
    "another format": (KEY, b"\x02" + STATE[1:]),
    "negative order": (KEY, with_head(order=-5)),
    "endless order": (KEY, with_head(order=(1 << 63) - 1)),
    "endless offset": (KEY, with_head(at=(1 << 63) - 1)),
    "negative partition": (KEY, with_head(first=-1)),
    "three partitions": (KEY, with_head(count=3)),
    "no offsets": (KEY, with_head(count=0)),
    "close of another century": (KEY, with_head(close_ms=1 << 60)),
    "last close of NaN": (KEY, with_head(last_close=NAN)),
    "last close of 0": (KEY, with_head(last_close=0.0)),
    "long tail": (KEY + TAIL_KEY, with_head(tail=60_000)),
    "times that fall": (KEY, with_candle(2, open_ms=1_262_563_200_000)),
    "time of another century": (KEY, with_candle(3, open_ms=1 << 60)),
    "price of NaN": (KEY, with_candle(0, close=NAN)),
    "price of infinity": (KEY, with_candle(0, high=INF)),
    "price of 0": (KEY, with_candle(1, low=0.0)),
    "negative price": (KEY + TAIL_KEY, with_candle(1, low=-1.0)),
    "high below low": (KEY, with_candle(1, high=1.0)),
    "negative volume": (KEY, with_candle(1, volume=-1.0)),
    "volume of NaN": (KEY, with_candle(1, volume=NAN)),
    "too many candles": (KEY, STATE[: HEAD.size] + STATE[HEAD.size :] * 600),
    "source of noise": (SOURCE_KEY, b"\xff"),
    "source without fields": (SOURCE_KEY, b"{}"),
    "source of a list": (SOURCE_KEY, b"[]"),
    "deep source": (SOURCE_KEY, b"[" * 60_000),
    "negative capacity": (SOURCE_KEY, b'{"topic_id": "a", "capacity": -5}'),
    "endless capacity": (SOURCE_KEY, b'{"topic_id": "a", "capacity": 1e999}'),
    "long id": (SOURCE_KEY, b'{"topic_id": "%s", "capacity": 5}' % (b"a" * 900)),
    "skip without an offset": (skip_key(0)[:-1] + b"x", b"{}"),
    "skip of an endless offset": (skip_key(10**40), b"{}"),
}


def recover(key: bytes | None, value: bytes | None) -> WindowStore:
    store = WindowStore.__new__(WindowStore)
    store.data, store._key_partition = {}, {}
    store.bytes_held, store.sources, store.skips, store._tails = 0, {}, set(), {}
    store._read_at, store._touched_ms = {}, {}
    table = SimpleNamespace(store=store)
    message: Any = SimpleNamespace(
        topic="changelog", partition=3, offset=41, key=key, value=value, timestamp=1e9
    )
    WindowTable.recover(table, message)  # type: ignore[arg-type]
    store.check_candles("changelog")
    return store


@pytest.mark.parametrize("name", POISON)
def test_each_poison_is_refused_with_key_and_offset(name: str) -> None:
    key, value = POISON[name]
    with pytest.raises(StateError) as refused:
        recover(key, value)
    said = str(refused.value)
    assert "topic changelog, partition 3, offset 41, key " in said
    assert "--group" in said
    assert said.isprintable()
    assert len(said) < 800


def test_what_the_worker_writes_is_taken() -> None:
    assert recover(KEY, STATE).data == {KEY: STATE}
    assert recover(KEY + TAIL_KEY, with_head(tail=4))._tails
    assert recover(KEY, None).data == {}
    assert recover(skip_key(17), b"{}").skips == {(3, 17)}


@given(st.binary(max_size=80) | st.just(KEY), st.binary(max_size=400), st.integers(0, 200))
def test_noise_is_refused_or_is_a_window(key: bytes, noise: bytes, at: int) -> None:
    value = bytearray(STATE)
    value[at : at + len(noise)] = noise
    try:
        store = recover(key, bytes(value))
    except StateError:
        return
    for held in store.data.values():
        SymbolState.decode(held, 8)


def test_a_series_that_was_silent_for_long_is_forgotten_with_its_records() -> None:
    store = recover(KEY, STATE)  # appended at 1e12
    assert store.forget_silent(10**12) == {}
    assert store.forget_silent(10**12 + 1) == {3: [KEY, KEY + TAIL_KEY]}
    assert store.data == {}
