"""Creates the topics before anything subscribes, with the partition count that all must share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared import kafka
from shared.kafka import (
    AIOKafkaAdminClient,
    KafkaConnectionError,
    KafkaSettings,
    NewTopic,
    TopicAlreadyExistsError,
    for_code,
)

log = logging.getLogger(__name__)


class TopicError(Exception):
    """A topic that cannot be made, or that exists with another partition count."""


@dataclass(frozen=True)
class Topic:
    """A topic as the services need it."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)


def market_topics(settings: KafkaSettings) -> tuple[Topic, ...]:
    """Return the candles, forecasts and dead-letter topics.

    The broker stamps every message on append, so that latency is measured by one clock; the
    time of an event is in its message.
    """
    config = {"message.timestamp.type": "LogAppendTime"}
    return (
        Topic(settings.candles_topic, settings.partitions, settings.replication, config),
        Topic(settings.forecasts_topic, settings.partitions, settings.replication, config),
        Topic(settings.dlq_topic, settings.partitions, settings.replication, config),
    )


async def ensure(
    settings: KafkaSettings, topics: Iterable[Topic], *, timeout_s: float = 60.0
) -> None:
    """Create the topics that are missing and check the partition counts of the others.

    Waits up to ``timeout_s`` seconds for a broker.

    Raises:
        TopicError: when no broker answers in time, the broker refuses a topic, or one exists
            with another partition count.
    """
    admin = await _connect(settings, timeout_s)
    try:
        for topic in topics:
            await _ensure_one(admin, topic, timeout_s)
    finally:
        await admin.close()


async def partitions_of(settings: KafkaSettings, name: str) -> list[int]:
    """Return the numbers of a topic's partitions; an empty list when the topic does not exist.

    Raises:
        KafkaError: when no broker answers.
    """
    admin = kafka.admin(settings)
    try:
        await admin.start()
        [described] = await admin.describe_topics([name])
        return sorted(part["partition"] for part in described["partitions"])
    finally:
        await admin.close()


async def _connect(settings: KafkaSettings, timeout_s: float) -> AIOKafkaAdminClient:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        admin = kafka.admin(settings)
        try:
            await admin.start()
            return admin
        except (KafkaConnectionError, OSError) as error:
            await admin.close()
            if loop.time() >= deadline:
                raise TopicError(
                    f"no Kafka broker answered at {settings.bootstrap} within {timeout_s:g} s"
                ) from error
            log.info("waiting for a Kafka broker at %s", settings.bootstrap)
            await asyncio.sleep(1.0)


async def _ensure_one(admin: AIOKafkaAdminClient, topic: Topic, timeout_s: float) -> None:
    new = NewTopic(
        topic.name, topic.partitions, topic.replication, topic_configs=dict(topic.config)
    )
    response: Any = await admin.create_topics([new])
    name, code, message = response.topic_errors[0][:3]
    if code == 0:
        log.info("created topic %s with %d partitions", name, topic.partitions)
    elif code != TopicAlreadyExistsError.errno:
        raise TopicError(f"topic {name}: {for_code(code).__name__}: {message}")
    got = await _visible_partitions(admin, name, timeout_s)
    if got != topic.partitions:
        raise TopicError(
            f"topic {name}: expected {topic.partitions} partitions, got {got}; the candles, "
            "forecasts and window topics must agree: set --partitions to match, or recreate it"
        )


async def _visible_partitions(admin: AIOKafkaAdminClient, name: str, timeout_s: float) -> int:
    """Return the partitions of a topic once the broker's metadata shows them all with leaders.

    A broker answers the creation before its metadata has the topic; a consumer that subscribes
    in between gets no partition of it, and idles forever.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        [described] = await admin.describe_topics([name])
        partitions = described["partitions"]
        if partitions and all(part["leader"] >= 0 for part in partitions):
            return len(partitions)
        if loop.time() >= deadline:
            raise TopicError(f"topic {name}: has no leaders within {timeout_s:g} s")
        await asyncio.sleep(0.05)
