"""Producers as real processes: starts them, reads their topic, log and metrics."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from local.process import Process
from local.yahoo import YahooStandIn, real_now_ms
from shared.candles import Candle, decode_candle
from tests.integration import topics
from tests.integration.processes import Processes, wait_until

PARTITIONS = 4


@dataclass(frozen=True)
class Producer:
    """Starts producers on one topic and reads it."""

    bootstrap: str
    topic: str
    processes: Processes
    partitions: int = PARTITIONS

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> Process:
        return self.processes.start(
            "producer",
            *("--bootstrap", self.bootstrap),
            *("--candles-topic", self.topic, "--forecasts-topic", f"{self.topic}.forecasts"),
            *("--partitions", str(self.partitions), "--metrics-port", "0", *args),
            env=env,
        )

    def finish(self, *args: str, timeout_s: float = 60.0) -> Process:
        """Run a producer that ends by itself, and expect success."""
        process = self.start(*args)
        wait_until(lambda: process.exit_code is not None, timeout_s, "the end of the producer")
        assert process.exit_code == 0, process.log_tail()
        return process

    def records(self) -> list[topics.Record]:
        return topics.read(self.bootstrap, self.topic)

    def candles(self) -> list[Candle]:
        """Return the topic's candles; each one decodes as a consumer's would."""
        now_ms = real_now_ms()
        return [decode_candle(record.key, record.value, now_ms) for record in self.records()]

    def count(self) -> int:
        return topics.count(self.bootstrap, self.topic)


def by_symbol(candles: list[Candle]) -> dict[str, list[Candle]]:
    return {
        symbol: [candle for candle in candles if candle.symbol == symbol]
        for symbol in sorted({candle.symbol for candle in candles})
    }


def log_of(process: Process) -> str:
    return process.log.read_text()


def status(process: Process, path: str) -> str:
    """Return the response of the producer's own port."""
    pattern = re.compile(r"metrics at (http://127\.0\.0\.1:\d+)/metrics")
    [url] = wait_until(lambda: pattern.findall(log_of(process)), 30, "its port", process=process)
    with urllib.request.urlopen(url + path, timeout=10) as response:  # noqa: S310
        return str(response.read().decode())


def samples(process: Process, name: str) -> dict[str, float]:
    """Return the samples of a metric whose name begins so, by the value of its first label."""
    families = text_string_to_metric_families(status(process, "/metrics"))
    return {
        next(iter(sample.labels.values()), ""): sample.value
        for family in families
        if family.name.startswith(name)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def polls_done(process: Process) -> float:
    return samples(process, "candlecast_polls").get("ok", 0.0)


def through(yahoo: YahooStandIn, interval: str, *args: str) -> list[str]:
    return [
        *("--source", "yfinance", "--symbols", "GOOD,BAD,OTHER", "--interval", interval),
        *("--proxy", yahoo.proxy_url, "--ca-bundle", str(yahoo.ca_bundle), *args),
    ]
