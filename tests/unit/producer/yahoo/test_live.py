"""Ticks into bars, and the live source on its stand-in websocket."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from yfinance.pricing_pb2 import PricingData

from local.yahoo import YahooStandIn
from producer.source import Kind
from producer.yahoo.bars import Bar, Session
from producer.yahoo.live import LiveSource
from producer.yahoo.ticker import Sign, TickStream, decode
from producer.yahoo.ticks import LATE_MS, Tick, TickBars
from shared.candles import MINUTE_MS
from shared.metrics import ProducerMetrics
from tests.direct_yahoo import Topic, polling
from tests.unit.producer.yahoo.test_polling import at, nyse
from tests.virtual_time import VirtualLoop

DAY = date(2026, 11, 4)
OPEN_MS = at(DAY, 12)
SESSIONS = (Session(at(DAY, 9, 30), at(DAY, 16)),)


def tick(second: float, price: float, day_volume: int = 0, symbol: str = "AAPL") -> Tick:
    return Tick(symbol, OPEN_MS + int(second * 1000), price, day_volume)


def fed(*ticks: Tick, heard_from_s: float = -30) -> tuple[TickBars, list[Bar]]:
    bars, ended = TickBars(MINUTE_MS), []
    bars.listen(OPEN_MS + int(heard_from_s * 1000))
    for one in ticks:
        bar = bars.tick(one, SESSIONS)
        if bar is not None:
            ended.append(bar)
    return bars, ended


def test_a_minute_of_ticks_is_a_bar_with_the_rise_of_the_day_s_volume() -> None:
    bars, ended = fed(
        tick(-5, 9.0, 1000), tick(1, 10.0, 1100), tick(20, 12.0, 1200), tick(30, 8.0, 1300),
        tick(59.9, 11.0, 1450), tick(61, 11.5, 1500),
    )  # fmt: skip
    assert ended == [Bar(OPEN_MS, OPEN_MS + MINUTE_MS, 10.0, 12.0, 8.0, 11.0, 450.0)]
    assert bars.ended(OPEN_MS + 2 * MINUTE_MS + LATE_MS - 1) is None
    last = bars.ended(OPEN_MS + 2 * MINUTE_MS + LATE_MS)
    assert last is not None
    assert (last.open_ms, last.volume) == (OPEN_MS + MINUTE_MS, 50.0)
    assert bars.ended(OPEN_MS + 3 * MINUTE_MS) is None


def test_a_bar_that_was_not_heard_whole_is_not_given() -> None:
    _, ended = fed(tick(20, 10.0), tick(65, 11.0), tick(125, 12.0), heard_from_s=10)
    assert [one.open_ms for one in ended] == [OPEN_MS + MINUTE_MS]
    bars, _ = fed(tick(1, 10.0))
    bars.listen(OPEN_MS + 30_000)
    bars.tick(tick(40, 10.0), SESSIONS)
    assert bars.ended(OPEN_MS + 2 * MINUTE_MS) is None


def test_a_reset_of_the_day_s_volume_adds_nothing() -> None:
    _, ended = fed(
        tick(-5, 9.0, 5000), tick(1, 10.0, 5100), tick(20, 10.0, 30), tick(40, 10.0, 50),
        tick(50, 10.0, 0), tick(61, 10.0, 60),
    )  # fmt: skip
    assert [one.volume for one in ended] == [120.0]


def test_a_late_tick_and_one_outside_the_session_change_nothing() -> None:
    _, ended = fed(tick(1, 10.0), tick(61, 11.0), tick(59, 99.0), tick(121, 12.0))
    assert [one.high for one in ended] == [10.0, 11.0]
    night = Tick("AAPL", at(DAY, 20), 10.0, 0)
    bars, ended = fed(night)
    assert bars.ended(at(DAY, 21)) is None


def frame(one: Tick, **changed: object) -> str:
    fields = {"id": one.symbol, "price": one.price, "time": one.at_ms, "day_volume": one.day_volume}
    quote = PricingData(**(fields | changed))
    message = base64.b64encode(quote.SerializeToString()).decode()
    return json.dumps({"type": "pricing", "message": message})


def test_a_frame_is_decoded() -> None:
    one = tick(1, 10.5, 1 << 40)
    assert decode(frame(one)) == one


GARBAGE = (
    "not JSON", "{}", "[]", "null", '{"message": 5}', '{"message": "???"}',
    json.dumps({"message": base64.b64encode(b"\xff\xff\xff").decode()}),
    frame(tick(1, 10.0), price=0), frame(tick(1, 10.0), id=""), frame(tick(1, 10.0), time=0),
)  # fmt: skip


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_no_tick(text: str) -> None:
    with pytest.raises((ValueError, LookupError, TypeError, Exception)):
        decode(text)


@pytest.fixture
def metrics() -> ProducerMetrics:
    return ProducerMetrics(CollectorRegistry())


class Scripted:
    """A stream that says what it is told at virtual times."""

    def __init__(self, loop: VirtualLoop, ticks: list[Tick], lost: list[tuple[int, int]]) -> None:
        self._loop = loop
        self._ticks = ticks
        self._lost = lost

    async def events(self):  # type: ignore[no-untyped-def] # noqa: ANN201
        yield Sign.CONNECTED
        ticks = iter(self._ticks)
        following = next(ticks, None)
        was_lost = False
        while True:
            await asyncio.sleep(1.0)
            now_ms = self._loop.now_ms()
            is_lost = any(start <= now_ms < end for start, end in self._lost)
            if is_lost != was_lost:
                yield Sign.LOST if is_lost else Sign.CONNECTED
            was_lost = is_lost
            while following is not None and following.at_ms <= now_ms:
                if not is_lost:
                    yield following
                following = next(ticks, None)
            yield Sign.BEAT


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
    live = LiveSource(source, Scripted(loop, ticks, lost), loop.now_ms)
    topic, late = Topic(), {}

    def ended() -> bool:
        one = topic.publications[-1]
        if one.kind is Kind.PROVISIONAL:
            late[one.candle.open_ms] = loop.now_ms() - one.candle.close_ms
        return one.candle.open_ms == at(DAY, 10, 5)

    loop.run(topic.fill(live, ended))
    loop.close()
    minutes = range(at(DAY, 9, 31), at(DAY, 10), MINUTE_MS)
    # not the first of the session, and none that the stream did not hear from start to end
    unheard = {at(DAY, 9, 45), at(DAY, 9, 46), at(DAY, 9, 47)}
    assert set(late) == set(minutes) - unheard
    assert max(late.values()) <= 2 * LATE_MS
    provisional = topic.of_kind(Kind.PROVISIONAL)
    assert {one.candle.source for one in provisional} == {"live"}
    held = topic.candles["AAPL"]
    truth = listing.bars("1m", loop.now_ms(), (min(held), max(held) + 1))
    assert {one.source for one in held.values()} == {"yfinance"}  # corrected, every one
    assert [(held[one.start_ms].close, held[one.start_ms].volume) for one in truth] == [
        (one.close, one.volume) for one in truth
    ]


@pytest.fixture
def stand_in() -> Iterator[YahooStandIn]:
    with YahooStandIn() as stand_in:
        yield stand_in


def stream(stand_in: YahooStandIn, metrics: ProducerMetrics, idle_s: float = 5.0) -> TickStream:
    return TickStream(
        ["MSFT", "AAPL"], metrics, proxy=stand_in.proxy_url, ca_bundle=stand_in.ca_bundle,
        idle_s=idle_s, first_pause_s=0.01,
    )  # fmt: skip


async def heard(
    stream: TickStream, until: Callable[[list[Tick | Sign]], bool]
) -> list[Tick | Sign]:
    """Return what a stream says, without its beats."""
    got: list[Tick | Sign] = []
    events = stream.events()
    try:
        async with asyncio.timeout(20):
            async for event in events:
                if event is not Sign.BEAT:
                    got.append(event)
                if until(got):
                    return got
    finally:
        await events.aclose()
    raise AssertionError(got)


ONE, TWO = tick(1, 10.0, 5), tick(2, 11.0, 6)


async def says_two(socket: web.WebSocketResponse) -> None:
    await socket.send_str(frame(TWO))


async def aborts(socket: web.WebSocketResponse) -> None:
    transport = socket._req.transport if socket._req is not None else None
    assert transport is not None
    transport.abort()


async def closes(socket: web.WebSocketResponse) -> None:
    await socket.send_str(frame(ONE))
    await socket.close()


async def falls_silent(socket: web.WebSocketResponse) -> None:
    await socket.send_str(frame(ONE))


async def raves(socket: web.WebSocketResponse) -> None:
    for text in GARBAGE:
        await socket.send_str(text)
    await socket.send_bytes(b"\x00\x01")
    await socket.send_str(frame(ONE))
    await socket.close()


@pytest.mark.parametrize("ends", [aborts, closes, falls_silent, raves])
def test_the_stream_begins_anew_after_any_end(
    stand_in: YahooStandIn, metrics: ProducerMetrics, ends: Callable[..., object]
) -> None:
    stand_in.server.scripts += [ends, says_two]  # type: ignore[list-item]
    got = asyncio.run(
        heard(stream(stand_in, metrics, idle_s=1.5), lambda got: bool(got) and got[-1] == TWO)
    )
    said = [] if ends is aborts else [ONE]
    assert got == [Sign.CONNECTED, *said, Sign.LOST, Sign.CONNECTED, TWO]
    assert stand_in.server.subscriptions[:2] == [["AAPL", "MSFT"]] * 2


def test_a_stream_that_cannot_connect_goes_on_trying(
    metrics: ProducerMetrics, stand_in: YahooStandIn, tmp_path: Path
) -> None:
    del tmp_path
    gone = TickStream(
        ["AAPL"], metrics, proxy="http://127.0.0.1:9", ca_bundle=stand_in.ca_bundle,
        idle_s=5.0, first_pause_s=0.01,
    )  # fmt: skip
    got = asyncio.run(heard(gone, lambda got: len(got) == 3))
    assert got == [Sign.LOST] * 3
