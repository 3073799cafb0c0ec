"""Record batches as a producer sends them, and as no producer of ours does, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c, encode_varint

from shared import batches

HEAD_BYTES: Final = 61
_CRC_AT, _ATTRIBUTES_AT, _MAGIC_AT = 17, 21, 16

Header = tuple[bytes, bytes | None]
Message = tuple[bytes | None, bytes | None, Sequence[Header]]


def _varint(number: int) -> bytes:
    out = bytearray()
    encode_varint(number, out.append)
    return bytes(out)


def _field(content: bytes | None) -> bytes:
    return _varint(-1) if content is None else _varint(len(content)) + content


def record(delta: int, message: Message) -> bytes:
    """Return a record ``delta`` offsets behind its batch's first."""
    key, value, headers = message
    body = b"\0" + _varint(0) + _varint(delta) + _field(key) + _field(value) + _varint(len(headers))
    body += b"".join(_field(name) + _field(content) for name, content in headers)
    return _varint(len(body)) + body


def batch(
    messages: Iterable[Message], *, base: int = 0, codec: int = 0, payload: bytes | None = None
) -> bytes:
    """Return a batch of format 2 with a right checksum.

    Args:
        messages: keys, values and headers.
        base: offset of the first.
        codec: number of the codec in the attributes.
        payload: what stands behind the head, instead of the records.
    """
    records = [record(delta, message) for delta, message in enumerate(messages)]
    behind = b"".join(records) if payload is None else payload
    last = max(len(records) - 1, 0)
    checked = struct.pack(">hiqqqhii", codec, last, 7, 7, -1, -1, -1, len(records)) + behind
    head = struct.pack(">qiibI", base, 9 + len(checked), 0, 2, calc_crc32c(checked))
    return head + checked


def with_wrong_checksum(sent: bytes) -> bytes:
    """Return a batch of which a byte was damaged on a disk."""
    return sent[:-1] + bytes([sent[-1] ^ 0xFF])


def with_format(sent: bytes, magic: int) -> bytes:
    """Return a batch that says to be of another format."""
    return sent[:_MAGIC_AT] + bytes([magic]) + sent[_MAGIC_AT + 1 :]


def read(data: bytes, offset: int = 0) -> list[batches.SafeRecord]:
    """Return what aiokafka's fetcher makes of an answer, in our reading of it."""
    place = TopicPartition("topic", 3)
    options = (None, None, True, 1)
    reader = batches.SafePartition(place, batches.SafeBatches(data), [], offset, *options)
    return list(reader)


async def send(bootstrap: str, topic: str, partition: int, sent: bytes) -> None:
    """Send a batch to a partition as it is, whatever our client would think of it."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.partitions_for(topic)
        node = producer.client.cluster.leader_for_partition(TopicPartition(topic, partition))
        request = ProduceRequest(
            transactional_id=None,
            required_acks=-1,
            timeout=10_000,
            topics=[(topic, [(partition, sent)])],
        )
        answer = await producer.client.send(node, request)
    [(_, [(_, code, *_)])] = answer.topics
    assert code == 0, f"the broker refuses it: {code}"
