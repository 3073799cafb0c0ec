"""``python -m stream_app``: reads the settings and wires the worker, or a command."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

from prometheus_client import CollectorRegistry

from shared import bundle, permissions, process, topics, traces
from shared.kafka import AccessError, KafkaError
from shared.metrics import WorkerMetrics
from shared.model_store import StoreError
from shared.model_watch import ModelWatch
from shared.process import Exit, now_ms
from shared.status import Health, StatusPortError, StatusServer, since
from shared.terminal import Console
from stream_app import dlq
from stream_app.fence import Fence
from stream_app.publisher import Publisher
from stream_app.settings import PROCESS, DlqCommands, WorkerCommand, WorkerSettings
from stream_app.worker import CandleWorker, ObserveError

log = logging.getLogger("stream_app")

PROG = "python -m stream_app"

STOP_SECONDS = 8.0
"""Longest orderly stop; then the process ends without."""

FAILED_STOP_SECONDS = 2.0
"""Longest stop after a failure, when nothing is left to finish."""

STALE_LOOP_SECONDS = 30.0
"""Time without a turn of the event loop after which /livez fails."""

WATCH_SECONDS = 2.0
"""Time between two looks at lag and progress."""

TOPIC_TURNS = 5
"""Looks at lag and progress for each look at the topic's identity and partitions."""

SILENCE_SECONDS = 8.0
"""Time without an answer of the broker after which /readyz fails."""

RECOVERY_SECONDS = 300.0
"""Longest recovery of the windows; then /livez fails."""


class WorkerHealth:
    """Answers the probes; written by the event loop, read by the status thread."""

    def __init__(self, model_state: Callable[[], str]) -> None:
        """Take what says how the models are, in words."""
        self._model_state = model_state
        self.worker: CandleWorker | None = None
        self.pulse = time.monotonic()

    def live(self) -> Health:
        """Fail when the event loop stands still, or work waits and none is committed."""
        silent = time.monotonic() - self.pulse
        if silent > STALE_LOOP_SECONDS:
            return Health(ok=False, detail=f"the event loop last ran {silent:.1f} s ago")
        if self.worker is None:
            return Health(ok=True, detail="starting")
        recovering = self.worker.recovering_s()
        if recovering > RECOVERY_SECONDS:
            return Health(ok=False, detail=f"recovering the windows for {recovering:.0f} s")
        return self.worker.progress.health()

    def ready(self) -> Health:
        """Succeed while windows are recovered, Kafka answers and no rebalance is under way."""
        if self.worker is None or not self.worker.recovered:
            seconds = 0.0 if self.worker is None else self.worker.recovering_s()
            return Health(ok=False, detail=f"recovering the windows for {seconds:.0f} s")
        if self.worker.app.rebalancing or self.worker.app.in_recovery:
            return Health(ok=False, detail="partitions are being reassigned")
        silent_ms = self.worker.progress.silent_since_ms
        if silent_ms is not None and now_ms() - silent_ms > SILENCE_SECONDS * 1000:
            return Health(ok=False, detail=f"Kafka does not answer {since(silent_ms)}")
        return Health(ok=True, detail=f"windows recovered; {self._model_state()}")


async def serve(settings: WorkerSettings) -> int:
    """Run the worker until SIGTERM, SIGINT or a crash; return the exit code.

    Raises:
        BundleError: when there is no model, or it is damaged; nothing was started then.
    """
    stop = process.stop_on_signals()
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    watched = ModelWatch(
        settings.models, bundle.load(settings.model), metrics, metrics.model_seconds.observe
    )
    watched.begin()
    health = WorkerHealth(lambda: watched.state)
    status = StatusServer(
        settings.metrics_host,
        settings.metrics_port,
        registry,
        live=health.live,
        ready=health.ready,
    )
    with status, traces.opened(settings, PROCESS) as traced:
        log.info("metrics on http://%s:%d/metrics", settings.metrics_host, status.port)
        if not await process.unless_stopped(_prepare(settings), stop):
            return Exit.DONE
        fence = Fence()
        publisher = Publisher(settings, fence, metrics, traced)
        if not await process.unless_stopped(publisher.start(), stop):
            return Exit.DONE
        worker = CandleWorker(settings, watched.served, publisher, metrics, fence)
        await _run(worker, watched, health, stop)
        return await _shut_down(worker, publisher)


async def _prepare(settings: WorkerSettings) -> None:
    """Make the topics that are missing, and see that this user may do what a worker does."""
    await topics.ensure(settings, topics.all_topics(settings, settings.group))
    await permissions.check(settings, permissions.of_worker(settings, settings.group))


async def _run(
    worker: CandleWorker, watched: ModelWatch, health: WorkerHealth, stop: asyncio.Event
) -> None:
    """Start the worker and watch it until a signal or a crash."""
    health.worker = worker
    await worker.app.start()
    watcher = asyncio.create_task(_watch(worker))
    models = asyncio.create_task(watched.run(worker.take_models))
    context = asyncio.create_task(worker.context.reader.run())
    while not stop.is_set() and not worker.app.crashed:
        health.pulse = time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), timeout=0.5)
    for task in (watcher, models, context):
        task.cancel()


async def _watch(worker: CandleWorker) -> None:
    """Keep lag and progress up to date."""
    for turn in count(1):
        await asyncio.sleep(WATCH_SECONDS)
        try:
            await worker.observe()
            if turn % TOPIC_TURNS == 0 or worker.recovery.misses_topic:
                await worker.check_topic()
        except ObserveError as error:
            log.warning(
                "the broker does not say how far the partitions are: %s", error, extra=process.AWAY
            )
        except Exception:  # else nothing would be watched from here on
            log.exception("a look at lag and progress failed")


async def _shut_down(worker: CandleWorker, publisher: Publisher) -> int:
    """Drain if there is anything to drain, and leave within ``STOP_SECONDS``."""
    crashed = worker.app.crashed
    log.info("stopping")
    try:
        async with asyncio.timeout(FAILED_STOP_SECONDS if crashed else STOP_SECONDS):
            if not crashed:
                await worker.drain()
            await worker.app.stop()
            await publisher.stop()
    except TimeoutError:
        if not crashed:
            log.error(
                "no clean stop in %g s; a restart repeats what is not committed", STOP_SECONDS
            )
            process.leave(Exit.FAILED)  # a clean end of the loop would wait for the broker
    if crashed:
        log.error("the worker failed: %s", process.in_words(worker.failure))
    return Exit.FAILED if crashed else Exit.DONE


def _dead_letters(commands: DlqCommands) -> int:
    settings = commands.chosen
    expected = (ValueError, KafkaError, topics.TopicError)

    def body() -> int:
        dlq.run(settings, Console())
        return Exit.DONE

    return process.live(
        "dlq", settings.log_level, body, expected=expected, stopped=Exit.INTERRUPTED
    )


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the worker or a command; return the exit code."""
    settings = WorkerCommand.read(sys.argv[1:] if argv is None else argv, prog)
    if settings.dlq is not None:
        return _dead_letters(settings.dlq)
    return process.live(
        PROCESS,
        settings.log_level,
        lambda: process.run(serve(settings)),
        expected=(
            AccessError,
            bundle.BundleError,
            StoreError,
            StatusPortError,
            topics.TopicError,
            OSError,
        ),
    )


if __name__ == "__main__":
    process.leave(main())  # Faust's thread would keep the process while the broker is away
