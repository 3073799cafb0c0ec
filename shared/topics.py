"""Creates the topics before anything subscribes, with the partition count that all must share."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
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
from shared.topic_ids import NOT_AUTHORIZED, UNKNOWN_TOPIC, Described, describe

CLUSTER_NOT_AUTHORIZED: Final = 31
"""Error code of a creation that this user may not ask for."""

log = logging.getLogger(__name__)

DEFAULT_GROUP: Final = "candlecast"
"""The worker's consumer group, unless it has another."""

DAY_MS: Final = 86_400_000

LEADERS_S: Final = 5.0
"""Longest wait for leaders before a client is made again."""


class TopicError(Exception):
    """A topic that cannot be made, or that exists with another partition count or policy."""


MAX_BATCH_BYTES: Final = 1 << 20
"""Largest batch of records that a topic of ours takes, packed; ours have at most half of it."""


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

POLICIES: Final = ("cleanup.policy", *BROKERS_TIME)
"""What a topic that exists must agree in: windows that are deleted, candles that are compacted and
times of their senders lose candles."""


def candles_topic(settings: KafkaSettings) -> Topic:
    """Return the topic of candles."""
    return _market_topic(settings, settings.candles_topic, settings.candles_days)


def market_topics(settings: KafkaSettings) -> tuple[Topic, ...]:
    """Return the candles, forecasts, scores and dead-letter topics."""
    return (
        candles_topic(settings),
        _market_topic(settings, settings.forecasts_topic, settings.outputs_days),
        _market_topic(settings, settings.scores_topic, settings.outputs_days),
        _market_topic(settings, settings.dlq_topic, settings.outputs_days),
    )


def context_topic(settings: KafkaSettings) -> Topic:
    """Return the topic of context candles, of which the newest of each key is kept forever.

    Every process reads it whole, so it has one partition.
    """
    config = {
        "cleanup.policy": "compact",
        **BROKERS_TIME,
        "max.message.bytes": str(MAX_BATCH_BYTES),
        "min.insync.replicas": _in_sync(settings),
    }
    return Topic(settings.context_topic, 1, settings.replication, config, POLICIES)


def all_topics(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> tuple[Topic, ...]:
    """Return every topic that the services of a consumer group read and write."""
    changelog = Topic(
        changelog_of(group),
        settings.partitions,
        settings.replication,
        {
            "cleanup.policy": "compact",
            **BROKERS_TIME,
            "max.message.bytes": str(MAX_BATCH_BYTES),
            "segment.bytes": str(2 << 20),  # what is compacted is closed segments
            "segment.ms": "600000",
            "min.cleanable.dirty.ratio": "0.2",
            "min.insync.replicas": _in_sync(settings),
        },  # keeps short what a recovery reads: each candle writes a record
        POLICIES,
    )
    return (*market_topics(settings), context_topic(settings), changelog)


def changelog_of(group: str) -> str:
    """Return the compacted topic that the windows of a consumer group are recovered from."""
    return f"{group}-windows-changelog"


def _market_topic(settings: KafkaSettings, name: str, days: int) -> Topic:
    """Return a topic that keeps its messages for some days.

    The broker stamps every message, so that one clock says what is in the future and how long a
    forecast took; the time of an event is in its message.
    """
    config = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MAX_BATCH_BYTES),
        **BROKERS_TIME,
        "min.insync.replicas": _in_sync(settings),
        "retention.ms": str(days * DAY_MS) if days else "-1",
    }
    return Topic(name, settings.partitions, settings.replication, config, POLICIES)


def _in_sync(settings: KafkaSettings) -> str:
    """Return how many replicas must have a message: one may be away where there are several."""
    return str(max(1, settings.replication - 1))


async def ensure(
    settings: KafkaSettings, topics: Iterable[Topic], *, timeout_s: float = math.inf
) -> None:
    """Create the topics that are missing; check partition counts and policies of the others.

    Waits up to ``timeout_s`` seconds for the brokers, and says so in the log.

    Raises:
        AccessError: when they refuse this client, with the cause and the setting.
        TopicError: when they do not answer in time or refuse a topic, or when one exists with
            another partition count or policy.
    """
    wanted = tuple(topics)
    try:
        await kafka.when_reachable(settings, lambda: _ensure(settings, wanted), timeout_s=timeout_s)
    except kafka.AccessError:
        raise
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
        TopicError: when this user may not see it.
        KafkaError: when no broker answers.
    """
    admin = kafka.admin(settings)
    try:
        await admin.start()
        found = await _described(admin, name)
    finally:
        await admin.close()
    return list(range(len(found.leaders)))


async def _ensure_one(admin: AIOKafkaAdminClient, topic: Topic) -> None:
    """Make a topic that is missing; one that is there needs no permission to make topics."""
    found = await _described(admin, topic.name)
    is_new = found.error == UNKNOWN_TOPIC
    if is_new:
        await _create(admin, topic)
        found = await _described(admin, topic.name)
    got = len(await _leaders(admin, topic.name, found))
    if got != topic.partitions:
        raise TopicError(
            f"topic {topic.name}: expected {topic.partitions} partitions, got {got}; the candles, "
            "forecasts and window topics must agree: set --partitions to match, or recreate it"
        )
    if topic.policies:
        await _check_policies(admin, topic)


async def _create(admin: AIOKafkaAdminClient, topic: Topic) -> None:
    new = NewTopic(
        topic.name, topic.partitions, topic.replication, topic_configs=dict(topic.config)
    )
    response: Any = await admin.create_topics([new])
    name, code, message = response.topic_errors[0][:3]
    if code == 0:
        log.info("created topic %s with %d partitions", name, topic.partitions)
    elif code in {NOT_AUTHORIZED, CLUSTER_NOT_AUTHORIZED}:
        raise TopicError(
            f"topic {name}: it does not exist, and this user may not make it: run "
            "python -m shared.topics apply as a user who may, or allow Create on it"
        )
    elif for_code(code).retriable:
        raise for_code(code)(message)
    elif code != TopicAlreadyExistsError.errno:
        raise TopicError(f"topic {name}: {for_code(code).__name__}: {message}")


async def _described(admin: AIOKafkaAdminClient, name: str) -> Described:
    found = (await describe(admin, [name]))[name]
    if found.error == NOT_AUTHORIZED:
        raise TopicError(
            f"topic {name}: this user may not see it: allow Describe, or what python -m local "
            "acls lists for this service"
        )
    return found


async def _check_policies(admin: AIOKafkaAdminClient, topic: Topic) -> None:
    """Compare what must agree; a user who may not see it goes on without."""
    asked = ConfigResource(ConfigResourceType.TOPIC, topic.name, dict.fromkeys(topic.policies, ""))
    answers: Any = await admin.describe_configs([asked])
    code, message, _, _, entries = answers[0].resources[0]
    if for_code(code).retriable:
        raise for_code(code)(message)
    if code != 0:
        log.info("topic %s: its settings are not shown: %s", topic.name, for_code(code).__name__)
        return
    got = {name: value for name, value, *_ in entries}
    for name in topic.policies:
        if got.get(name) != topic.config[name]:
            raise TopicError(
                f"topic {topic.name}: expected {name}={topic.config[name]}, got {got.get(name)}; "
                "python -m shared.topics apply sets it, as a user who may"
            )


async def _leaders(admin: AIOKafkaAdminClient, name: str, found: Described) -> tuple[int, ...]:
    """Return the leaders of a topic's partitions once the brokers' metadata shows them all.

    A broker answers the creation before its metadata has the topic; a consumer that subscribes
    in between gets no partition of it, and idles forever.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LEADERS_S
    while not found.leaders or min(found.leaders) < 0:
        if loop.time() >= deadline:
            raise LeaderNotAvailableError(f"topic {name} has partitions without a leader")
        await asyncio.sleep(0.05)
        found = await _described(admin, name)
    return found.leaders


if __name__ == "__main__":
    from shared.topic_tool import main

    sys.exit(main())
