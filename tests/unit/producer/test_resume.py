"""Planning to go on: the tail of a partition, the periods asked for, and the replay's rest."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from producer.replay import ReplaySource
from producer.resume import FIRST_SPAN, Tail, spans
from producer.yahoo.bars import GRACE_MS
from producer.yahoo.published import RECHECKED
from producer.yahoo.schedule import next_poll_ms
from shared.candles import Candle
from shared.history import History
from tests.candles import candle, walk


def message(one: Candle) -> tuple[bytes, bytes]:
    return one.symbol.encode(), one.encode()


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
    tail.read([message(one) for one in walk(5)])
    seen = [tail.is_complete]
    tail.read([message(one) for one in walk(3, symbol="MSFT")])
    assert [*seen, tail.is_complete] == [False, True]
    assert tail.newest == {"AAPL": walk(5), "MSFT": walk(3, symbol="MSFT")}


def test_a_tail_keeps_the_newest_candles_as_they_were_last_corrected() -> None:
    tail = Tail(["AAPL"], "1d")
    old, corrected = candle(3, 90.0), candle(3, 91.0)
    tail.read([message(one) for one in [*walk(3), old, candle(4), corrected]])
    assert tail.newest["AAPL"] == [*walk(3), corrected, candle(4)]
    longer = Tail(["AAPL"], "1d")
    longer.read([message(one) for one in walk(RECHECKED + 5)])
    assert longer.newest["AAPL"] == walk(RECHECKED + 5)[5:]


def test_an_earlier_span_does_not_change_what_a_later_one_said() -> None:
    tail = Tail(["AAPL", "MSFT"], "1d")
    tail.read([message(candle(7))])
    tail.read([message(one) for one in [*walk(6), candle(1, symbol="MSFT")]])
    assert tail.newest == {"AAPL": [candle(7)], "MSFT": [candle(1, symbol="MSFT")]}


def test_a_tail_passes_over_what_is_none_of_its_candles() -> None:
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


@given(
    published=st.dictionaries(st.sampled_from(["AAPL", "MSFT"]), st.integers(-1, 12)),
    lengths=st.tuples(st.integers(0, 10), st.integers(1, 10)),
)
def test_a_restarted_replay_gives_exactly_the_rest(
    published: dict[str, int], lengths: tuple[int, int]
) -> None:
    candles = [*walk(lengths[0]), *walk(lengths[1], symbol="MSFT")]
    candles.sort(key=lambda one: (one.open_ms, one.symbol))
    source = ReplaySource(History("test", tuple(candles), ()), "1d")
    newest = {symbol: [candle(day, symbol=symbol)] for symbol, day in published.items()}

    async def rest() -> list[Candle]:
        return [one.candle async for one in source.candles(newest)]

    assert asyncio.run(rest()) == [
        one
        for one in candles
        if one.symbol not in newest or one.open_ms > newest[one.symbol][0].open_ms
    ]


def test_the_speed_of_a_replay_is_kept() -> None:
    source = ReplaySource(History("test", tuple(walk(21)), ()), "1d", speed=100.0)

    async def seconds() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        count = len([one async for one in source.candles({})])
        assert count == 21
        return loop.time() - start

    assert 0.19 <= asyncio.run(seconds()) < 2.0


@given(now=st.integers(0, 2**41), poll_s=st.integers(1, 3600))
def test_the_next_poll_lies_ahead_within_one_time_on_the_grid_past_the_grace(
    now: int, poll_s: int
) -> None:
    due = next_poll_ms(now, poll_s * 1000)
    assert 0 < due - now <= poll_s * 1000
    assert (due - GRACE_MS) % (poll_s * 1000) == 0
