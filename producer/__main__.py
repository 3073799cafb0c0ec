"""``python -m producer``: runs a candle source into Kafka until it ends or a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry

from producer.resume import ResumeError, newest_published
from producer.settings import PROCESS, ProducerSettings
from producer.sink import KafkaSink, PublishError
from producer.source import CandleSource, SourceError, UnreachableError
from producer.target import Target, candles, context
from producer.wiring import Sources, open_sources, replays
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

    sinks: tuple[KafkaSink, ...] = ()
    pulse_s = 0.0  # the event loop's last turn, monotonic

    def live(self) -> Health:
        if not self.sinks:
            return Health(ok=True, detail="starting")
        silent_s = time.monotonic() - self.pulse_s
        if silent_s > STALE_LOOP_S:
            return Health(ok=False, detail=f"the event loop last ran {silent_s:.1f} s ago")
        return Health(ok=True, detail=f"{sum(sink.published for sink in self.sinks)} candles")

    async def beat(self) -> None:
        """Note the turns of the event loop, until cancelled."""
        while True:
            self.pulse_s = time.monotonic()
            await asyncio.sleep(PULSE_S)

    def ready(self) -> Health:
        if not self.sinks:
            return Health(ok=False, detail="connecting to Kafka")
        waiting_s = max(sink.waiting_s() for sink in self.sinks)
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
    with status as server, open_sources(settings, metrics) as sources:
        log.info("metrics at http://%s:%d/metrics", settings.metrics_host, server.port)
        try:
            await _publish(settings, sources, metrics, probes)
        except UnreachableError as error:
            if settings.fallback is None:
                raise UnreachableError(
                    f"{error}; --fallback replay replays stored candles instead"
                ) from error
            log.warning("%s; replaying stored candles instead", error)
            await _publish(settings, _stand_ins(settings, metrics), metrics, probes)


def _stand_ins(settings: ProducerSettings, metrics: ProducerMetrics) -> Sources:
    """Return replays of the given files, or of all bundled candles whatever the symbols."""
    update: dict[str, object] = {"source": "replay"}
    if settings.path is None:
        update |= {"symbols": (), "symbols_file": None}
        if settings.context_path is None:
            update |= {"context": ()}
    return replays(settings.model_copy(update=update), metrics)


async def _publish(
    settings: ProducerSettings, sources: Sources, metrics: ProducerMetrics, probes: _Probes
) -> None:
    wanted, needed = [topics.candles_topic(settings)], permissions.of_candles(settings)
    if sources.context:
        wanted.append(topics.context_topic(settings))
        needed = permissions.of_producer(settings)
    await topics.ensure(settings, wanted)
    await permissions.check(settings, needed)
    with traces.opened(settings, PROCESS) as traced:
        sink = KafkaSink(
            settings,
            metrics,
            sources.candles.name,
            buffered=settings.buffer,
            measure_lag=_closes_now(sources.candles),
            traces=traced,
        )
        of_candles = _Flow(sources.candles, sink, candles(settings))
        of_context = None
        if sources.context:
            target, name = context(settings), f"{sources.context.name}-context"
            sink = KafkaSink(settings, metrics, name, buffered=settings.buffer, target=target)
            of_context = _Flow(sources.context, sink, target)
        await _run_flows(settings, metrics, probes, of_candles, of_context)


@dataclass(frozen=True)
class _Flow:
    """A source on its way into a topic."""

    source: CandleSource
    sink: KafkaSink
    target: Target

    async def run(self, settings: ProducerSettings) -> None:
        """Publish what the topic lacks, until the source ends."""
        published = await newest_published(
            settings,
            await self.sink.partitions(),
            self.source.symbols,
            self.source.interval,
            since_ms=_resume_from_ms(self.source),
            target=self.target,
        )
        async with aclosing(self.source.candles(published)) as publications:
            async for publication in publications:
                await self.sink.publish(publication)
        await self.sink.flush()
        log.info(
            "done: %d candles published to %s at %.0f a second",
            self.sink.published, self.target.topic, self.sink.rate(),
        )  # fmt: skip


async def _run_flows(
    settings: ProducerSettings,
    metrics: ProducerMetrics,
    probes: _Probes,
    of_candles: _Flow,
    of_context: _Flow | None,
) -> None:
    """Publish the context before the candles where both are of the past, else beside them."""
    flows = [flow for flow in (of_context, of_candles) if flow]
    sinks = tuple(flow.sink for flow in flows)
    metrics.buffered.set_function(lambda: sum(sink.held for sink in sinks))
    async with AsyncExitStack() as stack:
        for sink in sinks:
            await stack.enter_async_context(sink)
        beat = asyncio.create_task(probes.beat())
        await asyncio.sleep(0)
        probes.sinks = sinks
        try:
            if _closes_now(of_candles.source):
                await _together(*(flow.run(settings) for flow in flows))
            else:
                for flow in flows:
                    await flow.run(settings)
        finally:
            beat.cancel()
            probes.sinks = ()


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until they end, or one fails: its error ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _closes_now(source: CandleSource) -> bool:
    """Return True of a source whose candles close while it runs."""
    return source.name in _AS_THEY_CLOSE


def _resume_from_ms(source: CandleSource) -> int:
    """Return the time from which on candles in the topic matter for a resume."""
    if not _closes_now(source):
        return 0
    return max(oldest_ms(source.interval, now_ms()), 0)


if __name__ == "__main__":
    process.leave(main())  # a request to Yahoo may hang in its thread
