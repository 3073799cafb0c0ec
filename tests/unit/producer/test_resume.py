"""Resuming from the tail of a partition, read span by span."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producer.resume import FIRST_SPAN, Tail, spans
from producer.source import RECHECKED
from shared.candles import Candle
from tests.candles import candle, walk


def message(value: Candle) -> tuple[bytes, bytes]:
    return value.symbol.encode(), value.encode()


@given(beginning=st.integers(0, 10**6), length=st.integers(0, 10**7))
def test_spans_cover_a_partition_backwards_without_hole_or_overlap(
    beginning: int, length: int
) -> None:
    end = beginning + length
    found = list(spans(beginning, end))
    edges = [*(to for _, to in found), beginning] if found else []
    assert edges == ([end, *(start for start, _ in found)] if found else [])
    assert all(start < to for start, to in found)
    assert not found or found[0][1] - found[0][0] == min(FIRST_SPAN, length)
    assert len(found) <= 16


def test_a_tail_is_complete_once_every_symbol_was_seen() -> None:
    tail = Tail(["AAPL", "MSFT"], "1d")
    tail.read([message(candle) for candle in walk(5)])
    seen = [tail.is_complete]
    tail.read([message(candle) for candle in walk(3, symbol="MSFT")])
    assert [*seen, tail.is_complete] == [False, True]
    assert tail.newest == {"AAPL": walk(5), "MSFT": walk(3, symbol="MSFT")}


def test_a_tail_keeps_the_newest_candles_as_they_were_last_corrected() -> None:
    tail = Tail(["AAPL"], "1d")
    old, corrected = candle(3, 90.0), candle(3, 91.0)
    tail.read([message(value) for value in [*walk(3), old, candle(4), corrected]])
    assert tail.newest["AAPL"] == [*walk(3), corrected, candle(4)]
    longer = Tail(["AAPL"], "1d")
    longer.read([message(candle) for candle in walk(RECHECKED + 5)])
    assert longer.newest["AAPL"] == walk(RECHECKED + 5)[5:]


def test_an_earlier_span_does_not_change_what_a_later_one_said() -> None:
    tail = Tail(["AAPL", "MSFT"], "1d")
    tail.read([message(candle(7))])
    tail.read([message(value) for value in [*walk(6), candle(1, symbol="MSFT")]])
    assert tail.newest == {"AAPL": [candle(7)], "MSFT": [candle(1, symbol="MSFT")]}


def test_a_tail_skips_all_but_its_candles() -> None:
    tail = Tail(["AAPL"], "1d")
    others: list[tuple[bytes | None, bytes | None]] = [
        (b"AAPL", b"not JSON"),
        (b"AAPL", None),
        (None, candle(9).encode()),
        (b"AAPL", candle(9, symbol="MSFT").encode()),
        message(candle(9, symbol="MSFT")),
        message(candle(9, interval="1wk")),
    ]
    tail.read(others)
    assert tail.newest == {}
    tail.read([*others, message(candle(3)), *others])
    assert tail.newest == {"AAPL": [candle(3)]}
