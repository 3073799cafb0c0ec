"""Fan-out of events to many clients: bounded queues, slow clients dropped, others resumed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from api.stream.backlog import Backlog
from api.stream.cursors import Origin, Positions, decode, encode, tag_of
from api.stream.market import StreamEvent

RETRY: Final = b"retry: 2000\n"
"""The field that tells a client how long to wait before it reconnects, in milliseconds."""

DROPPED: Final = b"event: dropped\ndata: {}\n\n"
"""The last frame for a client that reads too slowly."""

CLOSING: Final = b"event: closing\ndata: {}\n\n"
"""The last frame of a stream that ends and may be resumed."""

CAPACITY_BYTES: Final = 4 << 20
"""Most bytes of frames that wait for one client."""

SLICE: Final = 250
"""Kept events that are looked at in one go, for a client that comes back."""

POLL_S: Final = 0.05
"""Time between two looks at whether this instance has caught up with an id."""


@dataclass(frozen=True)
class EventFilter:
    """The events that a client wants; None is all."""

    symbols: frozenset[str] | None = None
    interval: str | None = None
    kinds: frozenset[str] | None = None

    def __contains__(self, event: StreamEvent) -> bool:
        """True when an event is wanted."""
        return (
            (self.symbols is None or event.symbol in self.symbols)
            and self.interval in {None, event.interval}
            and (self.kinds is None or event.kind in self.kinds)
        )


class Subscription:
    """One client's queue."""

    def __init__(
        self,
        wanted: EventFilter,
        capacity: int,
        missed: AsyncIterator[bytes] | None = None,
    ) -> None:
        """Queue frames; those in ``missed`` are read and sent before them, as the client takes."""
        self.wanted = wanted
        self._missed = missed
        self._capacity = capacity
        self._is_over = False
        self._waiting_bytes = 0
        self._frames: deque[bytes] = deque()
        self._news = asyncio.Event()

    def offer(self, frame: bytes) -> bool:
        """Queue a frame; return False, the queue emptied, when the client lags too far."""
        self._waiting_bytes += len(frame)
        if len(self._frames) >= self._capacity or self._waiting_bytes > CAPACITY_BYTES:
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
        if self._missed is not None:
            async for frames in self._missed:
                yield frames
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
            self._waiting_bytes = 0
            yield joined
            if is_over:
                return


class Hub:
    """Sends events to every subscription that wants them, and remembers the newest.

    An event's id is the position of this reader of the topics once the event is sent. A client
    that reconnects with one gets what follows, from whichever instance of the API, as long as
    that remembers all of it; otherwise ``reset`` says to load everything again.
    """

    def __init__(
        self, *, keep: int = 20_000, keep_bytes: int = 64 << 20, capacity: int = 2_000
    ) -> None:
        """Remember ``keep`` events of ``keep_bytes``; let a client lag by ``capacity`` frames."""
        self.subscriptions: set[Subscription] = set()
        self.dropped = 0
        self.is_shut = False
        self._capacity = capacity
        self._tag = ""
        self._backlog = Backlog(keep, keep_bytes)
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
            self._backlog.clear(len(starts))
            self._read = list(starts)
            self._remembered = list(starts)
        self._sent = list(self._read)

    def publish(self, origin: Origin, event: StreamEvent | None) -> None:
        """Note that a message was read, and send its news; none of one that is read again."""
        part, offset = origin
        self._read[part] = max(self._read[part], offset + 1)
        if event is None or offset < self._sent[part]:
            return
        for gone_part, gone_offset in self._backlog.add(event):
            self._remembered[gone_part] = max(self._remembered[gone_part], gone_offset + 1)
        if self.subscriptions:
            self._send(event)

    def _send(self, event: StreamEvent) -> None:
        frame = b""  # shared by all that want the event
        for subscription in tuple(self.subscriptions):
            if event not in subscription.wanted:
                continue
            frame = frame or _id(self.position) + _frame(event)
            if not subscription.offer(frame):
                self.dropped += 1
                self.subscriptions.discard(subscription)

    def subscribe(self, wanted: EventFilter, last_event_id: str | None) -> Subscription:
        """Return a subscription that begins after an event, or with now."""
        seen = self._known(last_event_id or "")
        missed = None if seen is None else self._missed(wanted, seen, self._backlog.end)
        subscription = Subscription(wanted, self._capacity, missed)
        self.subscriptions.add(subscription)  # at once: nothing comes in between
        if missed is None:
            kind = b"hello" if last_event_id is None else b"reset"
            subscription.offer(RETRY + self._greeting(kind))
        return subscription

    def _greeting(self, kind: bytes) -> bytes:
        return _id(self.position) + b"event: " + kind + b"\ndata: {}\n\n"

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

    def shut(self) -> None:
        """End every subscription for good, also of those who wait for the topics."""
        self.is_shut = True
        self.close()

    def _is_ahead(self, positions: Positions) -> bool:
        return any(position > read for position, read in zip(positions, self._read, strict=True))

    def resume_length(self, last_event_id: str) -> int:
        """Return how many kept events must be looked at to resume after one."""
        seen = self._known(last_event_id)
        return 0 if seen is None else self._backlog.end - self._backlog.first_after(seen)

    def _known(self, last_event_id: str) -> list[int] | None:
        """Return the positions of an id; None when some of what follows may be forgotten."""
        seen = decode(self._tag, len(self._read), last_event_id)
        if seen is None or self._is_ahead(seen):
            return None
        if any(position < first for position, first in zip(seen, self._remembered, strict=True)):
            return None
        return seen

    async def _missed(self, wanted: EventFilter, seen: Positions, end: int) -> AsyncIterator[bytes]:
        """Yield the frames after an event up to a kept one, as fast as the client reads them.

        The events are looked at in slices, between which others are served. A client so slow
        that some are forgotten meanwhile gets ``reset``.
        """
        reached = list(seen)
        number = self._backlog.first_after(seen)
        frames = [RETRY, b"event: resumed\ndata: {}\n\n"]
        while True:
            events = self._backlog.read(number, min(SLICE, end - number)) if number < end else []
            if events is None:
                yield self._greeting(b"reset")
                return
            for event in events:
                part, offset = event.origin
                reached[part] = max(reached[part], offset + 1)
                if offset >= seen[part] and event in wanted:
                    frames += _id(encode(self._tag, reached)), _frame(event)
            number += len(events)
            if frames:
                yield b"".join(frames)
                frames = []
            if number >= end:
                return
            await asyncio.sleep(0)


def _frame(event: StreamEvent) -> bytes:
    return b"event: " + event.kind.encode() + b"\ndata: " + event.data + b"\n\n"


def _id(position: str) -> bytes:
    return b"id: " + position.encode() + b"\n"
