"""The replay: the candles that remain or all again, why there are none, and the set speed."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.replay import ReplaySource
from producer.source import Kind, Publication, Published
from shared.candles import Candle
from shared.files.series import History
from tests.candles import candle, values_of, walk


def publications(source: ReplaySource, published: Published) -> list[Publication]:
    async def collect() -> list[Publication]:
        return [publication async for publication in source.candles(published)]

    return asyncio.run(collect())


def in_short(candles: list[Candle]) -> list[tuple[str, int, tuple[float, ...]]]:
    return [(candle.symbol, candle.open_ms, values_of(candle)) for candle in candles]


@given(
    published=st.dictionaries(st.sampled_from(["AAPL", "MSFT"]), st.integers(-1, 12)),
    lengths=st.tuples(st.integers(0, 10), st.integers(1, 10)),
)
def test_a_restarted_replay_gives_exactly_the_rest(
    published: dict[str, int], lengths: tuple[int, int]
) -> None:
    candles = [*walk(lengths[0]), *walk(lengths[1], symbol="MSFT")]
    candles.sort(key=lambda value: (value.open_ms, value.symbol))
    source = ReplaySource(History.of("test", candles))
    newest = {symbol: [candle(day, symbol=symbol)] for symbol, day in published.items()}
    got = publications(source, newest)
    assert in_short([publication.candle for publication in got]) == in_short(
        [
            candle
            for candle in candles
            if candle.symbol not in newest or candle.open_ms > newest[candle.symbol][0].open_ms
        ]
    )
    assert {publication.kind for publication in got} <= {Kind.CLOSED}


@given(newest=st.integers(0, 12), length=st.integers(1, 10))
def test_again_gives_all_and_calls_what_is_not_newer_a_correction(newest: int, length: int) -> None:
    candles = walk(length)
    source = ReplaySource(History.of("test", candles), again=True)
    other = candle(newest, 7.0)
    got = publications(source, {"AAPL": [other]})
    assert in_short([publication.candle for publication in got]) == in_short(candles)
    for publication in got:
        is_old = publication.candle.open_ms <= other.open_ms
        assert publication.kind == (Kind.CORRECTION if is_old else Kind.CLOSED)


def test_again_leaves_out_what_the_topic_is_known_to_have() -> None:
    candles = walk(5)
    known = [candles[3], candle(4, 7.0)]  # from another source, with the same values and others
    got = publications(ReplaySource(History.of("test", candles), again=True), {"AAPL": known})
    assert in_short([publication.candle for publication in got]) == in_short(
        [*candles[:3], candles[4]]
    )


def test_a_replay_that_publishes_nothing_says_why(caplog: pytest.LogCaptureFixture) -> None:
    candles = [*walk(5), *walk(3, symbol="MSFT")]
    published = {"AAPL": [candle(9)], "MSFT": [candle(2, symbol="MSFT")]}
    assert not publications(ReplaySource(History.of("prices.csv", candles)), published)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "prices.csv: 0 of 8 candles to publish: 8 are not newer than AAPL's newest in the topic, "
        "2010-01-13, and so of 1 other symbols: left out; --again publishes them as corrections"
    )


@pytest.mark.parametrize(
    ("close", "level"), [(walk(3)[2].close, logging.INFO), (7.0, logging.WARNING)]
)
def test_a_resumed_replay_warns_only_if_a_mended_candle_is_left_out(
    close: float, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    published = {"AAPL": [candle(2, close)]}
    with caplog.at_level(logging.INFO):
        got = publications(ReplaySource(History.of("test", walk(5))), published)
    assert len(got) == 2
    [record] = caplog.records
    assert record.levelno == level
    assert "2 of 5 candles to publish: 3 are not newer than AAPL's" in record.getMessage()


def test_the_speed_of_a_replay_is_kept() -> None:
    source = ReplaySource(History.of("test", walk(21)), speed=100.0)

    async def seconds() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        count = len([candle async for candle in source.candles({})])
        assert count == 21
        return loop.time() - start

    assert 0.19 <= asyncio.run(seconds()) < 2.0
