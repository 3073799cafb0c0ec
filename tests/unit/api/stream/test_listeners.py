"""Event streams within limits, from the request's acceptance to however it ends."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from api.edge.access import AccessRules
from api.edge.keys import KeyFile, KeyRing, Scope, create
from api.stream.backlog import Backlog
from api.stream.follower import StreamView
from api.stream.hub import CLOSING, SLICE, EventFilter, Hub, Subscription
from api.stream.market import Market, StreamEvent
from api.stream.routes import StreamLimits
from tests.unit.api.client import application, call
from tests.unit.api.stream.test_hub import event, following, numbers, tell


def view(hub: Hub) -> StreamView:
    return StreamView(Market(), hub, connected=True)


def stream_scope() -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "GET",
        "path": "/v1/stream", "raw_path": b"/v1/stream", "query_string": b"", "scheme": "http",
        "http_version": "1.1", "headers": [(b"host", b"api")], "root_path": "",
        "client": ("10.0.0.1", 1), "server": ("api", 80),
    }  # fmt: skip


class Listener:
    """One request for the stream, which leaves when it is let go."""

    def __init__(self, app: Any) -> None:
        self.status = 0
        self.left = asyncio.Event()
        self.task = asyncio.create_task(app(stream_scope(), self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(0.01)  # as a socket that is slow: others are accepted meanwhile
            self.status = message["status"]


def test_streams_are_counted_as_they_are_accepted_and_until_they_end() -> None:
    app = application(live=view(following()), streams=StreamLimits(streams_a_client=3))

    async def crowd() -> list[int]:
        listeners = [Listener(app) for _ in range(30)]
        await asyncio.sleep(0.2)
        statuses = [listener.status for listener in listeners]
        for listener in listeners:
            listener.left.set()
        await asyncio.gather(*(listener.task for listener in listeners))
        for _ in range(3):  # who leaves before the first byte is not counted further
            leaving = Listener(app)
            leaving.left.set()
            await leaving.task
        again = [Listener(app) for _ in range(3)]
        await asyncio.sleep(0.1)
        for listener in again:
            listener.left.set()
        await asyncio.gather(*(listener.task for listener in again))
        return statuses + [listener.status for listener in again]

    statuses = asyncio.run(crowd())
    assert statuses[:30].count(200) == 3
    assert statuses[:30].count(429) == 27
    assert statuses[30:] == [200, 200, 200]


def test_a_stream_ends_when_its_key_loses_the_scope() -> None:
    file, key = create(KeyFile(), "test", (Scope.READ,), None, now_ms=0)
    without = KeyFile(keys=(file.keys[0].model_copy(update={"scopes": (Scope.PREDICT,)}),))
    full, less = KeyRing(file.keys, None), KeyRing(without.keys, None)
    rings = iter([full, full, less])
    app = application(
        access=AccessRules(keys=lambda: next(rings, less)),
        live=view(Hub()),
        streams=StreamLimits(heartbeat_s=0.01, longest_s=5.0),
    )
    headers = {"authorization": f"Bearer {key}"}
    answer = call(app, "GET", "/v1/stream", headers=headers)
    assert answer.text.endswith(CLOSING.decode())
    assert next(rings, None) is None


def test_a_long_way_back_is_charged_to_the_rate() -> None:
    hub = following()
    first = hub.position
    tell(hub, *(event(number) for number in range(9_000)))
    file, key = create(KeyFile(), "test", (Scope.READ,), "21/hour", now_ms=0)
    app = application(
        access=AccessRules(keys=lambda: KeyRing(file.keys, None)),
        live=view(hub),
        streams=StreamLimits(longest_s=0.01),
    )
    headers = {"authorization": f"Bearer {key}"}
    statuses = [
        call(app, "GET", "/v1/stream", headers=headers | {"last-event-id": first}).status_code
        for _ in range(3)
    ]
    assert statuses == [200, 200, 429]


def test_a_client_that_is_nearly_up_to_date_is_found_by_its_offset() -> None:
    hub = following()
    tell(hub, *(event(number) for number in range(20_000)))
    assert hub.resume_length(hub.position) == 0
    near = hub.position.replace("20000", "19990")
    assert hub.resume_length(near) == 10


def test_others_are_served_while_a_client_is_resumed() -> None:
    hub = following()
    first = hub.position
    tell(hub, *(event(number) for number in range(SLICE * 8)))

    async def resume() -> int:
        nothing = EventFilter(symbols=frozenset({"NONE"}))
        task = asyncio.create_task(_news(hub.subscribe(nothing, first), hub))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
            if turns == 3:  # news in the middle of it is not missed
                tell(hub, event(SLICE * 8, "NONE"))
        assert task.result().count(b"event: candle") == 1
        return turns

    assert asyncio.run(resume()) >= 8


async def _news(subscription: Subscription, hub: Hub) -> bytes:
    async for frames in subscription.frames(1.0, lambda: hub.position):
        if b"event: candle" in frames:
            return frames
    return b""


def test_all_that_was_missed_is_sent_however_much() -> None:
    hub = following()
    first = hub.position
    tell(hub, *(event(number) for number in range(15_000)))
    subscription = hub.subscribe(EventFilter(), first)
    tell(hub, event(15_000))

    async def resume() -> bytes:
        text = b""
        async for frames in subscription.frames(1.0, lambda: hub.position):
            text += frames
            if b'"n": 15000}' in frames:
                return text
        return text

    text = asyncio.run(resume()).decode()
    assert text.count("event: resumed") == 1
    assert numbers(text) == list(range(15_001))


def test_who_resumes_so_slowly_that_messages_are_forgotten_starts_over() -> None:
    hub = following(keep=1_000)
    tell(hub, *(event(number) for number in range(1_000)))
    first = hub.position.replace("1000", "10")
    subscription = hub.subscribe(EventFilter(frozenset({"AAPL"})), first)

    async def resume() -> list[bytes]:
        chunks = []
        async for frames in subscription.frames(0.01, lambda: hub.position):
            chunks.append(frames)
            if len(chunks) == 1:  # it reads on only after many others have come
                tell(hub, *(event(number, "MSFT") for number in range(1_000, 2_500)))
            if b"event: reset" in frames:
                return chunks
        return chunks

    assert b"event: reset" in asyncio.run(resume())[-1]


def test_the_index_finds_the_first_event_beyond_any_position() -> None:
    """Against a search of all events of parts that interleave."""
    chance = random.Random(5)
    for _ in range(200):
        backlog = Backlog(most=30, most_bytes=1 << 20)
        backlog.clear(2)
        offsets = [0, 0]
        for _ in range(60):
            part = chance.randrange(2)
            backlog.add(StreamEvent("candle", "AAPL", "1d", b"", (part, offsets[part])))
            offsets[part] += 1
        seen = [chance.randint(0, offset) for offset in offsets]
        kept = backlog.read(backlog.first, 100)
        assert kept is not None
        assert len(kept) == 30
        needed = [
            backlog.first + number
            for number, one in enumerate(kept)
            if one.origin[1] >= seen[one.origin[0]]
        ]
        assert backlog.first_after(seen) == min(needed, default=backlog.end)
        assert backlog.first_after(offsets) == backlog.end


def test_the_backlog_is_bounded_in_bytes() -> None:
    hub = Hub(keep_bytes=20_000)
    hub.begin(("candles", "forecasts"), (0, 0), (0, 0))
    first = hub.position
    for number in range(100):
        tell(hub, StreamEvent("candle", "AAPL", "1d", b"x" * 1_000, (0, number)))
    assert hub._backlog.size <= 20_000
    assert hub.resume_length(first) == 0  # forgotten: it gets a reset
