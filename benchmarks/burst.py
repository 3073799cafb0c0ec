"""Measures what happens when all symbols close at one instant, and how many windows recover.

``burst``: one candle of each symbol is sent at once to a worker that is idle, and to a bare loop
that only consumes and produces the same bytes, by turns on the same broker. Seconds are from the
broker's append of the first candle to its append of the last forecast. ``recovery``: the windows
of many symbols are read from the changelog, and then each gets candles.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.stream_contenders import ROOT, worker_flags
from benchmarks.stream_kafka import PARTITIONS, Feed, Names, Watch
from benchmarks.stream_market import INTERVAL, Market, Message
from benchmarks.stream_run import BenchmarkError, cpu_s, tell
from local.broker import Broker
from local.ports import HOST, free_ports
from local.process import Process
from shared import bundle, topics
from shared.leash import Leash
from stream_app.settings import WorkerSettings

SYMBOLS: Final = 10_000
WINDOWS: Final = 50_000
WALKS: Final = 200
"""Different price histories; the symbols share them."""

START_S: Final = 120.0
DONE_S: Final = 120.0
REST_S: Final = 1.0
"""Time between two bursts: one commit, and what it frees."""


class Crowd(Market):
    """Many symbols with the prices of a few."""

    def __init__(self, symbols: int, days: int) -> None:
        length = bundle.load(bundle.default_path()).config.window_lengths[INTERVAL][-1]
        super().__init__(min(symbols, WALKS), length, days)
        self._named = dict(super().states())
        self.count = symbols

    def day(self, number: int) -> list[Message]:
        walked = super().day(number)
        return [
            Message(name.encode(), walked[row].value.replace(walked[row].key, name.encode(), 1))
            for name, row in self._names()
        ]

    def states(self) -> Any:
        states = list(self._named.values())
        return ((f"{name}|1d".encode(), states[row]) for name, row in self._names())

    def _names(self) -> list[tuple[str, int]]:
        return [(f"N{number:05d}", number % self.symbols) for number in range(self.count)]


@dataclass(frozen=True)
class Bench:
    """The broker, its clients, and where logs go."""

    broker: Broker
    folder: Path
    leash: Leash
    producer: AIOKafkaProducer
    watch: Watch

    async def topics(self, label: str) -> Names:
        """Make the topics of a run."""
        names = Names.of(label)
        flags = worker_flags(self.broker.bootstrap, names)
        settings = WorkerSettings.read(flags, "benchmarks")
        await topics.ensure(settings, topics.all_topics(settings, settings.group))
        return names

    def start(self, module: str, *flags: str) -> Process:
        """Start a process on one thread of the model."""
        env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        log = self.folder / f"{module}-{time.monotonic_ns()}.log"
        return Process(
            module, [sys.executable, "-m", module, *flags],
            log=log, leash=self.leash, env=env, cwd=self.folder,
        )  # fmt: skip

    async def burst(self, names: Names, feed: Feed, process: Process, day: int) -> dict[str, float]:
        """Send one candle of each symbol at once, and wait for as many forecasts."""
        before = [await self.watch.ends(topic) for topic in (names.candles, names.forecasts)]
        done = sum(before[1].values())
        measured = psutil.Process(process.pid)
        start_cpu_s = cpu_s(measured)
        await feed.at_once(names.candles, range(day, day + 1))
        sent = sum((await self.watch.ends(names.candles)).values()) - sum(before[0].values())
        await self.until(names.forecasts, done + sent, process)
        stamps = [await self.watch.stamps(offsets) for offsets in before]
        return {
            "seconds": (stamps[1][1] - stamps[0][0]) / 1000,
            "cpu_seconds": round(cpu_s(measured) - start_cpu_s, 3),
        }

    async def until(self, topic: str, count: int, process: Process) -> None:
        """Wait for so many messages of a topic."""
        deadline = time.monotonic() + DONE_S
        while (got := await self.watch.count(topic)) < count:
            if process.exit_code is not None or time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{process.name}: {got} of {count} messages; its log ends:\n"
                    f"{process.log_tail()}"
                )
            await asyncio.sleep(0.02)


class Worker:
    """A worker and its figures."""

    def __init__(self, bench: Bench, names: Names) -> None:
        [self._port] = free_ports(1)
        flags = worker_flags(bench.broker.bootstrap, names)
        flags[flags.index("--metrics-port") + 1] = str(self._port)
        self.process = bench.start("stream_app", *flags)

    async def ready(self) -> None:
        """Wait for its windows."""
        deadline = time.monotonic() + START_S
        while not (await self._get("/readyz")).startswith("HTTP/1.0 200"):
            if self.process.exit_code is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"the worker is not ready:\n{self.process.log_tail()}")
            await asyncio.sleep(0.1)

    async def figure(self, name: str) -> float:
        """Return one of its metrics."""
        text = (await self._get("/metrics")).partition("\r\n\r\n")[2]
        return next(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )

    def resident_mb(self) -> float:
        """Return its resident memory."""
        return round(psutil.Process(self.process.pid).memory_info().rss / 1e6, 1)

    async def _get(self, path: str) -> str:
        try:
            reader, writer = await asyncio.open_connection(HOST, self._port)
        except OSError:
            return ""
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        return text


async def bursts(bench: Bench, symbols: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of bursts, of the worker and of the bare loop, by turns."""
    crowd = Crowd(symbols, rounds + 1)
    feed = Feed(bench.producer, crowd)
    names, bare = await bench.topics("burst"), await bench.topics("bare")
    await feed.seed(names.changelog)
    worker = Worker(bench, names)
    await worker.ready()
    resident = [worker.resident_mb()]
    took: dict[str, list[dict[str, float]]] = {"worker": [], "bare": []}
    carry: Process | None = None
    try:
        for day in range(rounds + 1):
            took["worker"].append(await bench.burst(names, feed, worker.process, day))
            resident.append(worker.resident_mb())
            tell(f"worker {took['worker'][-1]}, {resident[-1]} MB")
            if carry is None:  # its messages are as long as the worker's
                size = await bench.watch.mean_bytes(names.forecasts)
                carry = bench.start(
                    "benchmarks.peers.carry", "--bootstrap", bench.broker.bootstrap,
                    "--candles", bare.candles, "--forecasts", bare.forecasts,
                    "--partitions", str(PARTITIONS), "--value-bytes", str(size),
                )  # fmt: skip
                await bench.until(bare.forecasts, 1, carry)
            took["bare"].append(await bench.burst(bare, feed, carry, day))
            tell(f"bare {took['bare'][-1]}")
            await asyncio.sleep(REST_S)
    finally:
        worker.process.stop(10)
        if carry is not None:
            carry.stop(2)
    worst = {who: max(run["seconds"] for run in of[1:]) for who, of in took.items()}
    median = {who: statistics.median(run["seconds"] for run in of[1:]) for who, of in took.items()}
    return {
        "symbols": symbols,
        "seconds": median,
        "worst_seconds": worst,
        "first_seconds": {who: of[0]["seconds"] for who, of in took.items()},
        "cpu_seconds": {
            who: statistics.median(run["cpu_seconds"] for run in of[1:]) for who, of in took.items()
        },
        "worker_over_bare": round(median["worker"] / median["bare"], 2),
        "forecast_bytes": size,
        "resident_mb": resident,
    }


async def recovery(bench: Bench, windows: int, rounds: int) -> dict[str, Any]:
    """Return how long many windows take to recover, and their memory before and after bursts."""
    crowd = Crowd(windows, rounds)
    feed = Feed(bench.producer, crowd)
    names = await bench.topics("recovery")
    await feed.seed(names.changelog)
    worker = Worker(bench, names)
    try:
        await worker.ready()
        seconds = await worker.figure("candlecast_recovery_seconds")
        assert await worker.figure("candlecast_windows") == windows  # noqa: S101 - of a benchmark
        resident = [worker.resident_mb()]
        for day in range(rounds):
            await bench.burst(names, feed, worker.process, day)
            resident.append(worker.resident_mb())
        held_mb = await worker.figure("candlecast_window_bytes") / 1e6
    finally:
        worker.process.stop(10)
    return {
        "windows": windows,
        "seconds": round(seconds, 2),
        "window_mb": round(held_mb, 1),
        "resident_mb": resident,
    }


async def run(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Measure and return the report."""
    report: dict[str, Any] = {}
    rounds = 2 if options.quick else 5
    if options.symbols:
        report["burst"] = await bursts(bench, options.symbols, rounds)
    if options.windows:
        report["recovery"] = await recovery(bench, options.windows, rounds)
    load = [round(load, 1) for load in os.getloadavg()]
    return report | {"machine": {"cores": os.cpu_count(), "load": load}}


async def connect(options: argparse.Namespace, folder: Path, broker: Broker, leash: Leash) -> Any:
    """Run with clients of the broker."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, max_batch_size=1 << 18)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap, max_partition_fetch_bytes=1 << 22
    )
    async with producer, consumer:
        return await run(options, Bench(broker, folder, leash, producer, Watch(consumer)))


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks burst", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds instead of five")
    parser.add_argument("--symbols", type=int, default=SYMBOLS, help="of the burst; 0: none")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="to recover; 0: none")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="candlecast-bench-") as folder, Leash() as leash:
        try:
            with Broker(Path(folder) / "kafka", leash=leash, heap_mb=512) as broker:
                report = asyncio.run(connect(options, Path(folder), broker, leash))
        except BenchmarkError as error:
            print(f"python -m benchmarks burst: {error}", file=sys.stderr)
            return 1
    print(json.dumps(report))
    return 0
