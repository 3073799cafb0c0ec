"""What others may write into the changelog: each is refused with its place, whatever it is."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.forecaster import ModelSet
from shared.messages import PartialValue
from shared.window import RECORD_BYTES, Window
from stream_app.pipeline import Incoming, advance
from stream_app.rebuild import SOURCE_KEY, skip_key
from stream_app.state import TAIL_KEY, StateError, SymbolState, span_keys
from stream_app.windows import WindowStore, WindowTable
from tests.candles import walk
from tests.forecasters import LastMove

KEY: Final = b"AAPL|1d"
HEAD: Final = struct.Struct("<BBqqqdHBiqiqdHHHH")
SPAN_KEY: Final = KEY + TAIL_KEY + b"1"
NAMES: Final = (
    "format", "kind", "order", "previous", "close_ms", "last_close", "tail", "known", "first", "at",
    "second", "at2", "variance", "layouts", "calibration", "size", "count",
)  # fmt: skip


def records() -> tuple[bytes, bytes, bytes]:
    """Return a whole record of four candles, one with pending forecasts, and a span."""
    models = ModelSet(LastMove(window_length=3))
    table: dict[bytes, bytes] = {}
    written = []
    for at, candle in enumerate(walk(6)):
        message = Incoming(b"AAPL", candle.encode(), 3, at, candle.close_ms)
        result = advance([message], table.get, models, 8, 0)
        table.update({key: stored for key, (_, stored) in result.states.items()})
        written += [record for _, record in result.records[3]]
    window = Window(8)
    for candle in walk(4):
        window, _ = window.push(candle)
    plain = SymbolState(window, 7, ((3, 7),), walk(4)[-1].close_ms, 100.0, tail=0).encode()
    return plain, table[KEY], written[-1]


STATE, LEDGER, SPAN = records()


def with_head(base: bytes | None = None, **changes: Any) -> bytes:
    base = STATE if base is None else base
    fields = dict(zip(NAMES, HEAD.unpack_from(base), strict=True)) | changes
    return HEAD.pack(*fields.values()) + base[HEAD.size :]


def with_layouts(layouts: bytes) -> bytes:
    length = HEAD.unpack_from(LEDGER)[13]
    body = layouts + LEDGER[HEAD.size + length :]
    return with_head(LEDGER, layouts=len(layouts))[: HEAD.size] + body


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
    "three partitions": (KEY, with_head(known=3)),
    "no offsets": (KEY, with_head(known=0)),
    "third kind": (KEY, with_head(kind=2)),
    "variance of NaN": (KEY, with_head(variance=NAN)),
    "whole as a span": (SPAN_KEY, STATE),
    "span as a whole": (KEY, SPAN),
    "span before itself": (SPAN_KEY, with_head(SPAN, previous=77)),
    "span of more messages": (SPAN_KEY, with_head(SPAN, count=2)),
    "span cut off": (SPAN_KEY, SPAN[:-1]),
    "span of NaN": (SPAN_KEY, SPAN[: HEAD.size] + b"\xff" * 4 + SPAN[HEAD.size + 4 :]),
    "layouts of noise": (KEY, with_layouts(b"\xff" * 40)),
    "layouts of a number": (KEY, with_layouts(b"5")),
    "layout without a median": (KEY, with_layouts(b'[["m",[1,5],[0.1,0.2,0.3]]]')),
    "layout of the past": (KEY, with_layouts(b'[["m",[-1,5],[0.1,0.5,0.9]]]')),
    "layout of many levels": (KEY, with_layouts(b'[["m",[1,5],[0.1,0.4,0.5,0.6,0.9]]]')),
    "deep layouts": (KEY, with_layouts(b"[" * 60_000)),
    "close of another century": (KEY, with_head(close_ms=1 << 60)),
    "last close of NaN": (KEY, with_head(last_close=NAN)),
    "last close of 0": (KEY, with_head(last_close=0.0)),
    "long tail": (SPAN_KEY, with_head(SPAN, tail=60_000)),
    "times that fall": (KEY, with_candle(2, open_ms=1_262_563_200_000)),
    "time of another century": (KEY, with_candle(3, open_ms=1 << 60)),
    "price of NaN": (KEY, with_candle(0, close=NAN)),
    "price of infinity": (KEY, with_candle(0, high=INF)),
    "price of 0": (KEY, with_candle(1, low=0.0)),
    "negative price": (KEY, with_candle(1, low=-1.0)),
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
    store.bytes_held, store.sources, store.skips, store._spans = 0, {}, set(), {}
    store._read_at, store._touched_ms = {}, {}
    table = SimpleNamespace(store=store)
    message: Any = SimpleNamespace(
        topic="changelog", partition=3, offset=41, key=key, value=value, timestamp=1e9
    )
    WindowTable.recover(table, message)  # type: ignore[arg-type]
    store.check_contents("changelog")
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
    assert recover(KEY, LEDGER).data == {KEY: LEDGER}
    assert recover(SPAN_KEY, SPAN)._spans
    assert recover(KEY, None).data == {}
    assert recover(skip_key(17), b"{}").skips == {(3, 17)}


@given(
    st.binary(max_size=80) | st.just(KEY),
    st.sampled_from([STATE, LEDGER]),
    st.binary(max_size=400),
    st.integers(0, 400),
)
def test_noise_is_refused_or_is_a_window(key: bytes, base: bytes, noise: bytes, at: int) -> None:
    value = bytearray(base)
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
    assert store.forget_silent(10**12 + 1) == {3: [KEY, *span_keys(KEY)]}
    assert store.data == {}
