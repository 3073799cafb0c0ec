"""The websocket of ticks: frames, and new connections after any end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from local.yahoo import YahooStandIn
from producer.yahoo.ticker import BAD_FRAME, StreamEvent, TickStream, decode
from producer.yahoo.ticks import Tick
from shared.metrics import ProducerMetrics
from tests.ticker_frames import (
    GARBAGE,
    ONE,
    TWO,
    aborts,
    closes,
    falls_silent,
    frame,
    raves,
    says_two,
    tick,
)  # fmt: skip


def test_a_frame_is_decoded() -> None:
    sent = tick(1, 10.5, 1 << 40)
    assert decode(frame(sent)) == sent


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_a_bad_frame(text: str) -> None:
    with pytest.raises(BAD_FRAME):
        decode(text)


@pytest.fixture
def stand_in() -> Iterator[YahooStandIn]:
    with YahooStandIn() as stand_in:
        yield stand_in


def stream(stand_in: YahooStandIn, metrics: ProducerMetrics, idle_s: float = 5.0) -> TickStream:
    return TickStream(
        ["MSFT", "AAPL"], metrics, proxy=stand_in.proxy_url, ca_bundle=stand_in.ca_bundle,
        idle_s=idle_s, first_pause_s=0.01,
    )  # fmt: skip


async def events_of(
    stream: TickStream, until: Callable[[list[Tick | StreamEvent]], bool]
) -> list[Tick | StreamEvent]:
    """Return the events of a stream, without its beats."""
    got: list[Tick | StreamEvent] = []
    events = stream.events()
    try:
        async with asyncio.timeout(20):
            async for event in events:
                if event is not StreamEvent.BEAT:
                    got.append(event)
                if until(got):
                    return got
    finally:
        await events.aclose()
    raise AssertionError(got)


@pytest.mark.parametrize("ends", [aborts, closes, falls_silent, raves])
def test_the_stream_reconnects_after_any_end(
    stand_in: YahooStandIn, metrics: ProducerMetrics, ends: Callable[..., object]
) -> None:
    stand_in.server.scripts += [ends, says_two]  # type: ignore[list-item]
    got = asyncio.run(
        events_of(stream(stand_in, metrics, idle_s=1.5), lambda got: bool(got) and got[-1] == TWO)
    )
    before = [] if ends is aborts else [ONE]
    assert got == [StreamEvent.CONNECTED, *before, StreamEvent.LOST, StreamEvent.CONNECTED, TWO]
    assert stand_in.server.subscriptions[:2] == [["AAPL", "MSFT"]] * 2


def test_a_stream_that_cannot_connect_goes_on_trying(
    metrics: ProducerMetrics, stand_in: YahooStandIn
) -> None:
    gone = TickStream(
        ["AAPL"], metrics, proxy="http://127.0.0.1:9", ca_bundle=stand_in.ca_bundle,
        idle_s=5.0, first_pause_s=0.01,
    )  # fmt: skip
    got = asyncio.run(events_of(gone, lambda got: len(got) == 3))
    assert got == [StreamEvent.LOST] * 3
