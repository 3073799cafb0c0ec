"""``python -m stream_app``: reads the settings and wires the worker."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time

import uvloop
from prometheus_client import CollectorRegistry

from shared import bundle, topics
from shared.forecaster import Forecaster, LstmForecaster
from shared.metrics import WorkerMetrics
from shared.settings import configure_logging
from shared.status import Health, StatusServer
from stream_app.app import CandleWorker
from stream_app.publisher import Publisher
from stream_app.settings import WorkerSettings

log = logging.getLogger("stream_app")

STOP_SECONDS = 8.0
STALE_LOOP_SECONDS = 30.0


class WorkerHealth:
    """What the probes say; written by the event loop, read by the status thread."""

    def __init__(self) -> None:
        self.recovered = False
        self.pulse = time.monotonic()

    def live(self) -> Health:
        """Fail when the event loop has not run for long."""
        silent = time.monotonic() - self.pulse
        return Health(silent < STALE_LOOP_SECONDS, f"event loop ran {silent:.1f} s ago")

    def ready(self) -> Health:
        """Succeed once the windows are recovered."""
        return Health(self.recovered, "windows recovered" if self.recovered else "recovering")


async def serve(settings: WorkerSettings, forecaster: Forecaster) -> int:
    """Run the worker until SIGTERM, SIGINT or a crash; return the exit code."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
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
        try:
            return await _run(CandleWorker(settings, forecaster, publisher, metrics), health, stop)
        finally:
            await publisher.stop()


async def _run(worker: CandleWorker, health: WorkerHealth, stop: asyncio.Event) -> int:
    app = worker.app

    @worker.table.on_recover
    async def recovered() -> None:
        health.recovered = True
        log.info("windows recovered: %d", len(worker.table.data.data))

    await app.start()
    while not stop.is_set() and not app.crashed:
        health.pulse = time.monotonic()
        try:
            await asyncio.wait_for(stop.wait(), timeout=0.5)
        except TimeoutError:
            continue
    if app.crashed:
        log.error("the worker failed: %r", app.crash_reason)
        return 1
    log.info("stopping")
    await worker.drain(STOP_SECONDS / 2)
    try:
        await asyncio.wait_for(app.stop(), timeout=STOP_SECONDS / 2)
    except TimeoutError:
        log.warning("Faust did not stop in time; everything is committed, so it is left")
    return 0


def worker_topics(settings: WorkerSettings) -> tuple[topics.Topic, ...]:
    """Return the topics that the worker reads and writes."""
    changelog = topics.Topic(
        settings.changelog_topic,
        settings.partitions,
        settings.replication,
        {"cleanup.policy": "compact", "segment.ms": "600000"},
    )
    return (*topics.market_topics(settings), changelog)


def main() -> int:
    """Run the worker; return the exit code."""
    settings = WorkerSettings.read(sys.argv[1:], "python -m stream_app")
    configure_logging(settings.log_level)
    try:
        forecaster = LstmForecaster(bundle.load(settings.model))
        return uvloop.run(serve(settings, forecaster))
    except (bundle.BundleError, topics.TopicError, OSError) as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
