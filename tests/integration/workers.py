"""Starts stream workers as real processes, each with topics of its own."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from prometheus_client.parser import text_string_to_metric_families

from local.ports import free_ports
from local.process import Process
from tests.integration.processes import Processes, wait_until

START_S = 60.0


@dataclass(frozen=True)
class WorkerTopics:
    """The names that one test's worker uses."""

    bootstrap: str
    candles: str
    forecasts: str
    group: str

    @classmethod
    def make(cls, bootstrap: str, unique_name: Callable[[str], str]) -> WorkerTopics:
        """Return names that no other test has."""
        return cls(
            bootstrap, unique_name("candles"), unique_name("forecasts"), unique_name("group")
        )

    @property
    def scores(self) -> str:
        """The topic of scores."""
        return f"{self.forecasts}.scores"

    @property
    def context(self) -> str:
        """The topic of the context's candles."""
        return f"{self.candles}.context"

    @property
    def dlq(self) -> str:
        """The dead-letter topic."""
        return f"{self.candles}.dlq"

    @property
    def changelog(self) -> str:
        """The topic of the windows."""
        return f"{self.group}-windows-changelog"

    def flags(self) -> list[str]:
        """Return the topics as flags of a service."""
        return [
            "--bootstrap", self.bootstrap,
            "--candles-topic", self.candles,
            "--forecasts-topic", self.forecasts,
            "--scores-topic", self.scores,
            "--context-topic", self.context,
        ]  # fmt: skip


@dataclass(frozen=True)
class RunningWorker:
    """A started worker and its status port."""

    process: Process
    port: int

    def probe(self, path: str) -> int:
        """Return the HTTP status of a probe, or 0 when nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self) -> dict[str, float]:
        """Return every sample as ``name{label=value,...}``, parsed by prometheus_client."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as got:
            text = got.read().decode()
        return {
            _sample_name(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def launch_worker(
    processes: Processes,
    topics: WorkerTopics,
    *flags: str,
    env: Mapping[str, str] | None = None,
) -> RunningWorker:
    """Start a worker and wait for nothing."""
    port = free_ports(1)[0]
    process = processes.start(
        "stream_app", *topics.flags(), "--group", topics.group, "--metrics-port", str(port),
        *flags, env=env,
    )  # fmt: skip
    return RunningWorker(process, port)


def wait_ready(worker: RunningWorker) -> None:
    """Wait until a worker is ready."""
    ready = partial(worker.probe, "/readyz")
    wait_until(lambda: ready() == 200, START_S, "the worker is ready", process=worker.process)


def start_worker(processes: Processes, topics: WorkerTopics, *flags: str) -> RunningWorker:
    """Start a worker and wait until it is ready."""
    worker = launch_worker(processes, topics, *flags)
    wait_ready(worker)
    return worker


def _sample_name(name: str, labels: dict[str, str]) -> str:
    return name if not labels else f"{name}{json.dumps(labels, sort_keys=True)}"
