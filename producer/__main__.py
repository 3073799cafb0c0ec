"""``python -m producer``: wiring only."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from producer.replay import ReplaySource
from producer.resume import ResumeError, newest_published
from producer.settings import ProducerSettings
from producer.sink import KafkaSink, PublishError
from producer.source import CandleSource, SourceError
from shared import topics
from shared.history import BUNDLED_SYMBOLS, History, HistoryError, bundled, from_file
from shared.metrics import ProducerMetrics
from shared.settings import configure_logging
from shared.status import Health, StatusServer

log = logging.getLogger("producer")

STALLED_S = 30.0
"""How long the broker may leave candles unacknowledged before /readyz says so."""


class StatusPortError(Exception):
    """A port for /metrics that cannot be had."""


EXPECTED: Final = (
    HistoryError,
    PublishError,
    ResumeError,
    SourceError,
    StatusPortError,
    topics.TopicError,
)
"""What is told in one line, without a traceback."""


class _Seldom(logging.Filter):
    """Lets the same complaint through once in a while: aiokafka has ten a second without Kafka."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created < self._next.get(record.msg, 0.0):
            return False
        self._next[record.msg] = record.created + self._seconds
        return True


class _Progress:
    """What the probes tell; read by the status server's thread."""

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
    aiokafka.setLevel(logging.ERROR)  # it warns of every batch that it sends again
    aiokafka.addFilter(_Seldom(10.0))
    try:
        return asyncio.run(_until_signal(settings))
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
    progress = _Progress()
    with _status(settings, registry, progress) as server, _source(settings, metrics) as source:
        log.info("metrics at http://%s:%d/metrics", settings.metrics_host, server.port)
        await _publish(settings, source, metrics, progress)


def _status(
    settings: ProducerSettings, registry: CollectorRegistry, progress: _Progress
) -> StatusServer:
    host, port = settings.metrics_host, settings.metrics_port
    try:
        return StatusServer(host, port, registry, live=progress.live, ready=progress.ready)
    except OSError as error:
        raise StatusPortError(
            f"metrics_port: {host}:{port} cannot be had: {error.strerror}"
        ) from error


async def _publish(
    settings: ProducerSettings,
    source: CandleSource,
    metrics: ProducerMetrics,
    progress: _Progress,
) -> None:
    await topics.ensure(settings.bootstrap, topics.market_topics(settings))
    async with KafkaSink(settings.bootstrap, settings.candles_topic, metrics, source.name) as sink:
        published = await newest_published(
            settings.bootstrap,
            settings.candles_topic,
            await sink.partitions(),
            source.symbols,
            source.interval,
        )
        progress.sink = sink
        async with aclosing(source.candles(published)) as candles:
            async for candle in candles:
                await sink.publish(candle)
        await sink.flush()
        log.info(
            "done: %d candles published to %s at %.0f a second",
            sink.published, settings.candles_topic, sink.rate(),
        )  # fmt: skip


@contextmanager
def _source(settings: ProducerSettings, metrics: ProducerMetrics) -> Iterator[CandleSource]:
    if settings.source == "replay":
        history = _history(settings)
        for row in history.rejected[:10]:
            log.warning("%s: row %d: %s: left out", history.name, row.row, row.detail)
        if history.rejected:
            log.warning(
                "%s: %d rows left out, %d candles", history.name, len(history.rejected),
                len(history.candles),
            )  # fmt: skip
        yield ReplaySource(history, settings.interval, settings.speed)
        return
    # yfinance takes a second and 100 MB to import, which a replay does without
    from producer.polling import PollingSource  # noqa: PLC0415
    from producer.yahoo import Yahoo  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="candlecast-yahoo-") as temporary:
        cache_dir = settings.cache_dir or Path(temporary)
        yahoo = Yahoo(cache_dir, settings.proxy, settings.ca_bundle)
        yield PollingSource(
            settings.symbols or BUNDLED_SYMBOLS,
            settings.interval,
            yahoo.poll,
            metrics,
            poll_ms=round(settings.poll_seconds * 1000),
            once=settings.once,
        )


def _history(settings: ProducerSettings) -> History:
    if settings.path is None:
        return bundled(settings.symbols or BUNDLED_SYMBOLS)
    return from_file(settings.path, settings.interval, settings.symbols)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # a request to Yahoo that hangs in its thread must not hold up the end of the process
    os._exit(code)
