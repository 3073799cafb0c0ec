"""Contenders of the stream benchmark and their command lines."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.stream_kafka import PARTITIONS, Names

ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True)
class Place:
    """Where contenders run."""

    bootstrap: str
    folder: Path  # for logs and state
    windows: Path  # the windows as an array
    peers_python: Path  # of the environment that has Quix Streams
    broker_pid: int


@dataclass(frozen=True)
class Contender:
    """One way to turn candles into forecasts."""

    name: str
    module: str
    in_peers_environment: bool = False
    has_changelog: bool = False  # its windows are known from the worker's own changelog
    probe_seconds: float = 12.0  # of throughput, at most
    checkout: Path = ROOT  # whose code runs

    def argv(self, place: Place, names: Names) -> list[str]:
        """Return its command."""
        python = str(place.peers_python) if self.in_peers_environment else sys.executable
        if self.name.startswith("worker"):
            return [python, "-m", self.module, *worker_flags(place.bootstrap, names)]
        return [
            python, "-m", self.module,
            "--bootstrap", place.bootstrap,
            "--candles", names.candles,
            "--forecasts", names.forecasts,
            "--group", names.group,
            "--windows", str(place.windows),
            "--state-dir", str(place.folder / names.group),
        ]  # fmt: skip


def worker_flags(bootstrap: str, names: Names) -> list[str]:
    """Return the flags of the product's worker."""
    return [
        "--bootstrap", bootstrap,
        "--candles-topic", names.candles,
        "--forecasts-topic", names.forecasts,
        "--scores-topic", names.scores,
        "--group", names.group,
        "--partitions", str(PARTITIONS),
        "--metrics-port", "0",
    ]  # fmt: skip


CONTENDERS: Final = (
    Contender("worker", "stream_app", has_changelog=True),
    Contender("faust_default", "benchmarks.peers.faust_default", has_changelog=True),
    Contender("quix_tuned", "benchmarks.peers.quix_tuned", in_peers_environment=True),
    Contender("quix_idiomatic", "benchmarks.peers.quix_idiomatic", in_peers_environment=True),
    Contender("bare", "benchmarks.peers.bare"),
)
