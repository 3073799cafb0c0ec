from __future__ import annotations

import asyncio
import re

from api.hub import HEARTBEAT, Hub, Subscription, Wanted
from api.market import Event


def event(number: int, symbol: str = "AAPL", kind: str = "candle") -> Event:
    return Event(kind, symbol, "1d", b'{"n": %d}' % number)


def read(subscription: Subscription) -> str:
    async def once() -> bytes:
        async for frames in subscription.frames(5.0):
            return frames
        return b""

    return asyncio.run(once()).decode()


def numbers(text: str) -> list[int]:
    return [int(one) for one in re.findall(r'"n": (\d+)', text)]


def last_id(text: str) -> str:
    return str(re.findall(r"^id: (.+)$", text, re.MULTILINE)[-1])


def test_a_new_client_is_greeted_and_gets_what_comes() -> None:
    hub = Hub()
    hub.publish(event(1))
    one = hub.subscribe(Wanted(), None)
    hub.publish(event(2))
    text = read(one)
    assert "event: hello" in text
    assert numbers(text) == [2]


def test_filters_hold() -> None:
    hub = Hub()
    wanted = Wanted(frozenset({"MSFT"}), "1d", frozenset({"score"}))
    one = hub.subscribe(wanted, None)
    hub.publish(event(1))
    hub.publish(event(2, "MSFT"))
    hub.publish(event(3, "MSFT", "score"))
    assert numbers(read(one)) == [3]


def test_a_client_that_comes_back_gets_what_it_missed() -> None:
    hub = Hub()
    first = hub.subscribe(Wanted(), None)
    hub.publish(event(1))
    seen = last_id(read(first))
    hub.unsubscribe(first)
    hub.publish(event(2))
    hub.publish(event(3))
    text = read(hub.subscribe(Wanted(), seen))
    assert "event: resumed" in text
    assert numbers(text) == [2, 3]


def test_who_was_away_too_long_starts_over() -> None:
    hub = Hub(keep=3)
    for number in range(10):
        hub.publish(event(number))
    for lost in (f"{hub.epoch}-2", f"{hub.epoch}-99", "other-9", "nonsense", f"{hub.epoch}-x", ""):
        text = read(hub.subscribe(Wanted(), lost))
        assert "event: reset" in text
        assert numbers(text) == []
    assert numbers(read(hub.subscribe(Wanted(), f"{hub.epoch}-7"))) == [7, 8, 9]


def test_a_slow_client_is_dropped_and_the_others_are_not() -> None:
    hub = Hub(capacity=5)
    slow, fast = hub.subscribe(Wanted(), None), hub.subscribe(Wanted(), None)
    got: list[int] = []
    for number in range(20):
        hub.publish(event(number))
        got += numbers(read(fast))
    assert got == list(range(20))
    assert read(slow) == "event: dropped\ndata: {}\n\n"
    assert hub.dropped == 1
    assert hub.subscriptions == {fast}


def test_silence_is_broken_by_a_comment_and_the_end_is_told() -> None:
    hub = Hub()
    one = hub.subscribe(Wanted(), None)

    async def listen() -> list[bytes]:
        frames = []
        async for frame in one.frames(0.01):
            frames.append(frame)
            if frame == HEARTBEAT:
                hub.close()
        return frames

    frames = asyncio.run(listen())
    assert HEARTBEAT in frames
    assert frames[-1] == b"event: closing\ndata: {}\n\n"
    assert hub.subscriptions == set()
