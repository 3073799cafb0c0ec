"""``python -m producer``: runs a candle source into Kafka until it ends or a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry

from producer.resume import ResumeError, newest_published
from producer.settings import ProducerSettings
from producer.sink import KafkaSink, PublishError
from producer.source import CandleSource, SourceError, UnreachableError, real_now_ms
from producer.wiring import open_source, replay
from producer.yahoo import oldest_ms
from shared import topics
from shared.metrics import ProducerMetrics
from shared.series import HistoryError
from shared.settings import configure_logging
from shared.status import Health, StatusServer

log = logging.getLogger("producer")

STALLED_S: Final = 30.0
"""Time without an acknowledgement from which /readyz reports the broker as stalled."""

_AS_THEY_CLOSE: Final = frozenset({"yfinance", "live"})
"""Sources whose candles close while they run."""


class StatusPortError(Exception):
    """A port for /metrics that cannot be opened."""


EXPECTED: Final = (
    HistoryError,
    PublishError,
    ResumeError,
    SourceError,
    StatusPortError,
    topics.TopicError,
)
"""Errors that end the process with one log line and exit code 1, without a traceback."""


class _RateLimit(logging.Filter):
    """Lets each message through once in some seconds: without Kafka aiokafka logs ten a second."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created < self._next.get(record.msg, 0.0):
            return False
        self._next[record.msg] = record.created + self._seconds
        return True


class _Probes:
    """State behind the probes; read by the status server's thread."""

    sink: KafkaSink | None = None

    def live(self) -> Health:
        return Health(ok=True, detail=f"{self.sink.published if self.sink else 0} candles")

    def ready(self) -> Health:
        if self.sink is None:
            return Health(ok=False, detail="connecting to Kafka")
        waiting_s = self.sink.waiting_s()
        if waiting_s > STALLED_S:
            return Health(ok=False, detail=f"Kafka has acknowledged nothing for {waiting_s:.0f} s")
        return Health(ok=True, detail="publishing")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the producer and return its exit code."""
    settings = ProducerSettings.read(sys.argv[1:] if argv is None else argv, "python -m producer")
    configure_logging(settings.log_level)
    aiokafka = logging.getLogger("aiokafka")
    aiokafka.setLevel(logging.ERROR)  # it warns of every batch that it repeats
    aiokafka.addFilter(_RateLimit(10.0))
    try:
        return uvloop.run(_until_signal(settings))
    except EXPECTED as error:
        log.error("%s", error)
    return 1


async def _until_signal(settings: ProducerSettings) -> int:
    task = asyncio.ensure_future(_run(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("stopped by a signal")
    return 0


async def _run(settings: ProducerSettings) -> None:
    registry = CollectorRegistry()
    metrics = ProducerMetrics(registry)
    probes = _Probes()
    with _status(settings, registry, probes) as server, open_source(settings, metrics) as source:
        log.info("metrics at http://%s:%d/metrics", settings.metrics_host, server.port)
        try:
            await _publish(settings, source, metrics, probes)
        except UnreachableError as error:
            if settings.fallback is None:
                raise UnreachableError(
                    f"{error}; --fallback replay replays stored candles instead"
                ) from error
            log.warning("%s; replaying stored candles instead", error)
            await _publish(settings, _stand_in(settings, metrics), metrics, probes)


def _stand_in(settings: ProducerSettings, metrics: ProducerMetrics) -> CandleSource:
    """Return a replay of the given file, or of all bundled candles whatever the symbols."""
    update: dict[str, object] = {"source": "replay"}
    if settings.path is None:
        update |= {"symbols": (), "symbols_file": None}
    return replay(settings.model_copy(update=update), metrics)


def _status(
    settings: ProducerSettings, registry: CollectorRegistry, probes: _Probes
) -> StatusServer:
    host, port = settings.metrics_host, settings.metrics_port
    try:
        return StatusServer(host, port, registry, live=probes.live, ready=probes.ready)
    except OSError as error:
        raise StatusPortError(
            f"metrics_port: {host}:{port} cannot be opened: {error.strerror}"
        ) from error


async def _publish(
    settings: ProducerSettings,
    source: CandleSource,
    metrics: ProducerMetrics,
    probes: _Probes,
) -> None:
    await topics.ensure(settings.bootstrap, topics.market_topics(settings))
    async with KafkaSink(
        settings.bootstrap,
        settings.candles_topic,
        metrics,
        source.name,
        buffered=settings.buffer,
        measure_lag=source.name in _AS_THEY_CLOSE,
    ) as sink:
        published = await newest_published(
            settings.bootstrap,
            settings.candles_topic,
            await sink.partitions(),
            source.symbols,
            source.interval,
            since_ms=_resume_from_ms(source),
        )
        probes.sink = sink
        async with aclosing(source.candles(published)) as publications:
            async for publication in publications:
                await sink.publish(publication)
        await sink.flush()
        log.info(
            "done: %d candles published to %s at %.0f a second",
            sink.published, settings.candles_topic, sink.rate(),
        )  # fmt: skip


def _resume_from_ms(source: CandleSource) -> int:
    """Return the time from which on candles in the topic matter for a resume."""
    if source.name not in _AS_THEY_CLOSE:
        return 0
    return max(oldest_ms(source.interval, real_now_ms()), 0)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # a request to Yahoo that hangs in its thread must not hold up the end of the process
    os._exit(code)
