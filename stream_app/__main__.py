"""``python -m stream_app``: reads the settings and wires the worker."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import suppress

import uvloop
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from prometheus_client import CollectorRegistry
from rich.console import Console

from shared import bundle, topics
from shared.forecaster import ModelSet, OnnxForecaster
from shared.metrics import WorkerMetrics
from shared.settings import configure_logging
from shared.status import Health, StatusServer
from stream_app import dlq
from stream_app.app import CandleWorker
from stream_app.publisher import Publisher
from stream_app.settings import WorkerSettings

log = logging.getLogger("stream_app")

PROG = "python -m stream_app"

STOP_SECONDS = 8.0
STALE_LOOP_SECONDS = 30.0
WATCH_SECONDS = 2.0
RECOVERY_SECONDS = 300.0

CHANGELOG_CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(2 << 20),  # what is compacted is closed segments
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.2",
}
"""Keeps short what a recovery reads: each candle writes a record."""


class WorkerHealth:
    """What the probes say; written by the event loop, read by the status thread."""

    def __init__(self) -> None:
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
        """Succeed while the windows are recovered and no rebalance is under way."""
        if self.worker is None or not self.worker.recovered:
            return Health(ok=False, detail="recovering the windows")
        if self.worker.app.rebalancing or self.worker.app.in_recovery:
            return Health(ok=False, detail="partitions are being reassigned")
        return Health(ok=True, detail="windows recovered")


async def serve(settings: WorkerSettings) -> int:
    """Run the worker until SIGTERM, SIGINT or a crash; return the exit code.

    Raises:
        BundleError: when there is no model, or it is damaged; nothing was started then.
    """
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    forecaster = OnnxForecaster(bundle.load(settings.model), metrics.model_seconds.observe)
    models = ModelSet(forecaster)
    metrics.model.info({"version": forecaster.model_version})
    health = WorkerHealth()
    status = StatusServer(
        settings.metrics_host,
        settings.metrics_port,
        registry,
        live=health.live,
        ready=health.ready,
    )
    with status:
        log.info("metrics on http://%s:%d/metrics", settings.metrics_host, status.port)
        await topics.ensure(settings.bootstrap, worker_topics(settings))
        publisher = Publisher(settings)
        await publisher.start()
        worker = CandleWorker(settings, models, publisher, metrics)
        await _run(worker, health, stop)
        return await _shut_down(worker, publisher)


async def _run(worker: CandleWorker, health: WorkerHealth, stop: asyncio.Event) -> None:
    """Start the worker and watch it until it is told to stop or has crashed."""
    health.worker = worker
    await worker.app.start()
    watcher = asyncio.create_task(_watch(worker))
    while not stop.is_set() and not worker.app.crashed:
        health.pulse = time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), timeout=0.5)
    watcher.cancel()


async def _watch(worker: CandleWorker) -> None:
    """Keep lag and progress up to date."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            await worker.observe()
        except (TimeoutError, KafkaError, ConsumerNotStarted) as error:
            log.warning("the broker does not say how far the partitions are: %r", error)


async def _shut_down(worker: CandleWorker, publisher: Publisher) -> int:
    """Drain if there is anything to drain, and leave within ``STOP_SECONDS``."""
    crashed = worker.app.crashed
    log.info("stopping")
    try:
        async with asyncio.timeout(STOP_SECONDS):
            if not crashed:
                await worker.drain()
            await worker.app.stop()
            await publisher.stop()
    except TimeoutError:
        log.error("no clean stop in %g s; a restart repeats what is not committed", STOP_SECONDS)
        logging.shutdown()
        os._exit(1)  # Faust's consumer thread would keep the process while the broker is away
    if crashed:
        log.error("the worker failed: %r", worker.app.crash_reason)
    return int(crashed)


def worker_topics(settings: WorkerSettings) -> tuple[topics.Topic, ...]:
    """Return the topics that the worker reads and writes."""
    changelog = topics.Topic(
        settings.changelog_topic,
        settings.partitions,
        settings.replication,
        CHANGELOG_CONFIG,
    )
    return (*topics.market_topics(settings), changelog)


def _dead_letters(argv: list[str]) -> int:
    settings = dlq.DlqSettings.read(argv, f"{PROG} dlq")
    configure_logging(settings.log_level)
    try:
        dlq.run(settings, Console())
    except (ValueError, KafkaError) as error:
        log.error("%s", error)
        return 1
    return 0


def main() -> int:
    """Run the worker; return the exit code."""
    argv = sys.argv[1:]
    if argv[:1] == ["dlq"]:
        return _dead_letters(argv[1:])
    settings = WorkerSettings.read(argv, PROG)
    configure_logging(settings.log_level)
    if settings.log_level == "INFO":
        for name in ("faust", "mode", "aiokafka"):  # they tell every step of every service
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return uvloop.run(serve(settings))
    except (bundle.BundleError, topics.TopicError, OSError) as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
