"""Measures the stream worker beside other ways to do its work, on the embedded broker.

All get the same candles (500 symbols whose windows are full) and the same bundle. Each process is
measured by its own CPU time, so that the broker, the sender and other work on the machine do not
count; ``candles_per_second`` is candles by second of CPU time, which is what one core does. Rates
by the clock and the number of cores in use stand beside them. Latency is from the broker's append
of a candle to its append of the forecast.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.stream_contenders import CONTENDERS, ROOT, Contender, Place
from benchmarks.stream_kafka import Feed, Watch
from benchmarks.stream_market import INTERVAL, Market
from benchmarks.stream_run import BenchmarkError, Plan, Run, half_a_core_each, tell
from local.broker import Broker
from shared import bundle
from shared.leash import Leash

SYMBOLS: Final = 500
WORKER: Final = CONTENDERS[0]
AGAINST_ROUNDS: Final = 3
JOIN_S: Final = 6.0
"""Time that a group gets to assign its partitions to two workers."""

FULL: Final = Plan(
    backlog_days=120,
    crew_days=120,
    by_turns=True,
    paced={500: 20, 2000: 60},
    bursts=5,
    burst_days=10,
)
QUICK: Final = Plan(
    backlog_days=40,
    crew_days=100,
    by_turns=False,
    paced={500: 6, 2000: 16},
    bursts=3,
    burst_days=10,
)


@dataclass(frozen=True)
class Bench:
    """Broker clients, market and plan of a run."""

    place: Place
    market: Market
    feed: Feed
    watch: Watch
    leash: Leash
    plan: Plan

    async def measure(self, contender: Contender, *, with_latency: bool) -> dict[str, Any]:
        """Measure one contender."""
        tell(f"{contender.name}: {self.plan.backlog_days * SYMBOLS} candles wait")
        run = Run(contender, self.place, self.market, self.feed, self.watch)
        await run.prepare()
        await run.send(self.plan.backlog_days)
        group = run.start(self.leash)
        try:
            result: dict[str, Any] = await run.throughput(group, contender.probe_seconds)
            tell(f"{contender.name}: {result}")
            keeps_up = result["candles_per_wall_second"]
            if with_latency and await run.is_done():
                result["latency_ms"] = {
                    str(rate): await run.paced(group, rate, days)
                    for rate, days in self.plan.paced.items()
                    if keeps_up > rate
                }
                tell(f"{contender.name}: latency {result['latency_ms']}")
                result["burst"] = await self._bursts(run, group, keeps_up)
                result["resident_mb"] = group.resident_mb()
        finally:
            group.stop()
        return result

    async def _bursts(self, run: Run, group: Any, keeps_up: float) -> dict[str, float]:
        took = [await run.burst(group, self.plan.burst_days) for _ in range(self.plan.bursts)]
        candles = self.plan.burst_days * SYMBOLS
        median_s = statistics.median(took)
        return {
            "candles": candles,
            "seconds": round(median_s, 3),
            "candles_per_second": round(candles / median_s, 1),
            "over_throughput_time": round(median_s / (candles / keeps_up), 3),
        }

    async def crew(self, workers: int) -> dict[str, dict[str, float]]:
        """Measure workers of one group that wait for a backlog with their partitions assigned.

        Once with what of the machine the broker leaves them, and in a full run once by turns, with
        half a core each, so that on two cores the broker always has one.
        """
        run = Run(WORKER, self.place, self.market, self.feed, self.watch)
        await run.prepare(f"-crew-{workers}")
        group = run.start(self.leash, workers)
        try:
            await asyncio.sleep(JOIN_S)
            await run.warm_up(group)
            await run.send(self.plan.crew_days)
            counted = {"free": await run.throughput(group, WORKER.probe_seconds)}
            if self.plan.by_turns:
                await run.send(self.plan.crew_days)
                async with half_a_core_each(group):
                    half = await run.throughput(group, 2 * WORKER.probe_seconds)
                counted["half_a_core"] = half
            return counted
        finally:
            group.stop()


async def against(bench: Bench, checkout: Path) -> dict[str, Any]:
    """Return the throughput of this worker and of another checkout's, by turns."""
    contenders = (WORKER, replace(WORKER, name="worker-against", checkout=checkout))
    rounds: list[list[float]] = []
    for number in range(AGAINST_ROUNDS):
        rates = []
        for contender in contenders:
            run = Run(contender, bench.place, bench.market, bench.feed, bench.watch)
            await run.prepare(f"-round-{number}")
            await run.send(bench.plan.backlog_days)
            group = run.start(bench.leash)
            try:
                counted = await run.throughput(group, contender.probe_seconds)
            finally:
                group.stop()
            rates.append(counted["candles_per_cpu_second"])
        tell(f"this {rates[0]}, that {rates[1]} candles/s a core")
        rounds.append(rates)
    this, that = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratio = statistics.median(rate / other for rate, other in rounds)
    return {"this": this, "that": that, "ratio": round(ratio, 3), "rounds": rounds}


async def measure_all(bench: Bench, names: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """Return the results of the contenders named."""
    results = {}
    for contender in CONTENDERS:
        if contender.name in names:
            results[contender.name] = await bench.measure(
                contender, with_latency=contender is WORKER or not quick
            )
    report: dict[str, Any] = {
        "candles_per_second": {
            name: result["candles_per_cpu_second"] for name, result in results.items()
        },
        "latency_ms": results.get("worker", {}).get("latency_ms"),
        "burst": results.get("worker", {}).get("burst"),
        "contenders": results,
    }
    if "worker" in names:
        report["two_workers"] = await two_workers(bench)
    return report | ratios(report["candles_per_second"])


async def two_workers(bench: Bench) -> dict[str, Any]:
    """Return what a second worker adds, by the clock and by the CPU time of each candle."""
    try:
        single, pair = await bench.crew(1), await bench.crew(2)
    except BenchmarkError as error:
        return {"error": str(error)}
    tell(f"one worker {single}\ntwo workers {pair}")
    by_clock = {
        how: times(single[how], pair[how], "candles_per_wall_second")
        for how in single.keys() & pair.keys()
    }
    return {
        "times_one_by_clock": by_clock,
        "times_one_by_cpu": 2 * times(single["free"], pair["free"], "candles_per_cpu_second"),
        "one": single,
        "two": pair,
    }


def times(first: dict[str, float], second: dict[str, float], name: str) -> float:
    """Return the ratio of the second result's figure to the first's."""
    return round(second[name] / first[name], 2)


def ratios(rates: dict[str, float]) -> dict[str, Any]:
    """Return how many times faster than each other contender the worker is."""
    if "worker" not in rates:
        return {}
    return {
        "worker_over": {
            name: round(rates["worker"] / rate, 2)
            for name, rate in rates.items()
            if name != "worker"
        }
    }


async def run(options: argparse.Namespace, folder: Path, broker: Broker, leash: Leash) -> Any:
    """Connect, measure and return the report."""
    bootstrap = broker.bootstrap
    plan = QUICK if options.quick else FULL
    window_length = bundle.load(bundle.default_path()).config.window_lengths[INTERVAL][-1]
    market = Market(SYMBOLS, window_length, plan.days)
    windows = folder / "windows.npy"
    market.save_windows(windows)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=1 << 18)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, max_partition_fetch_bytes=1 << 22)
    await producer.start()
    await consumer.start()
    try:
        place = Place(bootstrap, folder, windows, options.peers_python, broker.pid)
        bench = Bench(place, market, Feed(producer, market), Watch(consumer), leash, plan)
        if options.against:
            report = {"against": await against(bench, options.against.resolve())}
        else:
            report = await measure_all(bench, options.only.split(","), quick=options.quick)
    finally:
        await producer.stop()
        await consumer.stop()
    return report | {
        "machine": {"cores": os.cpu_count(), "load": [round(load, 1) for load in os.getloadavg()]},
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks stream", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in less than two minutes")
    parser.add_argument(
        "--only",
        default=",".join(contender.name for contender in CONTENDERS),
        help="names, by comma",
    )
    parser.add_argument(
        "--peers-python",
        type=Path,
        default=ROOT / ".venv-peers" / "bin" / "python",
        help="Python of the environment that has Quix Streams; `make bench` makes it",
    )
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="measure the worker of another checkout instead"
    )
    options = parser.parse_args(argv)
    options.peers_python = options.peers_python.absolute()
    with tempfile.TemporaryDirectory(prefix="candlecast-bench-") as folder, Leash() as leash:
        try:
            with Broker(Path(folder) / "kafka", leash=leash, heap_mb=512) as broker:
                report = asyncio.run(run(options, Path(folder), broker, leash))
        except BenchmarkError as error:
            print(f"python -m benchmarks stream: {error}", file=sys.stderr)
            return 1
    print(json.dumps(report))
    return 0
