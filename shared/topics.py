"""Creates the topics before anything subscribes, with the partition count that all must share."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shared import kafka
from shared.kafka import (
    AIOKafkaAdminClient,
    KafkaSettings,
    LeaderNotAvailableError,
    NewTopic,
    TopicAlreadyExistsError,
    for_code,
)

log = logging.getLogger(__name__)

LEADERS_S: Final = 5.0
"""Longest wait for leaders before the brokers are asked by a client made again."""


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
    settings: KafkaSettings, topics: Iterable[Topic], *, timeout_s: float = math.inf
) -> None:
    """Create the topics that are missing and check the partition counts of the others.

    Waits up to ``timeout_s`` seconds for the brokers, and says so in the log.

    Raises:
        TopicError: when they do not answer in time or refuse a topic, or when one exists with
            another partition count.
    """
    wanted = tuple(topics)
    try:
        await kafka.when_reachable(settings, lambda: _ensure(settings, wanted), timeout_s=timeout_s)
    except kafka.TRANSIENT as error:
        within = f" within {timeout_s:g} s" if kafka.is_transient(error) else ""
        raise TopicError(
            f"the topics cannot be made at {settings.bootstrap}{within}: {error!r}"
        ) from error


async def _ensure(settings: KafkaSettings, topics: Iterable[Topic]) -> None:
    admin = kafka.admin(settings)
    try:
        await admin.start()
        for topic in topics:
            await _ensure_one(admin, topic)
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


async def _ensure_one(admin: AIOKafkaAdminClient, topic: Topic) -> None:
    new = NewTopic(
        topic.name, topic.partitions, topic.replication, topic_configs=dict(topic.config)
    )
    response: Any = await admin.create_topics([new])
    name, code, message = response.topic_errors[0][:3]
    if code == 0:
        log.info("created topic %s with %d partitions", name, topic.partitions)
    elif for_code(code).retriable:
        raise for_code(code)(message)
    elif code != TopicAlreadyExistsError.errno:
        raise TopicError(f"topic {name}: {for_code(code).__name__}: {message}")
    got = await _visible_partitions(admin, name)
    if got != topic.partitions:
        raise TopicError(
            f"topic {name}: expected {topic.partitions} partitions, got {got}; the candles, "
            "forecasts and window topics must agree: set --partitions to match, or recreate it"
        )


async def _visible_partitions(admin: AIOKafkaAdminClient, name: str) -> int:
    """Return the partitions of a topic once the broker's metadata shows them all with leaders.

    A broker answers the creation before its metadata has the topic; a consumer that subscribes
    in between gets no partition of it, and idles forever.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LEADERS_S
    while True:
        [described] = await admin.describe_topics([name])
        partitions = described["partitions"]
        if partitions and all(part["leader"] >= 0 for part in partitions):
            return len(partitions)
        if loop.time() >= deadline:
            raise LeaderNotAvailableError(f"topic {name} has partitions without a leader")
        await asyncio.sleep(0.05)
