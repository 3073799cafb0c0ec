"""The candle worker: one topic, one table, one agent that carries batches through the pipeline."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from faust.exceptions import ConsumerNotStarted
from faust.streams import Stream
from faust.types import ChannelT, Message, StreamT

from shared.candles import DAY_MS, RejectReason
from shared.forecaster import Models, references_of
from shared.kafka import TRANSIENT, when_reachable
from shared.messages import PartialValue
from shared.metrics import WorkerMetrics
from shared.process import calm_collector, now_ms
from stream_app.context import WorkerContext
from stream_app.drifting import DriftBoard, FeatureBoard
from stream_app.faust_app import DirectConsumer, make_app
from stream_app.fence import Fence
from stream_app.pipeline import BatchResult, Incoming, advance
from stream_app.progress import Progress
from stream_app.publisher import Publisher
from stream_app.recovery import Recovery
from stream_app.settings import WorkerSettings
from stream_app.state import StateError, SymbolState
from stream_app.windows import WindowTable, series_in

log = logging.getLogger("stream_app")

FORGET_SECONDS: Final = 60.0
"""Time between two looks for series that have been silent for long."""

OBSERVE_SECONDS: Final = 5.0
"""Longest wait for the broker's word on how far the partitions are."""


class ObserveError(Exception):
    """A broker that does not say how far the partitions are."""


class CandleWorker:
    """A Faust app around ``pipeline.advance``; made within a running event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        models: Models,
        publisher: Publisher,
        metrics: WorkerMetrics,
        fence: Fence,
    ) -> None:
        self._settings = settings
        for reason in RejectReason:
            metrics.rejects.labels(reason.value)  # from 0 on, so that the first is a rise
        self._models = models
        self._settings = settings
        self._capacity = settings.capacity(models)
        self._capacities = settings.capacities(models)
        self._longer: dict[bytes, bytes] = {}  # older candles for windows, by key
        self._lengthening: asyncio.Task[None] | None = None
        self._mending: asyncio.Task[set[int]] | None = None  # what a recovery found
        self._publisher = publisher
        self._metrics = metrics
        self._drift = DriftBoard(metrics)
        self._features = FeatureBoard(metrics, lambda: references_of(models))
        self._untrained: set[tuple[str, str]] = set()  # series that were named; bounded as windows
        self._rules = settings.rules(models)
        self._forget_ms = settings.forget_days * DAY_MS
        self._next_forget_s = 0.0
        metrics.max_windows.set(settings.max_series)
        self._max_batch = settings.max_batch
        self._changelog_topic = settings.changelog_topic
        self._session_s = settings.session_seconds
        self._fence = fence
        self.context = WorkerContext(settings, models, metrics, settings.context_wait_seconds)
        self._is_draining = False
        self.progress = Progress(settings.stall_seconds)
        self.recovered = False
        self._assigned_s = time.monotonic()
        self._idle = asyncio.Event()
        self._idle.set()
        self.app = make_app(settings, fence, self._note_lost)
        topic = self.app.topic(
            settings.candles_topic,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            allow_empty=True,
        )
        self.table = WindowTable(
            self.app,
            name="windows",
            key_type=bytes,
            value_type=bytes,
            partitions=settings.partitions,
        )
        self.app.tables.add(self.table)
        self.recovery = Recovery(settings, self.table, publisher, metrics, models)
        self.app.on_partitions_revoked.connect(self._settle)
        self.app.on_partitions_assigned.connect(self._begin_recovery)
        self.table.on_recover(self._end_recovery)
        self.app.agent(topic, name="forecast-candles")(self._forecast_candles)

    @property
    def _consumer(self) -> DirectConsumer:
        return cast("DirectConsumer", self.app.consumer)

    async def _forecast_candles(self, stream: StreamT[list[Message]]) -> AsyncIterator[None]:
        """Take what has arrived, up to a batch, and publish all that it owes.

        At low load a batch is one candle and nothing waits; in a burst it grows by itself. An
        event of the stream holds some messages, see ``DirectConsumer``.
        """
        queue = cast("ChannelT[list[Message]]", stream.channel).queue
        self._consumer.deliver_to(queue, {self._changelog_topic: self.table.recover})
        batch: list[Message] = []
        async for event in cast("Stream[list[Message]]", stream).noack().events():
            batch += event.value
            if len(batch) < self._max_batch and not queue.empty():
                continue
            await self.context.until_there(batch)
            if self._is_draining or not self.recovered:
                batch = []  # whoever follows reads it again
                continue
            # a rebalance redelivers what it found unprocessed, perhaps to another worker
            batch = self._current(batch)
            self._idle.clear()
            try:
                for start in range(0, len(batch), self._max_batch):
                    await self._handle(batch[start : start + self._max_batch])
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing may go on
                await self.fail(error)
                # Faust restarts an agent that ends behind its failed batch (faust#315)
                await asyncio.Event().wait()
            finally:
                self._idle.set()
            batch = []
            yield

    @property
    def failure(self) -> BaseException:
        """What ended the work."""
        return self._fence.reason or self.app.crash_reason or RuntimeError("Faust ended")

    async def fail(self, error: BaseException) -> None:
        """End the work for good: close the fence, then tell Faust."""
        self._fence.close(error)
        await self.app.crash(error)

    def _current(self, batch: Sequence[Message]) -> list[Message]:
        """Return the messages that were fetched since the last rebalance."""
        generation = self.app.consumer_generation_id
        return [message for message in batch if message.generation_id == generation]

    async def _is_ours_still(self, batch: Sequence[Message], started_s: float) -> bool:
        """Tell whether the group still counts this worker as the partitions' owner.

        After a pause long enough for another owner (SIGSTOP, a suspended machine) it waits for
        the next heartbeat, so that it does not write windows behind its successor's.
        """
        if time.monotonic() - started_s > self._session_s / 2:
            await asyncio.sleep(self._session_s / 5)
        return bool(self._current(batch[:1]))

    async def _settle(self, *_: Any, **__: Any) -> None:
        """Finish what is in hand before its partitions go to another worker."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._session_s / 2):
                if self._mending is not None:
                    await asyncio.wait([self._mending])
                await self._idle.wait()
                await self._consumer.commit()

    async def _handle(self, batch: Sequence[Message]) -> None:
        """Publish, then remember, then let commit.

        A window in the changelog so proves that its forecasts are out, whenever the worker dies.
        """
        started_s, began_ns = time.monotonic(), time.time_ns()
        if self._forget_ms and started_s >= self._next_forget_s:
            await self._forget(round(batch[-1].timestamp * 1000))
        incoming = [self._incoming(message) for message in batch]
        lengthened = set(self._longer)  # more may come while the batch is published
        with self._metrics.seconds.time():
            try:
                result = self._advance(incoming)
            except Exception:
                self._name_culprit(incoming)
                raise
        letters = self.context.letters(self.table.held)
        with self._metrics.send_seconds.time():
            await self._publisher.outputs(batch, result, began_ns, letters)
            if not await self._is_ours_still(batch, started_s):
                return  # its successor repeats the batch
            await self._publisher.windows(result)
        self._fence.check()
        self.table.remember(result.states, round(batch[-1].timestamp * 1000))
        for key in lengthened & result.states.keys():
            self._longer.pop(key, None)
        for message in batch:
            self._consumer.finish(message.tp, message.offset + 1)
        self._count(batch, result)

    def _stored(self, key: bytes) -> bytes | None:
        """Return a series' state, with older candles that a longer model needs."""
        stored: bytes | None = self.table.data.get(key)
        older = self._longer.get(key)
        if stored is None or older is None:
            return stored
        return SymbolState.decode(stored, self._capacity).lengthened(older, self._capacity).encode()

    def take_models(self) -> None:
        """Serve models that have changed: windows may have to grow, series by series.

        A series whose window is too short is served by a model before the new one, until its
        window is refilled from the topic or has filled up.
        """
        self.context.take_models()
        held, self._capacities = self._capacities, self._settings.capacities(self._models)
        self._capacity = max(self._capacities.values())
        short = [name for name, needed in self._capacities.items() if needed > held[name]]
        if not short:
            return
        log.info("a model needs %d candles of %s, the windows hold %d; reading the topic for the "
                 "older", self._capacities[short[0]], short[0], held[short[0]])  # fmt: skip
        if self.recovered:  # else the recovery does so at its end
            self._lengthen()

    def _lengthen(self) -> None:
        if self._lengthening is not None:
            self._lengthening.cancel()
        self._lengthening = asyncio.create_task(self._read_older())

    async def _read_older(self) -> None:
        """Read the candles before those that the windows hold, while candles go on."""
        held = set(self.table.held)
        longer = await when_reachable(self._settings, lambda: self.recovery.lengthen(held))
        if self.recovered and held == set(self.table.held):
            self._longer |= longer
            log.info("%d windows get older candles with their next one", len(longer))

    def _incoming(self, message: Message) -> Incoming:
        value = message.value
        if self.table.skips and (message.partition, message.offset) in self.table.skips:
            value = PartialValue.of(b"", 0, "put aside unread by dlq skip")
        return Incoming(
            message.key, value, message.partition, message.offset, round(message.timestamp * 1000)
        )

    def _advance(self, incoming: Sequence[Incoming]) -> BatchResult:
        return advance(
            incoming, self._stored, self._models, self._settings.window or 0, now_ms(),
            rules=self._rules, held_series=len(self.table.data.data), context_of=self.context.of,
        )  # fmt: skip

    def _name_culprit(self, incoming: Sequence[Incoming]) -> None:
        """Log the first message of a batch with which the work fails."""

        def fails(length: int) -> bool:
            try:
                self._advance(incoming[:length])
            except Exception:  # noqa: BLE001 - whatever it is, it is raised again
                return True
            return False

        length = bisect_left(range(len(incoming)), x=True, key=lambda at: fails(at + 1)) + 1
        culprit = incoming[min(length, len(incoming)) - 1]
        log.error(
            "partition %d, offset %d: the work fails with this message. If it does so again: "
            "python -m stream_app dlq skip --partition %d --offset %d, and a restart",
            culprit.partition, culprit.offset, culprit.partition, culprit.offset,
        )  # fmt: skip

    async def _forget(self, now_ms: int) -> None:
        """Forget the series that have been silent for long, by the broker's clock."""
        self._next_forget_s = time.monotonic() + FORGET_SECONDS
        keys = self.table.forget_silent(round(now_ms - self._forget_ms))
        if not keys:
            return
        await self._publisher.tombstones(keys)
        self._drift.forget(key for some in keys.values() for key in some)
        count = series_in(keys)
        self._metrics.forgotten.inc(count)
        log.info("%d series without a candle for %g days are forgotten", count,
                 self._forget_ms / DAY_MS)  # fmt: skip

    def _count(self, batch: Sequence[Message], result: BatchResult) -> None:
        metrics, now = self._metrics, time.time() - self._publisher.skew_s
        metrics.batch_size.observe(len(batch))
        metrics.forecasts.inc(len(result.forecasts))
        metrics.gaps.inc(result.gaps)
        self._drift.note(result.drifts, result.drifts_began)
        self._features.note(forecast for _, forecast in result.forecasts)
        self.context.note(result.forecasts)
        self._note_untrained(result)
        self._note_size()
        for series, partition in result.moved:
            log.warning("%s: its candles now come from partition %d", series, partition)
            metrics.moved.inc()
        for outcome, count in result.outcomes.items():
            metrics.candles.labels(outcome).inc(count)
        for _, error in result.rejected:
            metrics.rejects.labels(error.reason.value).inc()
        for i, _ in result.forecasts:
            metrics.latency_seconds.observe(max(0.0, now - batch[i].timestamp))

    def _note_untrained(self, result: BatchResult) -> None:
        """Count forecasts by a model of other intervals, and name each series once."""
        for _, forecast in result.forecasts:
            if forecast.model_interval is None:
                continue
            self._metrics.untrained.labels(forecast.interval).inc()
            series = forecast.symbol, forecast.interval
            if series not in self._untrained:
                self._untrained.add(series)
                log.warning(
                    "%s %s: model %s was not trained on such candles; it serves as it does those "
                    "of %s, marked so. --strict-interval refuses them", *series,
                    forecast.model_version, forecast.model_interval,
                )  # fmt: skip

    def _note_size(self) -> None:
        self._metrics.windows.set(len(self.table.data.data))
        self._metrics.window_bytes.set(self.table.bytes_held)

    def _note_lost(self, partition: int, first: int, last: int) -> None:
        """Say that messages were gone from the topic before they were read."""
        count = last - first + 1
        self._metrics.lost.labels(str(partition)).inc(count)
        log.error(
            "partition %d: %d messages, offsets %d to %d, were gone from the topic before they "
            "were read: its retention is too short for the time that no worker ran; windows have "
            "a gap there", partition, count, first, last,
        )  # fmt: skip

    async def _begin_recovery(self, *_: Any, **__: Any) -> None:
        self.recovered = False
        if self._mending is not None:
            self._mending.cancel()  # what was missing may be with another worker by now
        self._drift.clear()
        self._longer.clear()  # of windows that another worker may have changed since
        self._assigned_s = time.monotonic()

    def recovering_s(self) -> float:
        """Return for how long the windows have been recovered, in seconds; 0 when they are."""
        return 0.0 if self.recovered else time.monotonic() - self._assigned_s

    async def _end_recovery(self) -> None:
        began_s, capacity = self._assigned_s, self._capacity
        try:
            self.table.end_recovery(self._capacity)
            held = set(self.table.held)
            work = when_reachable(self._settings, lambda: self.recovery.finish(held))
            mending = self._mending = asyncio.create_task(work)
            await asyncio.wait([mending])
            if mending.cancelled():
                return
            self._consumer.begin_again(mending.result())
        except Exception as error:  # Faust would go on with what there is
            await self.fail(error)
            raise
        if self._assigned_s != began_s:
            return  # partitions were assigned again meanwhile
        seconds = time.monotonic() - began_s
        self._metrics.recovery_seconds.set(seconds)
        self.recovered = True
        if self._capacity > capacity:
            self._lengthen()
        self._note_size()
        calm_collector()
        log.info("%d windows recovered in %.1f s", len(self.table.data.data), seconds)

    async def observe(self) -> None:
        """Show the drift of features; ask the broker how far the partitions are, and note it.

        Raises:
            ObserveError: when it does not answer; the metrics then have no value.
        """
        self._features.show()
        try:
            consumer = self._consumer
            async with asyncio.timeout(OBSERVE_SECONDS):
                ends = await consumer.ends()
        except (*TRANSIENT, ConsumerNotStarted) as error:
            self.progress.note_silence(now_ms())
            self._metrics.lag.clear()
            self._metrics.commit_age_seconds.set(math.nan)
            raise ObserveError(repr(error)) from error
        now_s = time.monotonic()
        self.progress.assign({tp.partition for tp in ends})
        for tp in ends.keys() & consumer.commits.keys():
            self._metrics.lost.labels(str(tp.partition))  # from 0 on, so that a rise is seen
            self.progress.note(
                tp.partition, end=ends[tp], committed=consumer.commits[tp], now_s=now_s
            )
        self._metrics.lag.clear()
        for partition, lag in self.progress.lags().items():
            self._metrics.lag.labels(str(partition)).set(lag)
        self._metrics.commit_age_seconds.set(self.progress.age_s())

    async def check_topic(self) -> None:
        """End the work when the candles topic is another one now; raises ``ObserveError``."""
        try:
            await self.recovery.check_topic()
        except StateError as error:
            await self.fail(error)
        except TRANSIENT as error:
            raise ObserveError(repr(error)) from error

    async def drain(self) -> None:
        """Stop taking messages, finish the batch in hand and commit its offsets."""
        self._is_draining = True
        self._consumer.stop_flow()
        self.app.flow_control.suspend()
        await self._idle.wait()
        await self._consumer.commit()
