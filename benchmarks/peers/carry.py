"""Contender ``carry``: aiokafka consumes and produces as many bytes as the worker; no work between.

For each candle it sends a message to each topic that it is given, of the size that is given.

What a burst takes at least, with one process and this client.
"""

from __future__ import annotations

import argparse
import asyncio

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

MAX_BATCH = 512
HEADERS = [
    ("content-type", b"application/json"), ("ce_specversion", b"1.0"), ("ce_id", b"x" * 32),
    ("ce_type", b"market.forecast.v1"), ("ce_source", b"candlecast/stream_app"),
    ("ce_time", b"2026-01-31T12:00:00.000Z"),
]  # fmt: skip


async def main(options: argparse.Namespace) -> None:
    """Consume and produce until killed."""
    consumer = AIOKafkaConsumer(bootstrap_servers=options.bootstrap)
    producer = AIOKafkaProducer(
        bootstrap_servers=options.bootstrap,
        enable_idempotence=True,
        acks="all",
        max_batch_size=1 << 18,
    )
    await producer.start()
    await consumer.start()
    consumer.assign([TopicPartition(options.candles, n) for n in range(options.partitions)])
    await consumer.seek_to_end()
    values = {topic: b"x" * int(size) for topic, size in (of.split("=") for of in options.produce)}
    first = next(iter(values))
    await producer.send_and_wait(first, b"ready", partition=0)
    while True:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=MAX_BATCH)
        sent = [
            await producer.send(topic, value, record.key, record.partition, headers=HEADERS)
            for of in fetched.values()
            for record in of
            for topic, value in values.items()
        ]
        await asyncio.gather(*sent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "candles"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--produce", action="append", required=True, metavar="TOPIC=BYTES")
    uvloop.run(main(parser.parse_args()))
