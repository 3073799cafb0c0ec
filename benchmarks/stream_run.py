"""One contender's run: a backlog for throughput, paced candles for latency, bursts."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import psutil

from benchmarks.stream_contenders import ROOT, Contender, Place
from benchmarks.stream_kafka import PARTITIONS, Feed, Names, Watch
from benchmarks.stream_market import Market
from local.leash import Leash
from local.process import Process
from shared import topics

START_S: Final = 60.0
DONE_S: Final = 60.0
POLL_S: Final = 0.02


class BenchmarkError(Exception):
    """A contender that does not do its work."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    backlog_days: int
    paced: dict[int, int]  # candles a second -> days
    bursts: int
    burst_days: int

    @property
    def days(self) -> int:
        """Days that a market must have for it."""
        return self.backlog_days + sum(self.paced.values()) + self.bursts * self.burst_days


@dataclass(frozen=True)
class Usage:
    """What processes have used and made up to a moment."""

    wall_s: float
    cpu_s: float
    forecasts: int

    def rates_since(self, start: Usage) -> dict[str, float]:
        """Return rates from ``start`` on: by the processes' CPU time, and by the clock."""
        made = self.forecasts - start.forecasts
        cpu_s, wall_s = self.cpu_s - start.cpu_s, self.wall_s - start.wall_s
        return {
            "candles": made,
            "candles_per_cpu_second": round(made / cpu_s, 1),
            "candles_per_wall_second": round(made / wall_s, 1),
            "cpu_us_per_candle": round(cpu_s / made * 1e6, 1),
            "cores_used": round(cpu_s / wall_s, 2),
        }


class Group:
    """The running processes of one contender."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes
        self._measured = [psutil.Process(one.pid) for one in processes]

    def cpu_s(self) -> float:
        """Return the CPU time used, user and system."""
        times = [one.cpu_times() for one in self._measured]
        return sum(one.user + one.system for one in times)

    def resident_mb(self) -> float:
        """Return the resident memory."""
        return round(sum(one.memory_info().rss for one in self._measured) / 1e6, 1)

    def check(self) -> None:
        """Raise ``BenchmarkError`` when one has ended."""
        for one in self._processes:
            if one.exit_code is not None:
                raise BenchmarkError(
                    f"{one.name} ended with {one.exit_code}; its log ends:\n{one.log_tail()}"
                )

    def stop(self) -> None:
        """End them."""
        for one in self._processes:
            one.stop(10.0)


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
        self._day = 0

    async def prepare(self, label: str = "") -> Self:
        """Make the topics and put the known windows where the contender looks for them."""
        self.names = Names.of(f"{self._contender.name}{label}")
        config = {"message.timestamp.type": "LogAppendTime"}
        made = [
            topics.Topic(name, PARTITIONS, 1, config)
            for name in (
                self.names.candles, f"{self.names.candles}.dlq", self.names.forecasts
            )
        ]  # fmt: skip
        changelog = topics.Topic(self.names.changelog, PARTITIONS, 1, {"cleanup.policy": "compact"})
        if self._contender.has_changelog:
            made.append(changelog)
        await topics.ensure(self._place.bootstrap, made)
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
                    cwd=ROOT,
                    env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
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
        """Tell whether every candle that was sent has its forecast."""
        return await self._watch.count(self.names.forecasts) >= self._sent

    async def throughput(self, group: Group, seconds: float) -> dict[str, float]:
        """Measure what was sent, from the second day on, for at most some seconds."""
        made = await self._watch.count(self.names.forecasts)
        start = await self._until(group, max(made, self._market.symbols), START_S)
        end = await self._until(group, self._sent, seconds, stop_at_timeout=True)
        return {**end.rates_since(start), "resident_mb": group.resident_mb()}

    async def _until(
        self, group: Group, forecasts: int, timeout_s: float, *, stop_at_timeout: bool = False
    ) -> Usage:
        deadline = time.monotonic() + timeout_s
        while True:
            count = await self._watch.count(self.names.forecasts)
            usage = Usage(time.monotonic(), group.cpu_s(), count)
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

    async def paced(self, group: Group, rate: int, days: int) -> dict[str, float]:
        """Measure latency from append to append while candles come evenly."""
        before = [await self._watch.ends(one) for one in (self.names.candles, self.names.forecasts)]
        start = Usage(time.monotonic(), group.cpu_s(), self._sent)
        await self._feed.paced(self.names.candles, self._next_days(days), rate)
        end = await self._until(group, self._sent, DONE_S)
        came = await self._watch.appended_ms(before[0], "close_ms")
        made = await self._watch.appended_ms(before[1], "as_of_ms")
        latencies = np.array([made[one] - at for one, at in came.items()])  # ms
        p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9])
        return {
            "p50": float(p50),
            "p99": float(p99),
            "p99_9": float(p999),
            "max": float(latencies.max()),
            "candles": len(latencies),
            "cpu_us_per_candle": end.rates_since(start)["cpu_us_per_candle"],
        }

    async def burst(self, group: Group, days: int) -> float:
        """Return the seconds from a burst's first candle to its last forecast."""
        before = [await self._watch.ends(one) for one in (self.names.candles, self.names.forecasts)]
        await self.send(days)
        await self._until(group, self._sent, DONE_S)
        came = await self._watch.appended_ms(before[0], "close_ms")
        made = await self._watch.appended_ms(before[1], "as_of_ms")
        return (max(made.values()) - min(came.values())) / 1000


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)
