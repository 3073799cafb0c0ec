"""``python -m producer``: runs a candle source into Kafka until it ends or a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from prometheus_client import CollectorRegistry

from producer.resume import ResumeError, newest_published
from producer.settings import PROCESS, ProducerSettings
from producer.sink import KafkaSink, PublishError
from producer.source import CandleSource, SourceError, UnreachableError
from producer.wiring import open_source, replay
from producer.yahoo import oldest_ms
from shared import permissions, process, topics, traces
from shared.files.series import HistoryError
from shared.kafka import AccessError
from shared.metrics import ProducerMetrics
from shared.process import Exit, now_ms
from shared.status import Health, StatusPortError, StatusServer

log = logging.getLogger("producer")

STALLED_S: Final = 30.0
"""Time without an acknowledgement from which /readyz reports the broker as stalled."""


STALE_LOOP_S: Final = 30.0
"""Time without a turn of the event loop, once it publishes, after which /livez fails."""

PULSE_S: Final = 1.0

_AS_THEY_CLOSE: Final = frozenset({"yfinance", "live"})
"""Sources whose candles close while they run."""


EXPECTED: Final = (
    AccessError,
    HistoryError,
    PublishError,
    ResumeError,
    SourceError,
    StatusPortError,
    topics.TopicError,
)
"""Errors that end the process with one log line and exit code 1, without a traceback."""


class _Probes:
    """State behind the probes; read by the status server's thread."""

    sink: KafkaSink | None = None
    pulse_s = 0.0  # the event loop's last turn, monotonic

    def live(self) -> Health:
        if self.sink is None:
            return Health(ok=True, detail="starting")
        silent_s = time.monotonic() - self.pulse_s
        if silent_s > STALE_LOOP_S:
            return Health(ok=False, detail=f"the event loop last ran {silent_s:.1f} s ago")
        return Health(ok=True, detail=f"{self.sink.published} candles")

    async def beat(self) -> None:
        """Note the turns of the event loop, until cancelled."""
        while True:
            self.pulse_s = time.monotonic()
            await asyncio.sleep(PULSE_S)

    def ready(self) -> Health:
        if self.sink is None:
            return Health(ok=False, detail="connecting to Kafka")
        waiting_s = self.sink.waiting_s()
        if waiting_s > STALLED_S:
            return Health(ok=False, detail=f"Kafka has acknowledged nothing for {waiting_s:.0f} s")
        return Health(ok=True, detail="publishing")


def main(argv: Sequence[str] | None = None, prog: str = "python -m producer") -> int:
    """Run the producer and return its exit code."""
    settings = ProducerSettings.read(sys.argv[1:] if argv is None else argv, prog)
    return process.live(
        PROCESS, settings.log_level, lambda: process.run(_until_signal(settings)), expected=EXPECTED
    )


async def _until_signal(settings: ProducerSettings) -> int:
    if not await process.unless_stopped(_run(settings), process.stop_on_signals()):
        log.info("stopped by a signal")
    return Exit.DONE


async def _run(settings: ProducerSettings) -> None:
    registry = CollectorRegistry()
    metrics = ProducerMetrics(registry)
    probes = _Probes()
    status = StatusServer(
        settings.metrics_host,
        settings.metrics_port,
        registry,
        live=probes.live,
        ready=probes.ready,
    )
    with status as server, open_source(settings, metrics) as source:
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


async def _publish(
    settings: ProducerSettings,
    source: CandleSource,
    metrics: ProducerMetrics,
    probes: _Probes,
) -> None:
    await topics.ensure(settings, [topics.candles_topic(settings)])
    await permissions.check(settings, permissions.of_producer(settings))
    with traces.opened(settings, PROCESS) as traced:
        sink = KafkaSink(
            settings,
            metrics,
            source.name,
            buffered=settings.buffer,
            measure_lag=source.name in _AS_THEY_CLOSE,
            traces=traced,
        )
        await _publish_into(sink, settings, source, probes)


async def _publish_into(
    sink: KafkaSink, settings: ProducerSettings, source: CandleSource, probes: _Probes
) -> None:
    async with sink:
        published = await newest_published(
            settings,
            await sink.partitions(),
            source.symbols,
            source.interval,
            since_ms=_resume_from_ms(source),
        )
        beat = asyncio.create_task(probes.beat())
        await asyncio.sleep(0)
        probes.sink = sink
        try:
            async with aclosing(source.candles(published)) as publications:
                async for publication in publications:
                    await sink.publish(publication)
            await sink.flush()
        finally:
            beat.cancel()
            probes.sink = None
        log.info(
            "done: %d candles published to %s at %.0f a second",
            sink.published, settings.candles_topic, sink.rate(),
        )  # fmt: skip


def _resume_from_ms(source: CandleSource) -> int:
    """Return the time from which on candles in the topic matter for a resume."""
    if source.name not in _AS_THEY_CLOSE:
        return 0
    return max(oldest_ms(source.interval, now_ms()), 0)


if __name__ == "__main__":
    process.leave(main())  # a request to Yahoo may hang in its thread
