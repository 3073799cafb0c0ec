"""Run of one contender: a backlog for throughput, paced candles for latency, bursts."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Final, Self

import numpy as np
import psutil

from benchmarks.stream_contenders import Contender, Place
from benchmarks.stream_kafka import PARTITIONS, Feed, Names, Offsets, Watch
from benchmarks.stream_market import Market
from local.process import Process
from shared import topics
from shared.kafka import KafkaSettings
from shared.leash import Leash

START_S: Final = 60.0
DONE_S: Final = 60.0
POLL_S: Final = 0.02
SLICE_S: Final = 0.02
"""Turn of a worker that shares a core with another."""


class BenchmarkError(Exception):
    """A contender that ended or fell behind."""


@dataclass(frozen=True)
class Plan:
    """Amount of candles that a run measures."""

    backlog_days: int
    crew_days: int  # of one worker's and two workers' backlog
    by_turns: bool  # measure them at half a core each too
    paced: dict[int, int]  # candles a second -> days
    bursts: int
    burst_days: int

    @property
    def days(self) -> int:
        """Days that a market must have for it."""
        latency = sum(self.paced.values()) + self.bursts * self.burst_days
        return max(self.backlog_days + latency, 1 + 2 * self.crew_days)


@dataclass(frozen=True)
class Usage:
    """CPU time and forecasts of the processes up to a moment."""

    wall_s: float
    cpu_s: float
    broker_cpu_s: float
    forecasts: int

    def rates_since(self, start: Usage) -> dict[str, float]:
        """Return rates from ``start`` on: by the processes' CPU time, and by the clock."""
        forecasts = self.forecasts - start.forecasts
        cpu_s, wall_s = self.cpu_s - start.cpu_s, self.wall_s - start.wall_s
        broker_cpu_s = self.broker_cpu_s - start.broker_cpu_s
        return {
            "candles": forecasts,
            "candles_per_cpu_second": round(forecasts / cpu_s, 1),
            "candles_per_wall_second": round(forecasts / wall_s, 1),
            "cpu_us_per_candle": round(cpu_s / forecasts * 1e6, 1),
            "broker_us_per_candle": round(broker_cpu_s / forecasts * 1e6, 1),
            "cores_used": round(cpu_s / wall_s, 2),
        }


class Group:
    """The running processes of one contender."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes
        self._measured = [psutil.Process(process.pid) for process in processes]

    def cpu_s(self) -> float:
        """Return the CPU time used, user and system."""
        return sum(cpu_s(process) for process in self._measured)

    def resident_mb(self) -> float:
        """Return the resident memory."""
        return round(sum(process.memory_info().rss for process in self._measured) / 1e6, 1)

    def check(self) -> None:
        """Raise ``BenchmarkError`` when one has ended."""
        for process in self._processes:
            if process.exit_code is not None:
                raise BenchmarkError(
                    f"{process.name} ended with {process.exit_code}; "
                    f"its log ends:\n{process.log_tail()}"
                )

    def let_run(self, turn: int) -> None:
        """Let every second process run, from the one at ``turn`` on, and stop the others."""
        for number, process in enumerate(self._measured):
            if number % 2 == turn:
                process.resume()
            else:
                process.suspend()

    def resume(self) -> None:
        """Let all of them go on."""
        for process in self._measured:
            process.resume()

    def stop(self) -> None:
        """End them."""
        for process in self._processes:
            process.stop(10.0)


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU time that a process has used, user and system."""
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def half_a_core_each(group: Group) -> AsyncIterator[None]:
    """Let one or two processes run by turns, so that together they never have more than a core."""

    async def alternate() -> None:
        for turn in cycle((0, 1)):
            group.let_run(turn)
            await asyncio.sleep(SLICE_S)

    task = asyncio.create_task(alternate())
    try:
        yield
    finally:
        task.cancel()
        group.resume()


class Run:
    """One contender on topics of its own, fed with the days of the market one after another."""

    def __init__(
        self, contender: Contender, place: Place, market: Market, feed: Feed, watch: Watch
    ) -> None:
        self._contender = contender
        self._place = place
        self._market = market
        self._feed = feed
        self._watch = watch
        self._broker = psutil.Process(place.broker_pid)
        self._day = 0

    async def prepare(self, label: str = "") -> Self:
        """Make the topics and put the known windows where the contender looks for them."""
        self.names = Names.of(f"{self._contender.name}{label}")
        config = {"message.timestamp.type": "LogAppendTime"}
        needed = [
            topics.Topic(name, PARTITIONS, 1, config)
            for name in (
                self.names.candles, f"{self.names.candles}.dlq", self.names.forecasts
            )
        ]  # fmt: skip
        changelog = topics.Topic(
            self.names.changelog,
            PARTITIONS,
            1,
            {"cleanup.policy": "compact", **topics.BROKERS_TIME},
        )
        if self._contender.has_changelog:
            needed.append(changelog)
        settings = KafkaSettings.read(["--bootstrap", self._place.bootstrap], "benchmarks")
        await topics.ensure(settings, needed)
        if self._contender.has_changelog:
            await self._feed.seed(self.names.changelog)
        return self

    def start(self, leash: Leash, count: int = 1) -> Group:
        """Start the contender's processes."""
        argv = self._contender.argv(self._place, self.names)
        self._place.folder.joinpath(self.names.group).mkdir(exist_ok=True)
        return Group(
            [
                Process(
                    self._contender.name,
                    argv,
                    log=self._place.folder / f"{self.names.group}-{number}.log",
                    leash=leash,
                    cwd=self._contender.checkout,
                    env={
                        "PYTHONPATH": str(self._contender.checkout),
                        "OMP_NUM_THREADS": "1",
                    },
                )
                for number in range(count)
            ]
        )

    def _next_days(self, count: int) -> range:
        days = range(self._day, self._day + count)
        self._day += count
        if self._day > self._market.days:
            raise BenchmarkError(f"the market has {self._market.days} days, asked for {self._day}")
        return days

    @property
    def _sent(self) -> int:
        return self._day * self._market.symbols

    async def send(self, days: int) -> None:
        """Send days as fast as the broker takes them."""
        await self._feed.at_once(self.names.candles, self._next_days(days))

    async def warm_up(self, group: Group) -> None:
        """Send one day and wait for its forecasts."""
        await self.send(1)
        await self._until(group, self._sent, START_S)

    async def is_done(self) -> bool:
        """Return True when every candle that was sent has its forecast."""
        return await self._watch.count(self.names.forecasts) >= self._sent

    async def throughput(self, group: Group, seconds: float) -> dict[str, float]:
        """Measure what was sent, from the second day on, for at most some seconds."""
        forecasts = await self._watch.count(self.names.forecasts)
        start = await self._until(group, max(forecasts, self._market.symbols), START_S)
        end = await self._until(group, self._sent, seconds, stop_at_timeout=True)
        return {**end.rates_since(start), "resident_mb": group.resident_mb()}

    async def _until(
        self, group: Group, forecasts: int, timeout_s: float, *, stop_at_timeout: bool = False
    ) -> Usage:
        deadline = time.monotonic() + timeout_s
        while True:
            count = await self._watch.count(self.names.forecasts)
            usage = self._usage(group, count)
            if count >= forecasts:
                return usage
            group.check()
            if usage.wall_s > deadline:
                if stop_at_timeout:
                    return usage
                raise BenchmarkError(
                    f"{self._contender.name}: {count} of {forecasts} forecasts in {timeout_s:g} s"
                )
            await asyncio.sleep(POLL_S)

    def _usage(self, group: Group, forecasts: int) -> Usage:
        return Usage(time.monotonic(), group.cpu_s(), cpu_s(self._broker), forecasts)

    async def _changelog_ends(self) -> Offsets:
        if not self._contender.has_changelog:
            return {}
        return await self._watch.ends(self.names.changelog)

    async def paced(self, group: Group, rate: int, days: int) -> dict[str, float]:
        """Measure latency from append to append while candles come evenly."""
        before = [
            await self._watch.ends(topic) for topic in (self.names.candles, self.names.forecasts)
        ]
        written = await self._changelog_ends()
        start = self._usage(group, self._sent)
        await self._feed.paced(self.names.candles, self._next_days(days), rate)
        end = await self._until(group, self._sent, DONE_S)
        candle_ms = await self._watch.appended_ms(before[0], "close_ms")
        forecast_ms = await self._watch.appended_ms(before[1], "as_of_ms")
        latencies = np.array([forecast_ms[candle] - at for candle, at in candle_ms.items()])  # ms
        changelog_bytes = await self._watch.size(written)
        p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9])
        return {
            "p50": float(p50),
            "p99": float(p99),
            "p99_9": float(p999),
            "max": float(latencies.max()),
            "candles": len(latencies),
            "cpu_us_per_candle": end.rates_since(start)["cpu_us_per_candle"],
            "changelog_bytes_per_candle": round(changelog_bytes / len(latencies), 1),
        }

    async def burst(self, group: Group, days: int) -> float:
        """Return the seconds from a burst's first candle to its last forecast."""
        before = [
            await self._watch.ends(topic) for topic in (self.names.candles, self.names.forecasts)
        ]
        await self.send(days)
        await self._until(group, self._sent, DONE_S)
        candle_ms = await self._watch.appended_ms(before[0], "close_ms")
        forecast_ms = await self._watch.appended_ms(before[1], "as_of_ms")
        return (max(forecast_ms.values()) - min(candle_ms.values())) / 1000


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)
