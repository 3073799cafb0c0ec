"""The replay: the candles that remain, at the set speed."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from producer.replay import ReplaySource
from shared.candles import Candle
from shared.history import History
from tests.candles import candle, walk


@given(
    published=st.dictionaries(st.sampled_from(["AAPL", "MSFT"]), st.integers(-1, 12)),
    lengths=st.tuples(st.integers(0, 10), st.integers(1, 10)),
)
def test_a_restarted_replay_gives_exactly_the_rest(
    published: dict[str, int], lengths: tuple[int, int]
) -> None:
    candles = [*walk(lengths[0]), *walk(lengths[1], symbol="MSFT")]
    candles.sort(key=lambda value: (value.open_ms, value.symbol))
    source = ReplaySource(History("test", tuple(candles), ()), "1d")
    newest = {symbol: [candle(day, symbol=symbol)] for symbol, day in published.items()}

    async def rest() -> list[Candle]:
        return [publication.candle async for publication in source.candles(newest)]

    assert asyncio.run(rest()) == [
        candle
        for candle in candles
        if candle.symbol not in newest or candle.open_ms > newest[candle.symbol][0].open_ms
    ]


def test_the_speed_of_a_replay_is_kept() -> None:
    source = ReplaySource(History("test", tuple(walk(21)), ()), "1d", speed=100.0)

    async def seconds() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        count = len([candle async for candle in source.candles({})])
        assert count == 21
        return loop.time() - start

    assert 0.19 <= asyncio.run(seconds()) < 2.0
