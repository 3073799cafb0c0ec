"""Creates the topics before anything subscribes, with the partition count that all must share."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shared import kafka
from shared.kafka import (
    AIOKafkaAdminClient,
    ConfigResource,
    ConfigResourceType,
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
    """A topic that cannot be made, or that exists with another partition count or policy."""


@dataclass(frozen=True)
class Topic:
    """A topic as the services need it."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)  # that it is created with
    policies: Collection[str] = ()  # names in ``config`` that an existing topic must agree in


BROKERS_TIME: Final[Mapping[str, str]] = {"message.timestamp.type": "LogAppendTime"}
"""The broker stamps each message on append, whatever the clock of its sender says."""


def market_topics(settings: KafkaSettings) -> tuple[Topic, ...]:
    """Return the candles, forecasts and dead-letter topics.

    The broker stamps every message, so that one clock says what is in the future and how long a
    forecast took; the time of an event is in its message.
    """
    names = (settings.candles_topic, settings.forecasts_topic, settings.dlq_topic)
    count, replicas = settings.partitions, settings.replication
    return tuple(Topic(name, count, replicas, BROKERS_TIME, (*BROKERS_TIME,)) for name in names)


async def ensure(
    settings: KafkaSettings, topics: Iterable[Topic], *, timeout_s: float = math.inf
) -> None:
    """Create the topics that are missing; check partition counts and policies of the others.

    Waits up to ``timeout_s`` seconds for the brokers, and says so in the log.

    Raises:
        TopicError: when they do not answer in time or refuse a topic, or when one exists with
            another partition count or policy.
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
    if code != 0 and topic.policies:
        await _check_policies(admin, topic)


async def _check_policies(admin: AIOKafkaAdminClient, topic: Topic) -> None:
    wanted = {name: topic.config[name] for name in topic.policies}
    asked = ConfigResource(ConfigResourceType.TOPIC, topic.name, dict.fromkeys(wanted, ""))
    answers: Any = await admin.describe_configs([asked])
    code, message, _, _, entries = answers[0].resources[0]
    if for_code(code).retriable:
        raise for_code(code)(message)
    if code != 0:  # such a right is not needed for anything else
        log.warning("topic %s: its policies are not shown: %s", topic.name, for_code(code).__name__)
        return
    got = {name: value for name, value, *_ in entries}
    for name, value in wanted.items():
        if got.get(name) != value:
            raise TopicError(
                f"topic {topic.name}: expected {name}={value}, got {got.get(name)}; set it by "
                f"kafka-configs.sh --alter --topic {topic.name} --add-config {name}={value}"
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
