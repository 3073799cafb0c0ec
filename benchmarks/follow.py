"""Measures an API that follows many symbols: its memory, its start, and its return after a stall.

A worker forecasts some days of all symbols. Then the API starts with its defaults and reads them;
it follows a burst of all symbols; it is stopped (SIGSTOP) while more comes, and goes on. Each
time is to the moment that ``/v1/status`` says that nothing waits and that all symbols are there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import httpx
import psutil

from benchmarks.burst import SYMBOLS, Bench, Crowd, Worker, measure
from benchmarks.stream_contenders import worker_flags
from benchmarks.stream_kafka import Feed, Names
from benchmarks.stream_run import BenchmarkError, cpu_s, tell
from local.ports import HOST, free_ports
from local.process import Process

KNOWN_DAYS: Final = 6
"""Days that are there at the start: more than the look-back holds of 10,000 symbols."""

STALL_DAYS: Final = (1, 4, 8)
"""Days that come while the API is stopped: less than the look-back, nearly it, and more."""

LIVE_S: Final = 180.0
SHOWN: Final = 50
"""Symbols whose newest forecast is requested."""


class Api:
    """An API on the topics of a worker."""

    def __init__(self, bench: Bench, names: Names) -> None:
        [self._port] = free_ports(1)
        flags = worker_flags(bench.broker.bootstrap, names)
        flags = flags[: flags.index("--group")] + flags[flags.index("--partitions") :]
        flags[flags.index("--metrics-port") :] = ["--port", str(self._port)]
        self.process: Process = bench.start("api", *flags, "--no-access-log")

    async def live(self, symbols: int) -> float:
        """Wait until nothing waits; return the seconds that took."""
        began_s = time.monotonic()
        status: dict[str, Any] = {}
        while not (status.get("connected") and status["lag"] == 0 and status["series"] == symbols):
            if self.process.exit_code is not None or time.monotonic() - began_s > LIVE_S:
                known = {name: status.get(name) for name in ("connected", "lag", "series")}
                raise BenchmarkError(f"not live: {known}\n{self.process.log_tail()}")
            await asyncio.sleep(0.05)
            status = await self._get("/v1/status") or {}
        return round(time.monotonic() - began_s, 2)

    async def shows(self, symbol: str) -> bool:
        """Tell whether the newest forecast of a symbol is there."""
        return bool(await self._get(f"/v1/forecasts/{symbol}"))

    async def _get(self, path: str) -> dict[str, Any] | None:
        try:
            async with httpx.AsyncClient(timeout=2.0) as client:
                answer = await client.get(f"http://{HOST}:{self._port}{path}")
        except httpx.TransportError:
            return None
        found: dict[str, Any] = answer.json()
        return found if answer.is_success else None

    def cpu_seconds(self) -> float:
        """Return its CPU time: unlike time on a clock, little changed by what else runs."""
        return cpu_s(psutil.Process(self.process.pid))

    def resident_mb(self) -> float:
        """Return its resident memory."""
        return round(psutil.Process(self.process.pid).memory_info().rss / 1e6, 1)


async def run(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Measure and return the report."""
    stalls = STALL_DAYS[:1] if options.quick else STALL_DAYS
    days = KNOWN_DAYS + 1 + sum(stalls)
    crowd = Crowd(options.symbols, days)
    feed, names = Feed(bench.producer, crowd), await bench.topics("follow")
    await feed.seed(names.changelog)
    worker = Worker(bench, names)
    await worker.ready()
    day = 0

    async def send(count: int) -> None:
        nonlocal day
        for _ in range(count):
            await bench.burst(names, feed, worker.process, day)
            day += 1

    try:
        await send(KNOWN_DAYS)
        api = Api(bench, names)
        start_s = await api.live(options.symbols)
        start_cpu_s = api.cpu_seconds()
        resident = [api.resident_mb()]
        tell(f"live {start_s} s after its start, {resident[0]} MB")
        await send(1)
        behind_s = await api.live(options.symbols)
        resident.append(api.resident_mb())
        tell(f"a burst: live {behind_s} s after the worker, {resident[1]} MB")
        stalled = []
        for missed in stalls:
            os.kill(api.process.pid, signal.SIGSTOP)
            await send(missed)
            before_s = api.cpu_seconds()
            os.kill(api.process.pid, signal.SIGCONT)
            seconds = await api.live(options.symbols)
            resident.append(api.resident_mb())
            took_s = round(api.cpu_seconds() - before_s, 2)
            missed_messages = 3 * missed * options.symbols  # candles, forecasts and scores
            stalled.append({"missed": missed_messages, "seconds": seconds, "cpu_seconds": took_s})
            tell(f"stall: {stalled[-1]}, {resident[-1]} MB")
        step = max(1, options.symbols // SHOWN)
        asked = [f"N{number:05d}" for number in range(0, options.symbols, step)]
        shown = sum([await api.shows(symbol) for symbol in asked])
    finally:
        worker.process.stop(10)
    api.process.stop(10)
    return {
        "symbols": options.symbols,
        "start_seconds": start_s,
        "start_cpu_seconds": round(start_cpu_s, 2),
        "behind_the_worker_seconds": behind_s,
        "stalls": stalled,
        "resident_mb": resident,
        "shown": shown / len(asked),
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks follow", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one stall instead of three")
    parser.add_argument("--symbols", type=int, default=SYMBOLS)
    options = parser.parse_args(argv)
    return measure("follow", partial(run, options))
