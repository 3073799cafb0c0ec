"""Times polls of many symbols beside ``yf.download`` with threads, on the stand-in of Yahoo.

The stand-in runs in a process of its own and delays each response. ``process`` is ``python -m
producer --once`` from its start to its end, with Kafka: of each symbol the window's candles are
published. ``producer_first`` is the same poll alone, and ``producer`` the poll of each minute
thereafter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import yfinance
from curl_cffi import requests as curl
from prometheus_client import CollectorRegistry

from local.broker import Broker
from local.yahoo import YahooStandIn, real_now_ms
from local.yahoo.market import chart, open_now
from producer.resume import newest_published
from producer.settings import ProducerSettings
from producer.source import RECHECKED
from producer.yahoo.client import Yahoo
from producer.yahoo.fetcher import Fetcher
from producer.yahoo.gate import Gate
from producer.yahoo.polling import PollingSource
from shared.candles import Candle
from shared.leash import Leash
from shared.metrics import ProducerMetrics
from shared.topics import partitions_of

SYMBOLS: Final = 500
"""Symbols to poll."""

QUICK_SYMBOLS: Final = 60
"""Symbols to poll with ``--quick``."""

LATENCY_S: Final = 0.1
"""Delay of each response."""

GOAL_S: Final = 8.0
"""Longest time that a poll of all symbols may take."""


@dataclass(frozen=True)
class Round:
    """Cost of one poll of all symbols."""

    seconds: float
    cpu_ms_per_symbol: float
    symbols: int

    @classmethod
    def of(cls, work: Callable[[], int]) -> Self:
        """Run a poll that returns the number of symbols with candles."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        symbols = work()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        return cls(round(wall_s, 2), round(cpu_s * 1000 / max(symbols, 1), 2), symbols)

    def as_dict(self) -> dict[str, float]:
        """Return the cost for JSON."""
        return {
            "seconds": self.seconds,
            "cpu_ms_per_symbol": self.cpu_ms_per_symbol,
            "symbols": self.symbols,
        }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks producer", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SYMBOLS} symbols")
    parser.add_argument("--symbols", type=int, default=SYMBOLS)
    parser.add_argument("--latency", type=float, default=LATENCY_S, help="seconds of each response")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    count = QUICK_SYMBOLS if options.quick else options.symbols
    if options.serve:
        return _serve(count, options.latency)
    with _stand_in(count, options.latency) as (proxy, ca_bundle):
        result: dict[str, Any] = {"process": _process(count, proxy, ca_bundle).as_dict()}
        result |= _compare(count, proxy, Path(ca_bundle))
    result |= {"latency_ms": options.latency * 1000, "goal_s": GOAL_S}
    print(json.dumps(result))
    return 0


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"SYM{number:03d}" for number in range(count))


def _compare(count: int, proxy: str, ca_bundle: Path) -> dict[str, Any]:
    symbols = _names(count)
    with tempfile.TemporaryDirectory() as cache:
        yahoo = Yahoo(Path(cache), proxy, ca_bundle)
        ours = _Ours(yahoo, symbols)
        first = Round.of(ours.poll)
        ours.forget_newest()
        again = Round.of(ours.poll)
        ours.close()
        verify: Any = str(ca_bundle)
        session: Any = curl.Session(impersonate="chrome", proxy=proxy, verify=verify)
        _download(symbols[:4], session)
        theirs = Round.of(lambda: _download(symbols, session))
    return {
        "producer_first": first.as_dict(),
        "producer": again.as_dict(),
        "yf_download": theirs.as_dict(),
        "times_faster": round(theirs.seconds / again.seconds, 1),
        "times_less_cpu": round(theirs.cpu_ms_per_symbol / again.cpu_ms_per_symbol, 1),
    }


def _process(count: int, proxy: str, ca_bundle: str) -> Round:
    """Run the producer as a process once, and count the symbols that the topic then holds."""
    with Leash() as leash, Broker(leash=leash) as broker, tempfile.TemporaryDirectory() as folder:
        broker.wait_ready()
        listed = Path(folder) / "symbols.txt"
        listed.write_text("\n".join(_names(count)))
        command = [
            sys.executable, "-m", "producer", "--source", "yfinance", "--interval", "1m", "--once",
            "--symbols-file", str(listed), "--proxy", proxy, "--ca-bundle", ca_bundle,
            "--bootstrap", broker.bootstrap, "--metrics-port", "0", "--log-level", "WARNING",
        ]  # fmt: skip
        cpu_s, wall_s = _cpu_of_children_s(), time.perf_counter()
        subprocess.run(command, check=True, timeout=120)  # noqa: S603
        wall_s, cpu_s = time.perf_counter() - wall_s, _cpu_of_children_s() - cpu_s
        symbols = asyncio.run(_symbols_in_topic(broker.bootstrap, _names(count)))
    return Round(round(wall_s, 2), round(cpu_s * 1000 / max(symbols, 1), 2), symbols)


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _symbols_in_topic(bootstrap: str, symbols: Sequence[str]) -> int:
    settings = ProducerSettings.read(["--bootstrap", bootstrap], "benchmarks")
    numbers = await partitions_of(settings, settings.candles_topic)
    return len(await newest_published(settings, numbers, symbols, "1m"))


class _Ours:
    """The polling source with the producer's defaults; the first poll publishes a window."""

    def __init__(self, yahoo: Yahoo, symbols: tuple[str, ...]) -> None:
        self._yahoo = yahoo
        self._symbols = symbols
        self._settings = ProducerSettings.read([], "benchmarks")
        self._pool = _KeptPool(self._settings.threads)
        self._published: dict[str, list[Candle]] = {}

    def poll(self) -> int:
        return asyncio.run(self._poll())

    async def _poll(self) -> int:
        metrics, window = ProducerMetrics(CollectorRegistry()), self._settings.window_candles
        gate = Gate(metrics, rate=self._settings.rate, burst=self._settings.burst)
        fetcher = Fetcher(self._yahoo.poll, "1m", gate, metrics, pool=self._pool)
        source = PollingSource(
            self._symbols, fetcher, poll_ms=60_000, window=window, history=window, once=True
        )
        by_symbol: dict[str, list[Candle]] = {}
        async for publication in source.candles(self._published):
            by_symbol.setdefault(publication.candle.symbol, []).append(publication.candle)
        self._published = {symbol: candles[-RECHECKED:] for symbol, candles in by_symbol.items()}
        return len(by_symbol)

    def forget_newest(self) -> None:
        """Let the newest candle of each symbol be new again, as if a minute had passed."""
        self._published = {symbol: candles[:-1] for symbol, candles in self._published.items()}

    def close(self) -> None:
        self._pool.end()


class _KeptPool(ThreadPoolExecutor):
    """Threads that stay from poll to poll, as those of a running producer do."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        del wait, cancel_futures

    def end(self) -> None:
        super().shutdown(wait=True)


def _download(symbols: Sequence[str], session: Any) -> int:
    download: Any = yfinance.download
    frame = download(
        list(symbols), period="1d", interval="1m", threads=True, progress=False, session=session,
        auto_adjust=False, group_by="ticker",
    )  # fmt: skip
    closes = frame.xs("Close", axis=1, level=1)
    return int(closes.notna().any().sum())


def _serve(count: int, latency_s: float) -> int:
    now_ms = real_now_ms()
    listing = open_now("SYM000", now_ms, price=100.0)
    names = frozenset(_names(count))

    @cache
    def document(query: tuple[tuple[str, str], ...]) -> bytes:
        result = chart(listing, dict(query), now_ms)
        return json.dumps({"chart": {"result": [result], "error": None}}).encode()

    def canned(symbol: str, query: Mapping[str, str]) -> bytes | None:
        if symbol not in names:
            return None
        return document(
            tuple(
                # to the minute, so that all symbols share one response
                (name, str(int(value) // 60 * 60) if name.startswith("period") else value)
                for name, value in query.items()
                if name in {"interval", "range", "period1", "period2"}
            )
        )

    with YahooStandIn() as stand_in:
        stand_in.server.delay_s = latency_s
        stand_in.server.canned = canned
        print(json.dumps([stand_in.proxy_url, str(stand_in.ca_bundle)]), flush=True)
        sys.stdin.read()  # until the benchmark ends
    return 0


@contextmanager
def _stand_in(count: int, latency_s: float) -> Any:
    command = [
        sys.executable, "-m", "benchmarks", "producer", "--serve",
        "--symbols", str(count), "--latency", str(latency_s),
    ]  # fmt: skip
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(20)
