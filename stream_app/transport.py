"""What the worker replaces of Faust's transport and sensors, for speed alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from faust.sensors.monitor import Monitor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT
from mode.types import ServiceT
from yarl import URL

YIELD_EVERY: Final = 128
"""Messages handed on between two turns of the event loop."""


class DirectConsumer(driver.Consumer):
    """A consumer that hands messages on without a task for each.

    Faust wraps every delivery in ``wait_first(callback, suspend_flow.wait())``: two tasks, an
    event and their clean-up, some 50 µs a message. The delivery itself does not wait, for the
    stream's buffer takes a message always and pauses the partition when it is full; a
    suspended flow is looked at between messages instead.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commits: dict[TP, int] = {}
        """Offsets that the broker has confirmed, of the next message to take."""

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        confirmed = await super()._commit(offsets)
        if confirmed:
            self.commits.update(offsets)
        return confirmed

    async def perform_seek(self) -> None:
        await super().perform_seek()
        sources = self._sources()
        # a partition that was never committed is read from its beginning
        begins = await self.earliest_offsets(*sources) if sources else {}
        self.commits = {tp: self._committed_offset[tp] or begins[tp] or 0 for tp in sources}

    def _is_source(self, tp: TP) -> bool:
        return self.app.topics.acks_enabled_for(tp.topic)

    def _sources(self) -> set[TP]:
        return {tp for tp in self.assignment() if self._is_source(tp)}

    async def ends(self) -> dict[TP, int]:
        """Return the end offset of each source partition that is assigned."""
        sources = self._sources()
        return (
            {tp: end or 0 for tp, end in (await self.highwaters(*sources)).items()}
            if sources
            else {}
        )

    async def _drain_messages(self, fetcher: ServiceT) -> None:
        since_yield = 0
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)
                async for tp, message in self.getmany(timeout=1.0):
                    since_yield += 1
                    if since_yield >= YIELD_EVERY:
                        since_yield = 0
                        await asyncio.sleep(0)
                    if not self.flow_active:
                        break
                    await self._deliver(tp, message)
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _deliver(self, tp: TP, message: Any) -> None:
        offset, expected = message.offset, self._read_offset[tp]
        if expected is not None and offset < expected:
            return  # fetched before a seek
        if expected and offset - expected > 1 and self._is_source(tp):
            await self._add_gap(tp, expected + 1, offset)  # compacted or aborted offsets
        await self.callback(message)
        self._read_offset[tp] = offset


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
