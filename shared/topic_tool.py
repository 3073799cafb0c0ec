"""``python -m shared.topics``: makes the topics, compares them with their table, and mends them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from shared import kafka, process
from shared.kafka import (
    AccessError,
    AIOKafkaAdminClient,
    ConfigResource,
    ConfigResourceType,
    KafkaError,
    KafkaSettings,
    for_code,
)
from shared.process import Exit
from shared.settings import own
from shared.topic_ids import describe
from shared.topics import DEFAULT_GROUP, Topic, TopicError, all_topics, ensure

PROG: Final = "python -m shared.topics"
ANSWER_S: Final = 60.0
"""Longest wait for brokers."""


class TopicsSettings(KafkaSettings):
    """Make, check or change the topics.

    show prints the table of what each topic should be; diff prints where Kafka differs, and ends
    with 1 if it does; apply makes the topics that are missing and sets what differs. Partitions and
    replicas of a topic that exists are only compared.

    Example:
      python -m shared.topics apply --replication 3 --candles-days 30
    """

    help_title: ClassVar[str] = "what is done"

    model_config = own("topics")

    action: CliPositionalArg[Literal["show", "diff", "apply"]] = Field(
        description="show, diff or apply"
    )
    group: str = Field(DEFAULT_GROUP, description="the worker's consumer group")


@dataclass(frozen=True)
class Difference:
    """A setting of a topic that is not as the table says."""

    topic: str
    setting: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting}: expected {self.expected}, got {self.got}"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Carry out the command; return the exit code."""
    settings = TopicsSettings.read(sys.argv[1:] if argv is None else argv, prog)
    return process.live(
        "topics",
        settings.log_level,
        lambda: asyncio.run(run(settings)),
        expected=(AccessError, KafkaError, TopicError, OSError),
        stopped=Exit.INTERRUPTED,
    )


async def run(settings: TopicsSettings) -> int:
    """Show, compare or apply; return the exit code."""
    topics = all_topics(settings, settings.group)
    if settings.action == "show":
        show(topics)
        return Exit.DONE
    if settings.action == "apply":
        bare = [replace(topic, policies=()) for topic in topics]  # what differs is set below
        await ensure(settings, bare, timeout_s=ANSWER_S)
    found = await kafka.when_reachable(
        settings, lambda: differences(settings, topics), timeout_s=ANSWER_S
    )
    if settings.action == "apply":
        await apply(settings, found)
        found = await differences(settings, topics)
    for difference in found:
        print(difference)
    if not found:
        print(f"{len(topics)} topics are as they should be")
    return Exit.FAILED if found else Exit.DONE


def show(topics: Sequence[Topic]) -> None:
    """Print the table."""
    table = Table("topic", "partitions", "replicas", "settings", box=None)
    for topic in topics:
        settings = "\n".join(f"{name}={value}" for name, value in sorted(topic.config.items()))
        table.add_row(topic.name, str(topic.partitions), str(topic.replication), settings)
    Console().print(table)


async def differences(settings: KafkaSettings, topics: Sequence[Topic]) -> list[Difference]:
    """Return where Kafka differs from the table.

    Raises:
        TopicError: when this user may not see a topic's settings.
        KafkaError: when no broker answers.
    """
    admin = kafka.admin(settings)
    try:
        await admin.start()
        described = await describe(admin, [topic.name for topic in topics])
        found = []
        for topic in topics:
            seen = described[topic.name]
            if not seen.leaders:
                found.append(Difference(topic.name, "topic", "that it exists", "none"))
                continue
            got = {"partitions": str(len(seen.leaders)), "replicas": str(seen.replicas)}
            expected = {"partitions": str(topic.partitions), "replicas": str(topic.replication)}
            got |= await _config(admin, topic.name)
            expected |= topic.config
            found += [
                Difference(topic.name, name, value, got.get(name, "none"))
                for name, value in expected.items()
                if got.get(name) != value
            ]
        return found
    finally:
        await admin.close()


async def apply(settings: KafkaSettings, found: Sequence[Difference]) -> None:
    """Set what differs; a topic's other settings stay.

    Raises:
        TopicError: when Kafka refuses it.
    """
    changes: dict[str, dict[str, str]] = {}
    for difference in found:
        if difference.setting not in {"topic", "partitions", "replicas"}:
            changes.setdefault(difference.topic, {})[difference.setting] = difference.expected
    admin = kafka.admin(settings)
    try:
        await admin.start()
        for topic, config in changes.items():
            await _set(admin, topic, config)
            print(f"{topic}: set {', '.join(f'{name}={value}' for name, value in config.items())}")
    finally:
        await admin.close()


async def _config(
    admin: AIOKafkaAdminClient, topic: str, *, only_own: bool = False
) -> dict[str, str]:
    """Return a topic's settings; only those that it has itself, if asked."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    answers: list[Any] = await admin.describe_configs([resource])
    code, message, _, _, entries = answers[0].resources[0]
    if code:
        raise TopicError(f"topic {topic}: its settings cannot be read: {message or for_code(code)}")
    # name, value, read only, source, ...; source 1 is the topic itself
    return {entry[0]: entry[1] for entry in entries if not only_own or entry[3] == 1}


async def _set(admin: AIOKafkaAdminClient, topic: str, config: Mapping[str, str]) -> None:
    # the request replaces all that a topic has of its own: aiokafka knows no incremental one
    whole = await _config(admin, topic, only_own=True) | dict(config)
    answers: list[Any] = await admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic, configs=whole)]
    )
    code, message = answers[0].resources[0][:2]
    if code:
        raise TopicError(f"topic {topic}: {message or for_code(code)}")
