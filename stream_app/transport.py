"""What the worker replaces of Faust's transport and sensors, for speed alone."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from faust.events import Event
from faust.sensors.monitor import Monitor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, Message
from mode.types import ServiceT
from mode.utils.queues import FlowControlEvent
from yarl import URL

CHUNK: Final = 128
"""Messages handed on together, between two turns of the event loop."""

MAX_FETCH: Final = 2048
"""Messages taken from the client at once."""

MAX_WAITING: Final = 4096
"""Messages in the stream's buffer beyond which nothing more is fetched."""

BUFFER_SIZE: Final = 2 * (MAX_FETCH + MAX_WAITING)
"""Of the stream's buffer: never full, so that handing on messages never waits."""


class DirectConsumer(driver.Consumer):
    """A consumer that hands messages on in chunks, and commits what is finished.

    Three things of Faust's own consumer are replaced:

    - It wraps every delivery in ``wait_first(callback, suspend_flow.wait())``: two tasks, an
      event and their clean-up, some 50 µs a message; then come a lock, an event and a turn of
      the stream for each. Here up to ``CHUNK`` messages of a source are the value of one event,
      put into the stream's buffer; that cannot wait, for fetching stops before it is full.
    - It fetches while it seeks, so that a message of before a seek is delivered behind it; what
      then comes again is taken for old. Here a lock keeps the two apart.
    - It commits what was acknowledged message by message, and acknowledges also what a stream
      skips while the flow is suspended, so that a stop or a rebalance under load loses
      messages. Here ``finish`` alone says what may be committed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commits: dict[TP, int] = {}
        """Offsets that the broker has confirmed, of the next message to take."""
        self._stream: asyncio.Queue[Any] | None = None
        self._finished: dict[TP, int] = {}
        self._fetching = asyncio.Lock()
        self._fetcher_task: asyncio.Task[Any] | None = None

    def deliver_to(self, stream: asyncio.Queue[Any]) -> None:
        """Hand messages of source topics on to a stream's buffer; nothing is fetched before."""
        self._stream = stream

    def finish(self, tp: TP, next_offset: int) -> None:
        """Note that everything of a partition before an offset may be committed."""
        self._finished[tp] = next_offset

    def ack(self, message: Any) -> bool:  # noqa: ARG002 - the base class's
        return False

    async def commit(
        self,
        topics: Any = None,  # noqa: ARG002 - the base class's; all are committed
        start_new_transaction: bool = True,  # noqa: ARG002, FBT001, FBT002
    ) -> bool:
        """Commit what is finished; return whether the broker has confirmed anything new."""
        assigned = self.assignment()
        offsets = {
            tp: offset
            for tp, offset in self._finished.items()
            if tp in assigned and offset > self.commits.get(tp, 0)
        }
        if not offsets or not await self._commit(offsets):
            return False
        self.commits.update(offsets)
        self._committed_offset.update(offsets)  # Faust's own watch over stalls looks here
        return True

    async def perform_seek(self) -> None:
        if asyncio.current_task() is self._fetcher_task:
            await self._seek_all()
            return
        async with self._fetching:
            await self._seek_all()

    async def _seek_all(self) -> None:
        self._finished.clear()
        await super().perform_seek()
        sources = self._sources()
        # a partition that was never committed is read from its beginning
        begins = await self.earliest_offsets(*sources) if sources else {}
        self.commits = {tp: self._committed_offset[tp] or begins[tp] or 0 for tp in sources}

    def _sources(self) -> set[TP]:
        acked = self.app.topics.acks_enabled_for
        return {tp for tp in self.assignment() if acked(tp.topic)}

    async def ends(self) -> dict[TP, int]:
        """Return the end offset of each source partition that is assigned."""
        sources = self._sources()
        ends = await self.highwaters(*sources) if sources else {}
        return {tp: end or 0 for tp, end in ends.items()}

    async def _drain_messages(self, fetcher: ServiceT) -> None:
        self._fetcher_task = asyncio.current_task()
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)
                if not self.flow_active:
                    await self.wait(self.can_resume_flow.wait())
                elif self._stream is None or self._stream.qsize() * CHUNK > MAX_WAITING:
                    await asyncio.sleep(0.001)
                else:
                    async with self._fetching:
                        await self._fetch_once()
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        finally:
            self._fetcher_task = None

    def _flows(self) -> bool:
        return self.flow_active

    async def _fetch_once(self) -> None:
        if not self._flows():
            return
        is_source = self.app.topics.acks_enabled_for
        chunk: list[Message] = []
        async for tp, message in self.getmany(timeout=1.0):
            if not self._flows():
                return  # the seek that precedes the next start of the flow fetches it again
            expected = self._read_offset[tp]
            if expected is not None and message.offset < expected:
                continue  # fetched before a seek
            if not is_source(tp.topic):
                await self.callback(message)
                self._read_offset[tp] = message.offset
                continue
            chunk.append(message)
            if len(chunk) >= CHUNK:
                self._hand_on(chunk)
                chunk = []
                await asyncio.sleep(0)
        if chunk and self._flows():
            self._hand_on(chunk)

    def _hand_on(self, chunk: list[Message]) -> None:
        assert self._stream is not None  # noqa: S101 - else nothing is fetched
        last = chunk[-1]
        last.tracked = True  # keeps Faust from following it to its acknowledgement
        last.incref(1)
        self._stream.put_nowait(Event(self.app, None, chunk, None, last))
        for message in chunk:
            self._read_offset[message.tp] = message.offset


class KeepingFlowControl(FlowControlEvent):
    """Flow control that does not lose what it has let through.

    Faust's empties the streams' buffers whenever it resumes. At the end of a recovery it resumes
    a flow that runs already, after the seek: what was fetched in between is gone, and no offset
    behind it is committed for good (faust#596).
    """

    def resume(self) -> None:
        if not self.is_active():
            super().resume()


class DirectTransport(driver.Transport):
    """Faust's aiokafka transport with that consumer."""

    Consumer = DirectConsumer


def use_direct_transport(app: AppT, brokers: str) -> None:
    """Make an app that has not started consume by ``DirectConsumer``."""
    app.transport = DirectTransport([URL(one) for one in brokers.split(";")], app)


class SilentMonitor(Monitor):
    """Faust's monitor without its bookkeeping of every message; the worker counts by itself."""

    def on_message_in(self, *_: Any) -> None: ...
    def on_stream_event_in(self, *_: Any) -> None: ...
    def on_stream_event_out(self, *_: Any) -> None: ...
    def on_message_out(self, *_: Any) -> None: ...
    def on_topic_buffer_full(self, *_: Any) -> None: ...
    def track_tp_end_offset(self, *_: Any) -> None: ...
