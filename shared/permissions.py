"""What each service needs to be allowed in a Kafka with ACLs, and the check of it at a start.

The table is the one place: ``python -m local acls`` prints it, ``docs/operations.md`` shows it, and
a service that starts asks the broker what it may do and compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiokafka.errors import GroupAuthorizationFailedError, for_code
from aiokafka.protocol.admin import CreateAclsRequest, DescribeGroupsRequest_v3
from aiokafka.protocol.admin import DescribeGroupsResponse_v3 as GroupsWithOperations
from aiokafka.protocol.api import Request

from shared import kafka
from shared.kafka import AccessError, AIOKafkaAdminClient, KafkaSettings
from shared.topic_ids import NO_OPERATIONS, NOT_AUTHORIZED, UNKNOWN_TOPIC, Described, describe
from shared.topics import DEFAULT_GROUP, all_topics, changelog_of, market_topics

Resource = Literal["topic", "group"]

CODES: Final = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Describe": 8,
    "DescribeConfigs": 10,
    "AlterConfigs": 11,
}
"""Numbers of Kafka's operations, which are the bits of what a user may do."""

_TOPIC, _GROUP, _LITERAL, _ALLOW = 2, 3, 3, 3  # Kafka's numbers of them

GROUP_NOT_AUTHORIZED: Final = GroupAuthorizationFailedError.errno


@dataclass(frozen=True)
class Permission:
    """An operation on a resource; Read and Write bring Describe with them."""

    resource: Resource
    name: str
    operation: str

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource} {self.name}"


def of_candles(settings: KafkaSettings) -> list[Permission]:
    """Return what a producer without a context needs: it resumes at its topic's end."""
    return _on(settings.candles_topic, "Read", "Write")


def of_producer(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> list[Permission]:
    """Return what the producer needs, with a context too."""
    del group
    return [*of_candles(settings), *_on(settings.context_topic, "Read", "Write")]


def of_worker(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> list[Permission]:
    """Return what a worker needs."""
    return [
        *_on(settings.candles_topic, "Read"),
        *_on(settings.context_topic, "Read"),
        *_on(settings.forecasts_topic, "Write"),
        *_on(settings.scores_topic, "Write"),
        *_on(settings.dlq_topic, "Write"),
        *_on(changelog_of(group), "Read", "Write"),
        Permission("group", group, "Read"),
    ]


def of_api(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> list[Permission]:
    """Return what the API needs: it reads without a group."""
    del group
    topics = (
        settings.candles_topic, settings.forecasts_topic, settings.scores_topic,
        settings.context_topic,
    )  # fmt: skip
    return [permission for topic in topics for permission in _on(topic, "Read")]


def of_trainer(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> list[Permission]:
    """Return what the trainer needs: it reads without a group."""
    del group
    topics = (settings.candles_topic, settings.scores_topic, settings.context_topic)
    return [permission for topic in topics for permission in _on(topic, "Read")]


def of_letters(settings: KafkaSettings) -> list[Permission]:
    """Return what the commands on dead letters need; Write only to send them back."""
    return [
        *_on(settings.dlq_topic, "Read"),
        *_on(settings.candles_topic, "Write"),
        *_on(settings.context_topic, "Write"),
    ]


def of_skip(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> list[Permission]:
    """Return what ``dlq skip`` needs, which a worker's user has too."""
    return [*_on(settings.candles_topic, "Read"), *_on(changelog_of(group), "Write")]


def of_dlq(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> list[Permission]:
    """Return what all commands of ``dlq`` need."""
    return [*of_letters(settings), *of_skip(settings, group)]


def of_topics(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> list[Permission]:
    """Return what making, checking and changing the topics needs."""
    return [
        permission
        for topic in all_topics(settings, group)
        for permission in _on(topic.name, "Create", "Describe", "DescribeConfigs", "AlterConfigs")
    ]


def of_local(settings: KafkaSettings, group: str = DEFAULT_GROUP) -> list[Permission]:
    """Return what ``python -m local`` needs, which watches the topics."""
    del group
    watched = [
        permission for topic in market_topics(settings) for permission in _on(topic.name, "Read")
    ]
    return [*watched, *_on(settings.context_topic, "Describe")]


SERVICES: Final[dict[str, Callable[[KafkaSettings, str], list[Permission]]]] = {
    "topics": of_topics,
    "producer": of_producer,
    "worker": of_worker,
    "api": of_api,
    "trainer": of_trainer,
    "dlq": of_dlq,
    "local": of_local,
}
"""What each service needs; ``topics`` is ``python -m shared.topics``."""


def _on(topic: str, *operations: str) -> list[Permission]:
    return [Permission("topic", topic, operation) for operation in operations]


async def check(
    settings: KafkaSettings, needed: Sequence[Permission], *, timeout_s: float = math.inf
) -> None:
    """Ask the broker what this user may do, and compare; waits for the brokers.

    A topic that is missing is passed over. A broker without an authorizer allows everything.

    Raises:
        AccessError: when the broker refuses this client, or an operation; names each.
        KafkaError: when it cannot say what it allows: it is older than Kafka 2.8.
        Exception: when none answers in time.
    """
    allowed = await kafka.when_reachable(
        settings, lambda: _allowed(settings, needed), timeout_s=timeout_s
    )
    missing = [
        permission
        for permission in needed
        if not allowed[permission.resource, permission.name] >> CODES[permission.operation] & 1
    ]
    if missing:
        raise AccessError(
            f"Kafka at {settings.bootstrap} does not allow this user ({user(settings)}) what it "
            f"needs: {', '.join(map(str, missing))}; python -m local acls prints the commands that "
            "allow it"
        )


async def _allowed(
    settings: KafkaSettings, needed: Sequence[Permission]
) -> dict[tuple[str, str], int]:
    """Return a bit for each operation that is allowed, by resource."""
    names = {
        resource: {permission.name for permission in needed if permission.resource == resource}
        for resource in ("topic", "group")
    }
    admin = kafka.admin(settings)
    try:
        await admin.start()
        topics = await describe(admin, sorted(names["topic"]))
        allowed = {("topic", name): _bits(topic) for name, topic in topics.items()}
        return allowed | {("group", name): await _of_group(admin, name) for name in names["group"]}
    finally:
        await admin.close()


def user(settings: KafkaSettings) -> str:
    """Return who we say that we are."""
    if settings.sasl_username and settings.sasl_mechanism != "OAUTHBEARER":
        return settings.sasl_username
    if settings.sasl_token_command:
        return "that of its token"
    return "that of its certificate" if settings.ssl_certificate else "anonymous"


def _bits(topic: Described) -> int:
    if topic.error == NOT_AUTHORIZED:
        return 0
    return (
        -1
        if topic.error == UNKNOWN_TOPIC or topic.operations == NO_OPERATIONS
        else topic.operations
    )


class _GroupStruct(DescribeGroupsRequest_v3):
    # aiokafka 0.14 reads the answer of version 2
    RESPONSE_TYPE = GroupsWithOperations  # type: ignore[assignment]


class _GroupRequest(Request[_GroupStruct]):
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_GroupStruct]) -> _GroupStruct:
        return request_struct_class([self._group], True)  # noqa: FBT003 -- with the operations


async def _of_group(admin: AIOKafkaAdminClient, group: str) -> int:
    """Return a bit for each operation that this user may do on a group."""
    try:
        node = await admin.find_coordinator(group)
    except GroupAuthorizationFailedError:
        return 0
    answer: Any = await admin._send_request_to_node(node, _GroupRequest(group))  # noqa: SLF001
    [described] = answer.groups
    error, operations = described[0], described[-1]
    if error == GROUP_NOT_AUTHORIZED:
        return 0
    return -1 if operations == NO_OPERATIONS else int(operations)


async def allow(settings: KafkaSettings, principal: str, needed: Iterable[Permission]) -> None:
    """Allow a user what a service needs; settings are of one who may alter ACLs.

    Raises:
        AccessError: when the broker refuses, with its reason.
        KafkaError: when no broker answers.
    """
    admin = kafka.admin(settings)
    try:
        await kafka.start(admin, settings)
        for permission in needed:
            kind = _TOPIC if permission.resource == "topic" else _GROUP
            answer: Any = await admin._send_request(  # noqa: SLF001 -- aiokafka has no method for it
                CreateAclsRequest(
                    kind,
                    permission.name,
                    _LITERAL,
                    f"User:{principal}",
                    "*",
                    CODES[permission.operation],
                    _ALLOW,
                )
            )
            [(code, message)] = answer.creation_responses
            if code:
                raise AccessError(
                    f"{permission} cannot be allowed to {principal}: {message or for_code(code)}"
                )
    finally:
        await admin.close()


def commands(principal: str, needed: Iterable[Permission]) -> list[str]:
    """Return the commands of Kafka's own tool that allow a user what a service needs."""
    by_resource: dict[tuple[str, str], list[str]] = {}
    for permission in needed:
        by_resource.setdefault((permission.resource, permission.name), []).append(
            permission.operation
        )
    return [
        "kafka-acls.sh --bootstrap-server $BOOTSTRAP --command-config admin.properties --add "
        f"--allow-principal 'User:{principal}' --{resource} '{name}' "
        + " ".join(f"--operation {operation}" for operation in operations)
        for (resource, name), operations in by_resource.items()
    ]
