"""Measures memory and recovery of one worker with many symbols and candles, killed once.

``python -m benchmarks soak`` prints JSON: resident memory along the way, bytes of changelog a
candle, and the time that a worker which was killed needs to have all windows back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.stream_kafka import BATCH_BYTES, PARTITIONS, Feed, Names, Watch
from benchmarks.stream_market import Market
from local.broker import Broker
from local.ports import free_ports
from local.process import Process
from shared import bundle, topics
from shared.leash import Leash
from stream_app.settings import WorkerSettings

SAMPLES: Final = 20
READY_S: Final = 120.0
NAMES: Final = Names.of("soak")


def main(argv: Sequence[str]) -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--symbols", type=int, default=10_000)
    parser.add_argument("--candles", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="1,000 symbols, 50,000 candles")
    options = parser.parse_args(argv)
    if options.quick:
        options.symbols, options.candles = 1_000, 50_000
    with (
        tempfile.TemporaryDirectory(prefix="candlecast-soak-") as folder,
        Leash() as leash,
        Broker(leash=leash) as broker,
    ):
        soak = Soak(broker, leash, Path(folder))
        result = asyncio.run(soak.run(options.symbols, options.candles))
    print(json.dumps(result))
    return 0


class Soak:
    """One worker on one broker."""

    def __init__(self, broker: Broker, leash: Leash, folder: Path) -> None:
        self._broker = broker
        self._leash = leash
        self._folder = folder
        self._port = free_ports(1)[0]
        self._flags = [
            "--bootstrap", broker.bootstrap,
            "--candles-topic", NAMES.candles,
            "--forecasts-topic", NAMES.forecasts,
            "--group", NAMES.group,
            "--partitions", str(PARTITIONS),
            "--metrics-port", str(self._port),
        ]  # fmt: skip

    async def run(self, symbols: int, candles: int) -> dict[str, Any]:
        """Feed whole days until so many candles are done; return the figures."""
        length = bundle.load(bundle.default_path()).config.window_length
        days = candles // symbols
        market = Market(symbols, length, days)
        settings = WorkerSettings.read(self._flags, "soak")
        await topics.ensure(settings, topics.all_topics(settings, settings.group))
        producer = AIOKafkaProducer(
            bootstrap_servers=self._broker.bootstrap, max_batch_size=2 * BATCH_BYTES
        )
        consumer = AIOKafkaConsumer(bootstrap_servers=self._broker.bootstrap)
        await producer.start()
        await consumer.start()
        try:
            return await self._measure(Feed(producer, market), Watch(consumer), symbols, days)
        finally:
            await consumer.stop()
            await producer.stop()

    async def _measure(self, feed: Feed, watch: Watch, symbols: int, days: int) -> dict[str, Any]:
        await feed.seed(NAMES.changelog)
        worker = self._start()
        first = (await self._ready(worker))["candlecast_recovery_seconds"]
        say(f"{symbols} windows recovered in {first:.1f} s")
        rss, step = [], max(1, days // SAMPLES)
        for day in range(0, days, step):
            until = min(days, day + step)
            await feed.at_once(NAMES.candles, range(day, until))
            rss.append(await self._done(worker, watch, until * symbols))
            say(f"{until * symbols} candles, {rss[-1] / 1e6:.0f} MB")
        metrics = self._metrics()
        worker.kill()
        again = (await self._ready(self._start()))["candlecast_recovery_seconds"]
        return {
            "symbols": symbols,
            "candles": days * symbols,
            "resident_bytes": rss,
            "window_bytes": metrics["candlecast_window_bytes"],
            "recovery_seconds": {"fresh": first, "after_all_candles": again},
        }

    def _start(self) -> Process:
        argv = [sys.executable, "-m", "stream_app", *self._flags, "--session-seconds", "6"]
        return Process("stream_app", argv, log=self._folder / "worker.log", leash=self._leash)

    async def _ready(self, worker: Process) -> dict[str, float]:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            metrics = self._metrics()
            if metrics.get("candlecast_recovery_seconds"):
                return metrics
            await asyncio.sleep(0.2)
        raise TimeoutError(f"the worker was not ready in {READY_S:g} s:\n{worker.log_tail()}")

    async def _done(self, worker: Process, watch: Watch, forecasts: int) -> float:
        while await watch.count(NAMES.forecasts) < forecasts:
            if worker.exit_code is not None:
                raise RuntimeError(f"the worker ended:\n{worker.log_tail()}")
            await asyncio.sleep(0.2)
        return self._metrics()["process_resident_memory_bytes"]

    def _metrics(self) -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as got:
                text = got.read().decode()
        except OSError:
            return {}
        return {name: float(value) for name, value in re.findall(r"(?m)^(\w+) (\S+)$", text)}


def say(line: str) -> None:
    """Tell how far it is, on standard error."""
    print(line, file=sys.stderr, flush=True)
