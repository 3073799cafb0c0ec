"""Times the trainer as it reads a topic of five million candles, as ``--data kafka`` does.

``python -m benchmarks topic`` starts the embedded Kafka, writes minutes of many symbols into a
candles topic, packed as the producer packs them, and reads them into a snapshot in a process of its
own, then from the snapshot into arrays. It prints one JSON object with the seconds of both; the
exit code is 1 when they are more than a minute for each five million.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from benchmarks import one_process
from local.broker import Broker
from shared import kafka, topics
from shared.candles import MINUTE_MS, Candle
from shared.leash import Leash
from trainer import snapshot
from trainer.settings import EvaluateSettings

SECONDS_PER_CANDLE: Final = 60 / 5_000_000

SYMBOLS: Final = 500
START_MS: Final = 1_577_836_800_000  # 2020-01-01
BATCH_BYTES: Final = 200_000
MOST_PENDING: Final = 64
"""Batches that wait for the broker at once."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks topic", description=__doc__)
    parser.add_argument("--candles", type=int, default=5_000_000, help="default: 5,000,000")
    options = parser.parse_args(argv)
    count = options.candles // SYMBOLS
    with (
        tempfile.TemporaryDirectory(prefix="candlecast-topic-") as folder,
        Leash() as leash,
        Broker(leash=leash) as broker,
    ):
        flags = [
            "--data", "kafka", "--interval", "1m", "--bootstrap", broker.bootstrap,
            "--snapshots", folder,
        ]  # fmt: skip
        with one_process.elsewhere() as executor:
            executor.submit(write, flags, count).result()
            print("the topic is written", file=sys.stderr, flush=True)
            read = executor.submit(measure, flags, count * SYMBOLS).result()
    print(json.dumps(read))
    return int(read["topic_seconds"] + read["arrays_seconds"] > read["goal_seconds"])


def measure(flags: Sequence[str], count: int) -> dict[str, Any]:
    """Read the topic into a snapshot, and that into arrays; return the figures."""
    settings = EvaluateSettings.read(flags, "topic")
    began_s = time.perf_counter()
    folder = snapshot.update(settings, settings.snapshots)
    read_s = time.perf_counter()
    held = snapshot.history(folder, settings.interval)
    ended_s = time.perf_counter()
    if held.count != count:
        raise SystemExit(f"expected {count} candles, got {held.count}")
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "candles": count, "symbols": SYMBOLS, "partitions": settings.partitions,
        "topic_seconds": round(read_s - began_s, 1), "arrays_seconds": round(ended_s - read_s, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "mb": round(used.ru_maxrss / 1024), "goal_seconds": round(SECONDS_PER_CANDLE * count, 1),
    }  # fmt: skip


def write(flags: Sequence[str], count: int) -> None:
    """Write a topic of so many candles a symbol."""
    asyncio.run(_write(EvaluateSettings.read(flags, "topic"), count))


async def _write(settings: EvaluateSettings, count: int) -> None:
    await topics.ensure(settings, [topics.candles_topic(settings)])
    pending: set[asyncio.Future[Any]] = set()
    async with kafka.connected(kafka.producer(settings, max_batch_bytes=BATCH_BYTES)) as producer:
        for partition in range(settings.partitions):
            symbols = range(partition, SYMBOLS, settings.partitions)
            batch, size = producer.create_batch(), 0
            for key, value in messages(symbols, count):
                if size + len(value) > BATCH_BYTES:
                    pending.add(
                        await producer.send_batch(
                            batch, settings.candles_topic, partition=partition
                        )
                    )
                    batch, size = producer.create_batch(), 0
                    if len(pending) >= MOST_PENDING:
                        _, pending = await asyncio.wait(
                            pending, return_when=asyncio.FIRST_COMPLETED
                        )
                batch.append(key=key, value=value, timestamp=None)
                size += len(value) + 40
            if size:
                last = await producer.send_batch(batch, settings.candles_topic, partition=partition)
                pending.add(last)
        await asyncio.gather(*pending)


def messages(symbols: Sequence[int], count: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of the candles of some symbols, minute by minute."""
    rng = np.random.default_rng(symbols[0])
    close = np.full(len(symbols), 100.0)
    names = [f"S{number:04d}" for number in symbols]
    for minute in range(count):
        opened, close = close, close * np.exp(rng.normal(0, 3e-4, len(symbols)))
        rows = np.column_stack(
            [
                opened, np.maximum(opened, close) * 1.0001, np.minimum(opened, close) * 0.9999,
                close, rng.integers(1, 10**5, len(symbols)),
            ]
        ).round(4)  # fmt: skip
        open_ms = START_MS + minute * MINUTE_MS
        for name, row in zip(names, rows.tolist(), strict=True):
            fields = dict(zip(("open", "high", "low", "close", "volume"), row, strict=True))
            candle = Candle.trusted(
                **fields, symbol=name, interval="1m", open_ms=open_ms,
                close_ms=open_ms + MINUTE_MS, source="benchmark",
            )  # fmt: skip
            yield name.encode(), candle.encode()
