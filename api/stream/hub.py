"""Fan-out of events to many clients: bounded queues, slow clients dropped, others resumed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from api.stream.cursors import Origin, Positions, decode, encode, is_after, tag_of
from api.stream.market import StreamEvent

RETRY: Final = b"retry: 2000\n"
"""The field that tells a client how long to wait before it reconnects, in milliseconds."""

DROPPED: Final = b"event: dropped\ndata: {}\n\n"
"""The last frame for a client that reads too slowly."""

CLOSING: Final = b"event: closing\ndata: {}\n\n"
"""The last frame of a stream that ends and may be resumed."""

POLL_S: Final = 0.05
"""Time between two looks at whether this instance has caught up with an id."""


@dataclass(frozen=True)
class EventFilter:
    """The events that a client wants; None is all."""

    symbols: frozenset[str] | None = None
    interval: str | None = None
    kinds: frozenset[str] | None = None

    def __contains__(self, event: StreamEvent) -> bool:
        """Whether an event is wanted."""
        return (
            (self.symbols is None or event.symbol in self.symbols)
            and self.interval in {None, event.interval}
            and (self.kinds is None or event.kind in self.kinds)
        )


class Subscription:
    """One client's queue."""

    def __init__(self, wanted: EventFilter, capacity: int) -> None:
        self.wanted = wanted
        self._capacity = capacity
        self._is_over = False
        self._frames: deque[bytes] = deque()
        self._news = asyncio.Event()

    def offer(self, frame: bytes) -> bool:
        """Queue a frame; return False, the queue emptied, when the client lags too far."""
        if len(self._frames) >= self._capacity:
            self._frames.clear()
            self.end(DROPPED)
            return False
        self._frames.append(frame)
        self._news.set()
        return True

    def end(self, last: bytes) -> None:
        """Send the queued frames and one more, then nothing."""
        self._frames.append(last)
        self._is_over = True
        self._news.set()

    async def frames(self, heartbeat_s: float, position: Callable[[], str]) -> AsyncIterator[bytes]:
        """Yield the queued frames, joined, whenever there are some.

        After a long silence a comment carries the position, so that a client whose events are
        rare does not reconnect with an id that is long forgotten.
        """
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    await self._news.wait()
            except TimeoutError:
                yield f": still here\nid: {position()}\n\n".encode()
                continue
            self._news.clear()
            is_over = self._is_over
            joined = b"".join(self._frames)
            self._frames.clear()
            yield joined
            if is_over:
                return


class _KeptMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a topic, remembered for clients that reconnect."""

    origin: Origin
    events: Sequence[StreamEvent]

    def after(self, seen: Positions) -> Sequence[StreamEvent]:
        """Return the events beyond a position; a score was derived from two messages."""
        part, offset = self.origin
        if offset >= seen[part]:
            return self.events
        if len(self.events) == 1 and len(self.events[0].origins) == 1:
            return ()  # the most common case, quickly
        return [event for event in self.events if is_after(event.origins, seen)]


class Hub:
    """Sends events to every subscription that wants them, and remembers the newest.

    An event's id is the position of this reader of the topics once the event is sent. A client
    that reconnects with one gets what follows, from whichever instance of the API, as long as
    that remembers all of it; otherwise ``reset`` says to load everything again.
    """

    def __init__(self, *, keep: int = 20_000, capacity: int = 2_000) -> None:
        """Remember ``keep`` messages; let a client lag by ``capacity``."""
        self.subscriptions: set[Subscription] = set()
        self.dropped = 0
        self._keep = keep
        self._capacity = capacity
        self._tag = ""
        self._kept: deque[_KeptMessage] = deque()
        self._read: list[int] = []  # positions
        self._sent: list[int] = []  # positions, when following began again: earlier is not news
        self._remembered: list[int] = []  # positions from which everything is kept

    @property
    def position(self) -> str:
        """How far the topics have been read."""
        return encode(self._tag, self._read)

    def begin(self, topics: Sequence[str], starts: Positions, ends: Positions) -> None:
        """Note that the topics are followed, again perhaps, from some positions.

        Where that leaves a gap, or the topics were recreated, all is forgotten; clients reconnect
        and get ``reset``.
        """
        tag = tag_of(topics, len(starts))
        goes_on = tag == self._tag and all(
            start <= read <= end for start, read, end in zip(starts, self._read, ends, strict=True)
        )
        if not goes_on:
            self.close()
            self._tag = tag
            self._kept.clear()
            self._read = list(starts)
            self._remembered = list(starts)
        self._sent = list(self._read)

    def publish(self, origin: Origin, events: Sequence[StreamEvent]) -> None:
        """Send the events of a message; none of a message that is read again."""
        part, offset = origin
        self._read[part] = max(self._read[part], offset + 1)
        news = [event for event in events if is_after(event.origins, self._sent)]
        if not news:
            return
        self._remember(_KeptMessage(origin, news))
        if not self.subscriptions:
            return
        frames = [_frame(event) for event in news]
        position = b""
        for subscription in tuple(self.subscriptions):
            wanted = [
                frame
                for frame, event in zip(frames, news, strict=True)
                if event in subscription.wanted
            ]
            if wanted:
                position = position or _id(self.position)
                if not subscription.offer(_identified(wanted, position)):
                    self.dropped += 1
                    self.subscriptions.discard(subscription)

    def subscribe(self, wanted: EventFilter, last_event_id: str | None) -> Subscription:
        """Return a subscription that begins after an event, or with now."""
        subscription = Subscription(wanted, self._capacity)
        self.subscriptions.add(subscription)
        missed = self._missed(wanted, last_event_id or "")
        if missed is None or len(missed) >= self._capacity:
            kind = b"hello" if last_event_id is None else b"reset"
            subscription.offer(RETRY + _id(self.position) + b"event: " + kind + b"\ndata: {}\n\n")
            return subscription
        subscription.offer(RETRY + b"event: resumed\ndata: {}\n\n")
        for frame in missed:
            subscription.offer(frame)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription, if it is known."""
        self.subscriptions.discard(subscription)

    async def reach(self, last_event_id: str, timeout_s: float) -> None:
        """Wait a little for an id that is ahead of us, as that of another instance may be."""
        wanted = decode(self._tag, len(self._read), last_event_id)
        for _ in range(int(timeout_s / POLL_S)):
            if wanted is None or not self._is_ahead(wanted):
                return
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """End every subscription, as when the process ends."""
        for subscription in self.subscriptions:
            subscription.end(CLOSING)
        self.subscriptions.clear()

    def _remember(self, message: _KeptMessage) -> None:
        self._kept.append(message)
        if len(self._kept) > self._keep:
            part, offset = self._kept.popleft().origin
            self._remembered[part] = max(self._remembered[part], offset + 1)

    def _is_ahead(self, positions: Positions) -> bool:
        return any(position > read for position, read in zip(positions, self._read, strict=True))

    def _missed(self, wanted: EventFilter, last_event_id: str) -> list[bytes] | None:
        """Return the frames after an event; None when some may be forgotten."""
        seen = decode(self._tag, len(self._read), last_event_id)
        if seen is None or self._is_ahead(seen):
            return None
        if any(position < first for position, first in zip(seen, self._remembered, strict=True)):
            return None
        reached = list(seen)
        missed = []
        for message in self._kept:
            frames = [_frame(event) for event in message.after(seen) if event in wanted]
            part, offset = message.origin
            reached[part] = max(reached[part], offset + 1)
            if frames:
                missed.append(_identified(frames, _id(encode(self._tag, reached))))
        return missed


def _frame(event: StreamEvent) -> bytes:
    return b"event: " + event.kind.encode() + b"\ndata: " + event.data + b"\n\n"


def _id(position: str) -> bytes:
    return b"id: " + position.encode() + b"\n"


def _identified(frames: Sequence[bytes], identity: bytes) -> bytes:
    """Return the frames of one message; the last has the id, for only then all are sent."""
    return b"".join((*frames[:-1], identity, frames[-1]))
