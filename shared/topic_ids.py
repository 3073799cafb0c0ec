"""Topics as a broker describes them to us: id, partitions, and what we may do with them.

A topic that was deleted and created again has the same name, perhaps more messages than before,
and another id (KIP-516). aiokafka knows the metadata request up to version 5; the id comes with
version 12, and from version 8 on what this user may do (KIP-430).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final
from uuid import UUID

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from shared import kafka
from shared.kafka import AIOKafkaAdminClient, KafkaSettings

_TIMEOUT_S = 10.0
_NO_ID = UUID(int=0)

UNKNOWN_TOPIC: Final = 3
NOT_AUTHORIZED: Final = 29
"""Error codes of a topic that a broker does not describe."""

NO_OPERATIONS: Final = -(1 << 31)
"""What a broker gives that does not say what this user may do."""


@dataclass(frozen=True)
class Described:
    """A topic as a broker describes it to this user."""

    error: int  # 0, or why nothing else is known
    topic_id: str  # hexadecimal digits; empty when the broker has none
    leaders: tuple[int, ...]  # by partition; below 0 where there is none
    replicas: int  # fewest of a partition
    operations: int  # a bit for each operation that this user may do


class _Uuid(AbstractType[UUID]):
    """Sixteen bytes."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _MetadataResponse(Response):
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequestStruct(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestStruct]):
    API_KEY = 3

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = tuple(topics)

    def build(self, request_struct_class: type[_MetadataRequestStruct]) -> _MetadataRequestStruct:
        topics: list[Any] = [(_NO_ID, name, {}) for name in self._topics]
        auto_creation, authorized_operations = False, True
        return request_struct_class(topics, auto_creation, authorized_operations, {})


async def describe(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Described]:
    """Return what a broker says of some topics, by name; it makes none of them.

    Raises:
        KafkaError: when no broker answers, or it is older than Kafka 2.8.
    """
    response: Any = await admin._send_request(_MetadataRequest(names))  # noqa: SLF001 - to any
    return {
        name: Described(
            error,
            "" if topic_id == _NO_ID else topic_id.hex,
            tuple(part[2] for part in sorted(partitions, key=lambda part: part[1])),
            min((len(part[4]) for part in partitions), default=0),
            operations,
        )
        for error, name, topic_id, _, partitions, operations, _ in response.topics
    }


async def topic_ids(settings: KafkaSettings, names: Iterable[str]) -> dict[str, str]:
    """Return the ids of the topics that exist, as hexadecimal digits, by name.

    Raises:
        KafkaError: when no broker answers, or it is older than Kafka 2.8.
        TimeoutError: when it takes too long.
    """
    admin = kafka.admin(settings)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await admin.start()
            described = await describe(admin, names)
    finally:
        await admin.close()
    return {name: found.topic_id for name, found in described.items() if found.topic_id}
