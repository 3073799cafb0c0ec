"""The context topic, read whole: a process that forecasts with a context holds what it needs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing, suppress
from typing import Final

from shared import kafka
from shared.candles import INTERVALS_MS, Candle, InvalidCandle, RejectReason
from shared.context import ContextSpec, ContextStore, decode_context
from shared.kafka import KafkaSettings, Partition, Record
from shared.metrics import ModelMetrics
from shared.process import AWAY, in_words, is_being_cancelled
from shared.topics import partitions_of
from shared.unusable import UnusableMessages
from shared.window import Push

log = logging.getLogger(__name__)

MOST_KEPT: Final = 100
"""Most messages that are kept for the dead letters; of more only their number is known."""

RETRY_S: Final = 2.0
"""Pause before a topic that is missing, or a broker that is away, is tried again."""


PassedOver = tuple[Record, InvalidCandle]
"""A message that is not a context candle, and why."""


async def read(settings: KafkaSettings) -> ContextStore:
    """Return all that the context topic holds now; nothing where there is no such topic.

    Messages that are not context candles are left out, and counted in the log.

    Raises:
        KafkaError: when the topic cannot be read.
    """
    store = ContextStore()
    parts = await _parts(settings)
    reader = kafka.consumer(settings, isolation_level="read_committed")
    unusable: Counter[str] = Counter()
    async with kafka.connected(reader):
        starts, ends = await reader.beginning_offsets(parts), await reader.end_offsets(parts)
        async for records in kafka.read_to_end(reader, starts, ends):
            for record in records:
                try:
                    store.push(decode_context(record.key, record.value, record.timestamp))
                except InvalidCandle as error:
                    if record.value is not None:  # None takes a candle away
                        unusable[error.reason.value] += 1
    for reason, count in sorted(unusable.items()):
        log.warning("%s: %d messages are not context: %s", settings.context_topic, count, reason)
    return store


class ContextReader:
    """Follows the context topic for the models of a process, as long as one reads a context.

    ``store`` holds the candles of the symbols that they read, and no others. What is wrong with a
    message, the topic or the broker stops nothing: forecasts are made with what there is.
    """

    def __init__(self, settings: KafkaSettings, metrics: ModelMetrics) -> None:
        """Prepare only; ``run`` reads."""
        self.store = ContextStore()
        self._settings = settings
        self._metrics = metrics
        for reason in RejectReason:
            metrics.context_rejects.labels(reason.value)  # from 0 on, so that the first is a rise
        self._unusable = UnusableMessages(log)
        self._passed_over: list[PassedOver] = []
        self._wanted: frozenset[tuple[str, int]] = frozenset()  # symbol, length of the interval
        self._readings = 0  # times that the topic was to be read from its beginning
        self._next: dict[Partition, int] = {}  # the offset to go on from
        self._is_wanted = asyncio.Event()
        self._is_read = asyncio.Event()
        self._news = asyncio.Event()

    def want(self, specs: Iterable[ContextSpec]) -> None:
        """Hold the candles of these contexts; for more than are held the topic is read again."""
        wanted = frozenset(
            (symbol, INTERVALS_MS[spec.interval]) for spec in specs for symbol in spec.symbols
        )
        self._metrics.context_close.clear()
        if not wanted <= self._wanted:
            self._readings += 1
            self._next = {}
            self._is_read.clear()
        self._wanted = wanted
        if wanted:
            self._is_wanted.set()
        else:
            self._is_wanted.clear()

    @property
    def is_read(self) -> bool:
        """True when all that was in the topic is held, or nothing is wanted of it."""
        return self._is_read.is_set() or not self._wanted

    def take_passed_over(self) -> list[PassedOver]:
        """Return the messages that are not context candles, of those that came since it was read.

        What a start finds in the topic is not among them: each start would find it again.
        """
        taken, self._passed_over = self._passed_over, []
        return taken

    async def until_read(self, timeout_s: float) -> bool:
        """Wait for the end of the topic; return whether it was reached in time."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_read.wait(), timeout_s)
        return self.is_read

    async def until_news(self, timeout_s: float) -> None:
        """Wait for the next candles, for a while at most."""
        self._news.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout_s)

    async def run(self) -> None:
        """Follow until cancelled; whatever fails, all is tried again with a new client."""
        while True:
            await self._is_wanted.wait()
            try:
                await self._follow()
            except (Exception, asyncio.CancelledError) as error:
                if is_being_cancelled():
                    raise
                log.warning(
                    "%s cannot be read, forecasts are made with the context that is held: %s",
                    self._settings.context_topic, in_words(error), extra=AWAY,
                )  # fmt: skip
                if not kafka.is_transient(error):
                    self._is_read.set()
                await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        """Read on from where the last reading ended, until something else is wanted."""
        reading = self._readings
        parts = await _parts(self._settings)
        if not parts:
            self._is_read.set()
            await asyncio.sleep(RETRY_S)
            return
        reader = kafka.consumer(self._settings, isolation_level="read_committed")
        async with kafka.connected(reader):
            begins, ends = await reader.beginning_offsets(parts), await reader.end_offsets(parts)
            starts = {part: self._next.get(part, begins[part]) for part in parts}
            if any(not begins[part] <= at <= ends[part] for part, at in starts.items()):
                starts = begins  # of a topic that was created again
            async with aclosing(kafka.follow(reader, starts)) as following:
                async for records in following:
                    if reading != self._readings or not self._wanted:
                        return
                    self._take(records)
                    if not self._is_read.is_set() and await kafka.has_reached(reader, ends):
                        self._is_read.set()
                        log.info("the context topic is read: %s", self._settings.context_topic)
                    await asyncio.sleep(0)  # a long topic must not keep candles waiting

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            self._next[kafka.partition_of(record)] = record.offset + 1
            if record.value is None:
                continue  # takes a candle away, from the next start on
            try:
                candle = decode_context(record.key, record.value, record.timestamp)
            except InvalidCandle as error:
                self._pass_over(record, error)
                continue
            if (candle.symbol, INTERVALS_MS[candle.interval]) in self._wanted:
                self._push(record, candle)

    def _push(self, record: Record, candle: Candle) -> None:
        if self.store.push(candle) in _REFUSED:
            self._pass_over(record, _misplaced(candle))
        newest_ms = self.store.newest_ms(candle.symbol, candle.interval)
        self._metrics.context_close.labels(candle.symbol, candle.interval).set(newest_ms / 1000)
        self._news.set()

    def _pass_over(self, record: Record, error: InvalidCandle) -> None:
        self._unusable.note(record, error.reason.value, error)
        self._metrics.context_rejects.labels(error.reason.value).inc()
        if self._is_read.is_set() and len(self._passed_over) < MOST_KEPT:
            self._passed_over.append((record, error))


_REFUSED: Final = frozenset({Push.OVERLAPS, Push.TOO_OLD})


def _misplaced(candle: Candle) -> InvalidCandle:
    return InvalidCandle(
        RejectReason.OVERLAPS,
        f"{candle.symbol} {candle.interval}: the context candle of {candle.open_ms} to "
        f"{candle.close_ms} does not close between its neighbours, or is older than all that are "
        "kept",
    )


async def _parts(settings: KafkaSettings) -> list[Partition]:
    numbers = await partitions_of(settings, settings.context_topic)
    return [Partition(settings.context_topic, number) for number in numbers]
