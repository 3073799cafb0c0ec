"""Every override of Faust, each with why: most of them stop lost messages, two are for speed.

The reasons were found by trials that killed, paused and rebalanced workers under load and counted
every candle (``tests/integration/faults``); an issue of Faust is named where there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final, cast

import faust
from faust.auth import Credentials, OAuthCredentials, SASLCredentials, SSLCredentials
from faust.events import Event
from faust.sensors.monitor import Monitor
from faust.tables.manager import TableManager
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, Message
from mode.types import ServiceT
from mode.utils.queues import FlowControlEvent
from yarl import URL

from shared.access import client_options
from shared.kafka import REQUEST_S, mend_clients
from stream_app.fence import Fence
from stream_app.settings import WorkerSettings
from stream_app.state import StateError

FETCH_S: Final = 0.2
"""Longest wait of a fetch for messages; a rebalance may have to wait for it."""

FETCH_BYTES: Final = 1 << 18
"""Most bytes of one partition in a fetch: the client hands on one partition's whole before the
next, so behind a hot one others would wait for a megabyte of it."""

CHUNK: Final = 128
"""Messages handed on together, between two turns of the event loop."""

MAX_FETCH: Final = 2048
"""Messages taken from the client at once."""

MAX_WAITING: Final = 4096
"""Messages in the stream's buffer beyond which nothing more is fetched."""

LARGE_BYTES: Final = 8 << 20
"""Bytes of values taken at once after which all of them are handled before more are fetched."""

BUFFER_SIZE: Final = 2 * (MAX_FETCH + MAX_WAITING)
"""Size of the stream's buffer: it is never full, so handing on messages never waits."""


class DirectConsumer(driver.Consumer):
    """A consumer that hands messages on in chunks, loses none, and commits what is finished.

    Four things of Faust's own consumer are replaced, three of them since they lose messages:

    - Seeks (``seek_wait``, ``perform_seek``): it fetches while it seeks, so that a message from
      before a seek is delivered behind it, and those that follow again count as old. Here a lock
      keeps the two apart.
    - Rebalances (``on_partitions_*``, ``perform_seek``, ``_fetch_once``): a fetch that waits while
      partitions are assigned takes the first messages of the new assignment and is then thrown
      away. Only a partition with a committed offset is sought back, so in a new group those
      messages were lost (workers started at once in a new group). Here every partition is sought,
      and nothing of a source is handed on before.
    - Commits (``ack``, ``commit``): it commits what was acknowledged message by message, and
      acknowledges also what a stream skips while the flow is suspended, so a stop or a rebalance
      under load loses messages. Here ``finish`` alone says what may be committed.
    - Delivery (``_drain_messages``), for speed: it wraps every delivery in
      ``wait_first(callback, suspend_flow.wait())``: two tasks, an event and their clean-up, some
      50 µs a message; then come a lock, an event and a turn of the stream for each. Here up to
      ``CHUNK`` messages of a source are the value of one event, put into the stream's buffer;
      that cannot wait, for fetching stops before it is full.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commits: dict[TP, int] = {}
        """Offsets that the broker has confirmed, of the next message to take."""
        self._stream: asyncio.Queue[Any] | None = None
        self._recover: Mapping[str, Callable[[Message], None]] = {}
        self._finished: dict[TP, int] = {}
        self._fetching = asyncio.Lock()
        self._fetcher_task: asyncio.Task[Any] | None = None
        app = cast("WorkerApp", self.app)
        self._fence, self._note_lost = app.fence, app.note_lost
        self._begin_again: set[int] = set()
        self._next: dict[TP, int] = {}  # offset that the next message of a source should have
        self._rebalances = 0
        self._is_large = False  # what was last fetched
        self._sought_in = -1  # the value of ``_rebalances`` that the sources were last sought in

    def _new_consumer_thread(self) -> CommittedThread:
        return CommittedThread(self, loop=self.loop, beacon=self.beacon)

    def deliver_to(
        self, stream: asyncio.Queue[Any], recover: Mapping[str, Callable[[Message], None]]
    ) -> None:
        """Say who takes the messages; nothing is fetched before.

        Args:
            stream: the buffer of the stream that messages of the sources are handed on to.
            recover: by changelog topic, what takes each of its messages.
        """
        self._stream, self._recover = stream, recover

    def begin_again(self, partitions: set[int]) -> None:
        """Say which partitions the next seek takes to their beginning, whatever is committed."""
        self._begin_again |= partitions

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
        if self._fence.is_closed:
            return False
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

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._rebalances += 1
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._rebalances += 1
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek the changelog when no fetch is under way."""
        async with self._fetching:
            await super().seek_wait(partitions)

    async def perform_seek(self) -> None:
        """Seek every source to its committed offset or its beginning."""
        if asyncio.current_task() is self._fetcher_task:
            return  # Faust's way to give back what it drops; a seek precedes the flow's next start
        async with self._fetching:
            rebalances = self._rebalances
            self._finished.clear()
            await super().perform_seek()
            sources = self._sources()
            begins = await self.earliest_offsets(*sources) if sources else {}
            self.commits = {}
            for tp in sources:
                committed, begin = self._committed_offset[tp], begins[tp] or 0
                if tp.partition in self._begin_again:
                    committed = None
                self.commits[tp] = max(committed or 0, begin)
                if committed and committed < begin:
                    self._note_lost(tp.partition, committed, begin - 1)
            self._begin_again.clear()
            elsewhere = {
                tp: at for tp, at in self.commits.items() if self._committed_offset[tp] != at
            }
            if elsewhere:
                await super().seek_wait(elsewhere)
            self._next = dict(self.commits)
            self._sought_in = rebalances

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
                elif self._is_full():
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

    def _is_full(self) -> bool:
        """Tell whether messages wait that must be handled before more are fetched."""
        most = 0 if self._is_large else MAX_WAITING
        if self._stream is None or self._stream.qsize() * CHUNK > most:
            return True
        changelog = cast("TableManager", self.app.tables).changelog_queue
        return changelog.qsize() > MAX_WAITING

    async def _fetch_once(self) -> None:
        """Fetch and hand on; what a rebalance overtakes is dropped, since a seek follows it."""
        active = self._get_active_partitions()
        if not self.flow_active or not active:
            await asyncio.sleep(FETCH_S / 10)
            return
        rebalances = self._rebalances
        records = await self._getmany(active, FETCH_S)
        sizes = (len(record.value or b"") for fetched in records.values() for record in fetched)
        self._is_large = sum(sizes) > LARGE_BYTES
        messages: Iterator[Message] = (
            self._to_message(ensure_TP(tp), record)
            for tp, fetched in records.items()
            for record in fetched
        )
        if rebalances == self._rebalances == self._sought_in:
            await self._look_for_holes(records)
        while chunk := list(islice(messages, CHUNK)):
            if not self.flow_active or rebalances != self._rebalances:
                return
            self._hand_on(chunk, are_sought=self._sought_in == rebalances)
            await asyncio.sleep(0)

    async def _look_for_holes(self, records: Mapping[Any, Sequence[Any]]) -> None:
        """Say what retention removed while the worker was behind: the client skips it silently.

        A hole is not a loss by itself: control records of transactions take offsets too.
        """
        jumps: dict[TP, int] = {}
        for found, fetched in records.items():
            tp = ensure_TP(found)
            if tp not in self._next or not fetched:
                continue
            if fetched[0].offset < self._next[tp]:
                error = StateError(
                    f"topic {tp.topic}, partition {tp.partition}: expected offset "
                    f"{self._next[tp]}, got {fetched[0].offset}: it was deleted and created again"
                )
                self._fence.close(error)
                raise error
            if fetched[0].offset > self._next[tp]:
                jumps[tp] = self._next[tp]
            self._next[tp] = fetched[-1].offset + 1
        begins = await self.earliest_offsets(*jumps) if jumps else {}
        for tp, expected in jumps.items():
            begin = begins[tp] or 0
            if begin > expected:
                self._note_lost(tp.partition, expected, begin - 1)

    def _hand_on(self, chunk: list[Message], *, are_sought: bool) -> None:
        is_source = self.app.topics.acks_enabled_for
        sources = [message for message in chunk if is_source(message.topic)]
        if sources and are_sought:
            self._to_stream(sources)
        if len(sources) < len(chunk):
            self._to_recovery([message for message in chunk if not is_source(message.topic)])

    def _to_recovery(self, chunk: list[Message]) -> None:
        """Give changelog records to their tables, and Faust's recovery its progress.

        Of each partition it gets the last record alone, since each costs it some 50 µs.

        Raises:
            LookupError: when no table takes the records of a topic.
        """
        last: dict[TP, Message] = {}
        for message in chunk:
            recover = self._recover.get(message.topic)
            if recover is None:
                raise LookupError(f"topic {message.topic}: no table takes its records")
            recover(message)
            last[message.tp] = message
        changelog = cast("TableManager", self.app.tables).changelog_queue
        for message in last.values():
            changelog.put_nowait(Event(self.app, None, None, None, message))

    def _to_stream(self, chunk: list[Message]) -> None:
        assert self._stream is not None  # noqa: S101 - else nothing is fetched
        last = chunk[-1]
        last.tracked = True  # keeps Faust from following it to its acknowledgement
        last.incref(1)
        self._stream.put_nowait(Event(self.app, None, chunk, None, last))
        self._read_offset[last.tp] = last.offset


class KeepingFlowControl(FlowControlEvent):
    """Flow control that does not lose what it has let through.

    Faust's empties the streams' buffers whenever it resumes. At the end of a recovery it resumes
    a flow that runs already, after the seek: what was fetched in between is lost, and no offset
    behind it is ever committed (faust#596).
    """

    def resume(self) -> None:
        if not self.is_active():
            super().resume()


class CommittedThread(driver.AIOKafkaConsumerThread):
    """The client's thread, reading committed messages alone.

    Faust does so only with its own transactions: candles of aborted ones were forecast.
    """

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - taken at its start
        return consumer


class DirectTransport(driver.Transport):
    """Faust's aiokafka transport with that consumer."""

    Consumer = DirectConsumer


class SilentMonitor(Monitor):
    """Faust's monitor without its bookkeeping of every message, for speed.

    The worker counts by itself.
    """

    def on_message_in(self, *_: Any) -> None: ...
    def on_stream_event_in(self, *_: Any) -> None: ...
    def on_stream_event_out(self, *_: Any) -> None: ...
    def on_message_out(self, *_: Any) -> None: ...
    def on_topic_buffer_full(self, *_: Any) -> None: ...
    def track_tp_end_offset(self, *_: Any) -> None: ...


class WorkerApp(faust.App):
    """A Faust app that keeps nothing on disk: the windows live in memory and the changelog."""

    fence: Fence
    note_lost: NoteLost

    def _create_directories(self) -> None:
        """Make none: the container's file system is read-only."""

    @cached_property
    def flow_control(self) -> KeepingFlowControl:
        """Flow control of the streams' buffers."""
        return KeepingFlowControl()


def credentials_of(options: Mapping[str, Any]) -> Credentials | None:
    """Return what Faust gives its own clients, from what ours are given; None in the open."""
    protocol, context = options["security_protocol"], options.get("ssl_context")
    if protocol == "PLAINTEXT":
        return None
    if protocol == "SSL":
        return SSLCredentials(context)
    if "sasl_oauth_token_provider" in options:
        return OAuthCredentials(oauth_cb=options["sasl_oauth_token_provider"], ssl_context=context)
    return SASLCredentials(
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        mechanism=options["sasl_mechanism"],
        ssl_context=context,
    )


NoteLost = Callable[[int, int, int], None]
"""Takes the partition, first and last offset of messages that were gone before they were read."""


def make_app(settings: WorkerSettings, fence: Fence, note_lost: NoteLost) -> faust.App:
    """Return the Faust app with what the worker needs and nothing of what it does itself.

    Args:
        settings: of the worker.
        fence: asked before each commit.
        note_lost: called for messages that were gone before they were read.
    """
    mend_clients()
    brokers = [f"kafka://{address.strip()}" for address in settings.bootstrap.split(",")]
    options: dict[str, Any] = {
        "broker": ";".join(brokers),
        "store": "memory://",
        "Monitor": SilentMonitor,
        "web_enabled": False,
        "topic_allow_declare": False,  # topics are made before, by shared.topics
        "topic_disable_leader": True,
        "topic_partitions": settings.partitions,
        "table_standby_replicas": 0,
        "broker_commit_interval": settings.commit_seconds,
        "broker_session_timeout": settings.session_seconds,
        "broker_request_timeout": max(REQUEST_S, 1.5 * settings.session_seconds),
        "broker_rebalance_timeout": 1.2 * settings.session_seconds,
        "consumer_max_fetch_size": FETCH_BYTES,
        "broker_heartbeat_interval": settings.session_seconds / 10,
        "consumer_auto_offset_reset": "earliest",
        "stream_buffer_maxsize": BUFFER_SIZE,
        "broker_max_poll_records": MAX_FETCH,
        "stream_wait_empty": False,  # CandleWorker.drain waits
    }
    credentials = credentials_of(client_options(settings))
    if credentials is not None:
        options["broker_credentials"] = credentials
    app = WorkerApp(settings.group, **options)
    app.fence, app.note_lost = fence, note_lost
    cast("AppT", app).transport = DirectTransport([URL(address) for address in brokers], app)
    return app
