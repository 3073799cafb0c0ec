"""The live source: provisional candles from ticks, corrected by polls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from producer.source import Kind
from producer.yahoo.live import LiveSource
from producer.yahoo.ticker import StreamEvent
from producer.yahoo.ticks import LATE_MS, Tick
from shared.candles import MINUTE_MS
from shared.metrics import ProducerMetrics
from tests.direct_yahoo import Topic, polling
from tests.new_york import at, nyse
from tests.ticker_frames import DAY
from tests.virtual_time import VirtualLoop


class Tape:
    """A feed of given ticks at their virtual times, lost for some spans."""

    def __init__(self, loop: VirtualLoop, ticks: list[Tick], lost: list[tuple[int, int]]) -> None:
        self._loop = loop
        self._ticks = ticks
        self._lost = lost

    async def events(self) -> AsyncGenerator[Tick | StreamEvent, None]:
        yield StreamEvent.CONNECTED
        ticks = iter(self._ticks)
        following = next(ticks, None)
        was_lost = False
        while True:
            await asyncio.sleep(1.0)
            now_ms = self._loop.now_ms()
            is_lost = any(start <= now_ms < end for start, end in self._lost)
            if is_lost != was_lost:
                yield StreamEvent.LOST if is_lost else StreamEvent.CONNECTED
            was_lost = is_lost
            while following is not None and following.at_ms <= now_ms:
                if not is_lost:
                    yield following
                following = next(ticks, None)
            yield StreamEvent.BEAT


def test_provisional_candles_come_seconds_after_their_end_and_polls_correct_them(
    metrics: ProducerMetrics,
) -> None:
    loop = VirtualLoop(at(DAY, 9, 20))
    listing = nyse("AAPL", DAY)
    ticks = [
        Tick("AAPL", at_ms, listing.price_at(at_ms), (at_ms - at(DAY, 9, 30)) // 1000)
        for at_ms in range(at(DAY, 9, 30), at(DAY, 10), 7000)
    ]
    lost = [(at(DAY, 9, 45, 20), at(DAY, 9, 47, 10))]
    source, _ = polling(loop, [listing], metrics)
    live = LiveSource(source, Tape(loop, ticks, lost))
    topic, late = Topic(), {}

    def ended() -> bool:
        publication = topic.publications[-1]
        candle = publication.candle
        if publication.kind is Kind.PROVISIONAL:
            late[candle.open_ms] = loop.now_ms() - candle.close_ms
        return candle.open_ms == at(DAY, 10, 5)

    loop.run(topic.fill(live, ended))
    loop.close()
    minutes = range(at(DAY, 9, 31), at(DAY, 10), MINUTE_MS)
    # neither the first of the session, nor those whose ticks were lost in part
    incomplete = {at(DAY, 9, 45), at(DAY, 9, 46), at(DAY, 9, 47)}
    assert set(late) == set(minutes) - incomplete
    assert max(late.values()) <= 2 * LATE_MS
    provisional = topic.of_kind(Kind.PROVISIONAL)
    assert {publication.candle.source for publication in provisional} == {"live"}
    held = topic.candles["AAPL"]
    truth = listing.bars("1m", loop.now_ms(), (min(held), max(held) + 1))
    assert {candle.source for candle in held.values()} == {"yfinance"}  # all are corrected
    assert [(held[bar.start_ms].close, held[bar.start_ms].volume) for bar in truth] == [
        (bar.close, bar.volume) for bar in truth
    ]
