"""The context topic, read whole: every process that forecasts with a context holds all of it."""

from __future__ import annotations

import logging
from collections import Counter

from shared import kafka
from shared.candles import InvalidCandle
from shared.context import ContextStore, decode_context
from shared.kafka import KafkaSettings, Partition
from shared.topics import partitions_of

log = logging.getLogger(__name__)


async def read(settings: KafkaSettings) -> ContextStore:
    """Return all that the context topic holds now; nothing where there is no such topic.

    Messages that are not context candles are left out, and counted in the log.

    Raises:
        KafkaError: when the topic cannot be read.
    """
    store = ContextStore()
    parts = [
        Partition(settings.context_topic, number)
        for number in await partitions_of(settings, settings.context_topic)
    ]
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
