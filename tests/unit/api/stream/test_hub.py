from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.stream.cursors import Origin
from api.stream.hub import CLOSING, DROPPED, EventFilter, Hub, Subscription
from api.stream.market import Market, StreamEvent
from shared.candles import Candle
from shared.forecasts import Forecast
from tests.candles import walk
from tests.unit.api.stream.test_market import forecasts_of

TOPICS = ("candles", "forecasts")


def event(number: int, symbol: str = "AAPL", kind: str = "candle") -> StreamEvent:
    return StreamEvent(kind, symbol, "1d", b'{"n": %d}' % number, (0, number))


def following(starts: Sequence[int] = (0, 0), **bounds: int) -> Hub:
    hub = Hub(**bounds)
    hub.begin(TOPICS, starts, starts)
    return hub


def tell(hub: Hub, *events: StreamEvent) -> None:
    for event in events:
        hub.publish(event.origin, event)


def subscribed(hub: Hub, wanted: EventFilter, last: str | None) -> Subscription:
    return hub.subscribe(wanted, last)


def read(subscription: Subscription) -> str:
    async def once() -> bytes:
        async for frames in subscription.frames(5.0, lambda: "?"):
            return frames
        return b""

    return asyncio.run(once()).decode()


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r'"n": (\d+)', text)]


def last_id(text: str) -> str:
    return str(re.findall(r"^id: (.+)$", text, re.MULTILINE)[-1])


def test_a_new_client_is_greeted_and_gets_what_comes() -> None:
    hub = following()
    tell(hub, event(1))
    subscription = subscribed(hub, EventFilter(), None)
    tell(hub, event(2))
    text = read(subscription)
    assert "event: hello" in text
    assert numbers(text) == [2]


def test_filters_hold() -> None:
    hub = following()
    wanted = EventFilter(frozenset({"MSFT"}), "1d", frozenset({"score"}))
    subscription = subscribed(hub, wanted, None)
    tell(hub, event(1), event(2, "MSFT"), event(3, "MSFT", "score"))
    assert numbers(read(subscription)) == [3]


def test_a_client_that_comes_back_gets_what_it_missed() -> None:
    hub = following()
    first = subscribed(hub, EventFilter(), None)
    tell(hub, event(1))
    seen = last_id(read(first))
    hub.unsubscribe(first)
    tell(hub, event(2), event(3))
    text = read(subscribed(hub, EventFilter(), seen))
    assert "event: resumed" in text
    assert numbers(text) == [2, 3]
    assert last_id(text) == hub.position


def test_an_instance_that_starts_later_goes_on_from_an_id_of_another() -> None:
    first, second = following(), following((2, 0))
    subscription = subscribed(first, EventFilter(), None)
    tell(first, event(1), event(2), event(3))
    tell(second, event(2), event(3), event(4), event(5))
    text = read(subscribed(second, EventFilter(), last_id(read(subscription))))
    assert "event: resumed" in text
    assert numbers(text) == [4, 5]


Message = tuple[Origin, Candle | Forecast]


@given(st.integers(0, 200), st.integers(0, 10**9))
def test_nothing_is_missed_between_instances_whatever_the_order(cut: int, seed: int) -> None:
    """Topics interleave differently at each instance, and so do the scores that follow."""
    candles = walk(14)
    topics: tuple[list[Message], list[Message]] = (
        [((0, i), message) for i, message in enumerate(candles)],
        [((1, i), message) for i, message in enumerate(forecasts_of(candles))],
    )
    chance = random.Random(seed)
    whole = follow(following(), topics, chance, None)[0]
    seen, identity = follow(following(), topics, chance, cut)
    rest = resume(topics, chance, identity)
    assert set(seen) | set(rest) == set(whole)


def follow(
    hub: Hub, topics: tuple[list[Message], list[Message]], chance: random.Random, cut: int | None
) -> tuple[list[str], str]:
    """Listen to topics, up to a message perhaps; return the data of events and the last id."""
    subscription = subscribed(hub, EventFilter(), None)
    for origin, event in list(interleaved(topics, chance))[:cut]:
        hub.publish(origin, event)
    text = read(subscription)
    return re.findall(r"^data: (.+)$", text, re.MULTILINE), last_id(text)


def resume(
    topics: tuple[list[Message], list[Message]], chance: random.Random, identity: str
) -> list[str]:
    hub = following()
    for origin, event in interleaved(topics, chance):
        hub.publish(origin, event)
    text = read(subscribed(hub, EventFilter(), identity))
    assert "event: resumed" in text
    return re.findall(r"^data: (.+)$", text, re.MULTILINE)


def interleaved(
    topics: tuple[list[Message], list[Message]], chance: random.Random
) -> list[tuple[Origin, StreamEvent | None]]:
    market = Market()
    waiting = [list(topic) for topic in topics]
    found = []
    while any(waiting):
        origin, message = chance.choice([messages for messages in waiting if messages]).pop(0)
        if isinstance(message, Candle):
            found.append((origin, market.add_candle(message, 0, origin)))
        else:
            found.append((origin, market.add_forecast(message, 0, origin)))
    return found


def test_who_was_away_too_long_starts_over() -> None:
    hub = following(keep=3)
    tell(hub, *(event(number) for number in range(10)))
    tag = hub.position.partition("-")[0]
    for lost in (
        f"{tag}-2.0",
        f"{tag}-99.0",
        "other-9.0",
        "nonsense",
        f"{tag}-x.0",
        f"{tag}-9",
        "",
    ):
        text = read(subscribed(hub, EventFilter(), lost))
        assert "event: reset" in text
        assert last_id(text) == hub.position
        assert numbers(text) == []
    assert numbers(read(subscribed(hub, EventFilter(), f"{tag}-7.0"))) == [7, 8, 9]


def test_what_came_while_kafka_was_lost_is_told_once() -> None:
    hub = following()
    subscription = subscribed(hub, EventFilter(), None)
    tell(hub, event(0), event(1))
    hub.begin(TOPICS, (0, 0), (4, 0))  # the topics are followed again, from some way back
    tell(hub, *(event(number) for number in range(4)))
    assert numbers(read(subscription)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("starts", "ends"), [((5, 0), (9, 0)), ((0, 0), (1, 0))])
def test_a_gap_or_a_topic_made_anew_ends_the_streams(
    starts: tuple[int, int], ends: tuple[int, int]
) -> None:
    hub = following()
    subscription = subscribed(hub, EventFilter(), None)
    tell(hub, event(0), event(1))
    seen = hub.position
    hub.begin(TOPICS, starts, ends)
    assert read(subscription).encode().endswith(CLOSING)
    assert "event: reset" in read(subscribed(hub, EventFilter(), seen))


def test_an_instance_that_lags_is_waited_for() -> None:
    ahead, behind = following(), following()
    tell(ahead, event(0), event(1))
    tell(behind, event(0))

    async def reach() -> None:
        waiting = asyncio.create_task(behind.reach(ahead.position, 5.0))
        await asyncio.sleep(0)
        tell(behind, event(1))
        await waiting

    asyncio.run(reach())
    assert "event: resumed" in read(subscribed(behind, EventFilter(), ahead.position))


def test_a_slow_client_is_dropped_and_the_others_are_not() -> None:
    hub = following(capacity=5)
    slow, fast = subscribed(hub, EventFilter(), None), subscribed(hub, EventFilter(), None)
    got: list[int] = []
    for number in range(20):
        tell(hub, event(number))
        got += numbers(read(fast))
    assert got == list(range(20))
    assert read(slow).encode() == DROPPED
    assert hub.dropped == 1
    assert hub.subscriptions == {fast}


def test_silence_is_broken_by_the_position_and_the_end_is_told() -> None:
    hub = following()
    tell(hub, event(7))
    subscription = subscribed(hub, EventFilter(frozenset({"MSFT"})), None)
    heartbeat = f": still here\nid: {hub.position}\n\n".encode()

    async def listen() -> list[bytes]:
        frames = []
        async for frame in subscription.frames(0.01, lambda: hub.position):
            frames.append(frame)
            if frame == heartbeat:
                hub.close()
        return frames

    frames = asyncio.run(listen())
    assert heartbeat in frames
    assert frames[-1] == CLOSING
    assert hub.subscriptions == set()
