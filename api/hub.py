"""Events to many clients: bounded queues, slow ones dropped, lost ones resumed."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from api.market import Event

HEARTBEAT: Final = b": still here\n\n"
RETRY: Final = b"retry: 2000\n"


@dataclass(frozen=True)
class Wanted:
    """What a client asked for; None is all."""

    symbols: frozenset[str] | None = None
    interval: str | None = None
    kinds: frozenset[str] | None = None

    def __contains__(self, event: Event) -> bool:
        """Whether an event is wanted."""
        return (
            (self.symbols is None or event.symbol in self.symbols)
            and self.interval in {None, event.interval}
            and (self.kinds is None or event.kind in self.kinds)
        )


class Subscription:
    """One client's queue."""

    def __init__(self, wanted: Wanted, capacity: int) -> None:
        self.wanted = wanted
        self.is_over = False
        self._capacity = capacity
        self._frames: deque[bytes] = deque()
        self._news = asyncio.Event()

    def offer(self, frame: bytes) -> bool:
        """Queue a frame; return False, with the queue emptied, when the client lags too far."""
        if len(self._frames) >= self._capacity:
            self.end()
            return False
        self._frames.append(frame)
        self._news.set()
        return True

    def end(self, last: bytes = b"event: dropped\ndata: {}\n\n") -> None:
        """Send one more frame, then nothing."""
        self._frames.clear()
        self._frames.append(last)
        self.is_over = True
        self._news.set()

    async def frames(self, heartbeat_s: float) -> AsyncIterator[bytes]:
        """Yield what comes, all that is there at once; a comment when it is silent for long."""
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    await self._news.wait()
            except TimeoutError:
                yield HEARTBEAT
                continue
            self._news.clear()
            over = self.is_over
            joined = b"".join(self._frames)
            self._frames.clear()
            yield joined
            if over:
                return


class Hub:
    """Numbers events and hands them to every subscription that wants them.

    An event's id is ``<epoch>-<number>``: the epoch is this process's. A client that comes back
    with an id that is still kept gets what it missed; any other is told to start over (``reset``).
    """

    def __init__(self, *, keep: int = 10_000, capacity: int = 2_000) -> None:
        """Keep the newest ``keep`` events for those who come back."""
        self.epoch = secrets.token_hex(4)
        self.subscriptions: set[Subscription] = set()
        self.dropped = 0
        self._capacity = capacity
        self._kept: deque[tuple[int, Event]] = deque(maxlen=keep)
        self._last = 0

    def publish(self, event: Event) -> None:
        """Hand an event to all who want it."""
        self._last += 1
        self._kept.append((self._last, event))
        frame = b""
        for one in tuple(self.subscriptions):
            if event not in one.wanted:
                continue
            frame = frame or self._frame(self._last, event)
            if not one.offer(frame):
                self.dropped += 1
                self.subscriptions.discard(one)

    def subscribe(self, wanted: Wanted, last_event_id: str | None) -> Subscription:
        """Return a subscription that begins after an event, or with now."""
        subscription = Subscription(wanted, self._capacity)
        self.subscriptions.add(subscription)
        after = self._number(last_event_id)
        missed = self._missed(wanted, after) if after is not None else None
        if missed is None or len(missed) >= self._capacity:
            kind = "hello" if last_event_id is None else "reset"
            head = f"id: {self.epoch}-{self._last}\nevent: {kind}\ndata: {{}}\n\n"
            subscription.offer(RETRY + head.encode())
        else:
            subscription.offer(RETRY + b"event: resumed\ndata: {}\n\n")
            for frame in missed:
                subscription.offer(frame)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; one that is forgotten already is fine."""
        self.subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription, as when the process ends."""
        for one in self.subscriptions:
            one.end(b"event: closing\ndata: {}\n\n")
        self.subscriptions.clear()

    def _missed(self, wanted: Wanted, after: int) -> list[bytes] | None:
        """Return the frames after an event; None when some of them are no longer kept."""
        if after > self._last:
            return None
        if after < self._last and (not self._kept or self._kept[0][0] > after + 1):
            return None
        return [
            self._frame(number, event)
            for number, event in self._kept
            if number > after and event in wanted
        ]

    def _number(self, last_event_id: str | None) -> int | None:
        epoch, _, number = (last_event_id or "").partition("-")
        if epoch != self.epoch or not (number.isascii() and number.isdigit() and len(number) < 19):
            return None
        return int(number)

    def _frame(self, number: int, event: Event) -> bytes:
        head = f"id: {self.epoch}-{number}\nevent: {event.kind}\ndata: ".encode()
        return head + event.data + b"\n\n"
