"""The context of the candles' models: read, and waited for where it is about to come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, Protocol

from shared.candles import INTERVALS_MS, InvalidCandle, decode_candle
from shared.context import NEVER, ContextSpec, ContextStore, ContextWindow, stale_ms
from shared.context_topic import ContextReader, PassedOver
from shared.forecaster import Models, contexts_of
from shared.forecasts import Forecast
from shared.kafka import KafkaSettings
from shared.metrics import WorkerMetrics

log = logging.getLogger("stream_app")

READ_SECONDS: Final = 30.0
"""Longest wait for the whole topic, once for each reading; then forecasts begin without."""


class Arrived(Protocol):
    """A message as the worker's consumer delivers it."""

    key: bytes | None
    value: bytes | None
    timestamp: float  # when the broker appended it, s


Late = tuple[str, str]
"""Symbol and interval of a context candle that is awaited."""


def expected(store: ContextStore, spec: ContextSpec, close_ms: int) -> Iterator[Late]:
    """Yield the context symbols whose candle of a close is about to come.

    It is where the symbol's newest candle closed some whole intervals before: a daily index is not
    awaited by each five-minute candle, but by the one that closes when it does. Of one that has
    been silent for long none is, of one that was never heard of the first. Nothing is awaited that
    a later candle shows to be missing.
    """
    for symbol in spec.symbols:
        newest_ms = store.newest_ms(symbol, spec.interval)
        since_ms = close_ms - newest_ms
        is_whole = since_ms % INTERVALS_MS[spec.interval] == 0
        if newest_ms == NEVER or (is_whole and 0 < since_ms <= stale_ms(spec.interval)):
            yield symbol, spec.interval


class WorkerContext:
    """The context that a worker's forecasts are made with."""

    def __init__(
        self, settings: KafkaSettings, models: Models, metrics: WorkerMetrics, wait_s: float
    ) -> None:
        """Prepare only; made within a running event loop.

        Args:
            settings: where Kafka is, and the topic of context.
            models: those that are served.
            metrics: of the worker.
            wait_s: longest wait for a context candle of the same close.
        """
        self._models = models
        self._metrics = metrics
        self._wait_s = wait_s
        self._given_up: dict[Late, int] = {}  # newest close when it did not come in time
        self._has_waited = False  # for the whole topic
        self.reader = ContextReader(settings, metrics)
        self.take_models()

    def take_models(self) -> None:
        """Follow the topic where a model reads a context."""
        self._specs = contexts_of(self._models)
        self._has_waited = False
        self.reader.want(self._specs)

    def of(self, spec: ContextSpec, as_of_ms: int) -> ContextWindow:
        """Return the context of a window that closes at ``as_of_ms``, UTC."""
        return self.reader.store.window(spec, as_of_ms)

    async def until_there(self, batch: Sequence[Arrived]) -> None:
        """Wait until the context of a batch is there, for a moment at most.

        A symbol that was awaited in vain is not awaited again until its next candle has come.
        """
        if not self._specs:
            return
        if not (self.reader.is_read or self._has_waited):
            self._has_waited = True
            if not await self.reader.until_read(READ_SECONDS):
                log.warning("the context topic is not read yet; forecasts begin without all of it")
        closes = self._closes(batch) if self._wait_s else set()
        if not self._late(closes):
            return
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while late := self._late(closes):
            left_s = began_s + self._wait_s - loop.time()
            if left_s <= 0:
                self._give_up(late)
                break
            await self.reader.until_news(left_s)
        self._metrics.context_wait_seconds.observe(loop.time() - began_s)

    def _closes(self, batch: Iterable[Arrived]) -> set[tuple[ContextSpec, int]]:
        """Return the contexts that a batch's candles are joined with, and the times."""
        closes = set()
        for message in batch:
            try:
                candle = decode_candle(message.key, message.value, round(message.timestamp * 1000))
            except InvalidCandle:
                continue  # it becomes a dead letter
            spec = self._models.of(candle.interval, candle.symbol).context
            if spec is not None:
                closes.add((spec, candle.close_ms))
        return closes

    def _late(self, closes: Iterable[tuple[ContextSpec, int]]) -> set[Late]:
        """Return what these contexts wait for."""
        store = self.reader.store
        return {
            late
            for spec, close_ms in closes
            for late in expected(store, spec, close_ms)
            if self._given_up.get(late) != store.newest_ms(*late)
        }

    def _give_up(self, late: Iterable[Late]) -> None:
        for symbol, interval in late:
            self._given_up[symbol, interval] = self.reader.store.newest_ms(symbol, interval)
            self._metrics.context_late.labels(symbol).inc()

    def letters(self, held: Collection[int]) -> list[PassedOver]:
        """Return what of the context topic is to be put aside: by the worker of partition 0 alone.

        Args:
            held: partitions of the candles that this worker has.
        """
        passed_over = self.reader.take_passed_over()
        if 0 not in held:
            return []
        for _, error in passed_over:
            self._metrics.rejects.labels(error.reason.value).inc()
        return passed_over

    def note(self, forecasts: Iterable[tuple[int, Forecast]]) -> None:
        """Count forecasts by the age of their context."""
        if not self._specs:
            return
        for _, forecast in forecasts:
            if forecast.context_as_of_ms is not None:
                age_s = (forecast.as_of_ms - forecast.context_as_of_ms) / 1000
                self._metrics.context_age_seconds.observe(age_s)
            elif self._models.of(forecast.interval, forecast.symbol).context is not None:
                self._metrics.contextless.inc()
