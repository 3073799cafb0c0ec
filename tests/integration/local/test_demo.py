"""The whole system by one command: done, stopped, crashed, and nothing left behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import psutil
import pytest

from local.process import Process
from local.settings import LocalSettings
from shared import bundle
from tests.integration.processes import Processes, runs, wait_until

pytestmark = pytest.mark.integration

START_S = 120.0  # for everything to be up on a busy machine
STOP_S = 60.0
FORECASTS = 30  # of each symbol
SYMBOLS = ("ABC", "XYZ")


@pytest.fixture(scope="session")
def rows() -> int:
    """Candles of each symbol that the small file holds."""
    return bundle.load(LocalSettings.read([], "test").model).config.window_length + FORECASTS - 1


@pytest.fixture
def candles(tmp_path: Path, rows: int) -> Path:
    """A small file of daily candles that wander."""
    path = tmp_path / "candles.csv"
    lines = ["symbol,date,open,high,low,close,volume"]
    for row in range(rows):
        day = date(2020, 1, 1) + timedelta(days=row)
        for index, symbol in enumerate(SYMBOLS):
            open_, close = (
                100 + index + 10 * math.sin((row + shift) / 7 + index) for shift in (0, 1)
            )
            high, low = max(open_, close) + 1, min(open_, close) - 1
            lines.append(
                f"{symbol},{day},{open_:.4f},{high:.4f},{low:.4f},{close:.4f},{1000 + row}"
            )
    path.write_text("\n".join(lines) + "\n")
    return path


def pids_of(process: Process) -> dict[str, int]:
    """Return the processes below one: the module of each, or java, to its id."""
    found: dict[str, int] = {}
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.Error):
            command = child.cmdline()
            if "java" in command[0]:
                found["java"] = child.pid
            elif "-m" in command:
                found[command[command.index("-m") + 1]] = child.pid
    return found


@pytest.fixture
def watched(processes: Processes) -> Iterator[tuple[Process, dict[str, int]]]:
    """A demo that makes forecasts, and its processes; afterwards none of them may run."""
    demo = processes.start("local", "--symbols", "AAPL", "--speed", "50")
    wait_until(
        lambda: "latency p50" in demo.log_tail(), START_S, "forecasts are shown", process=demo
    )
    pids = pids_of(demo)
    assert pids.keys() == {"java", "stream_app", "api", "producer"}
    yield demo, pids
    wait_until(lambda: not any(runs(pid) for pid in pids.values()), STOP_S, f"{pids} have ended")


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A folder with packages of the user's own that are called as ours are."""
    folder = tmp_path / "own"
    for name in ("api", "local", "producer", "shared", "stream_app", "trainer"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise RuntimeError('the user s own code ran')")
    return folder


def test_does_all_beside_folders_named_as_ours_and_says_so_as_json(
    candles: Path, rows: int, decoys: Path
) -> None:
    """On a locked Kafka, which asks more of every part than an open one."""
    script = [sys.executable, "-P", "-m", "local.command"]  # as the console script has its path
    command = [*script, "demo", "--secure", "--exit-when-done", "--json", "--path", str(candles)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, cwd=decoys,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary.pop("ok") is True
    assert summary.pop("error") is None
    latency = summary.pop("latency_ms")
    assert summary == {
        "candles_in": len(SYMBOLS) * rows,
        "forecasts_out": len(SYMBOLS) * FORECASTS,
        "dead_letters": 0,
        "missing_forecasts": 0,
    }
    assert 0 <= latency["p50"] <= latency["p95"] <= latency["p99"] < 60_000


@pytest.mark.parametrize(("part", "name"), [("stream_app", "worker"), ("java", "Kafka")])
def test_a_killed_part_is_named_with_the_end_of_its_log(
    watched: tuple[Process, dict[str, int]], part: str, name: str
) -> None:
    demo, pids = watched
    os.kill(pids[part], signal.SIGKILL)
    assert demo.wait(STOP_S) == 1
    told = demo.log.read_text()
    assert f"{name} ended with SIGKILL; the end of its log:" in told
    log_line = {"stream_app": "windows recovered", "java": "Kafka Server started"}[part]
    assert log_line in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(
    watched: tuple[Process, dict[str, int]], number: signal.Signals
) -> None:
    demo, _ = watched
    os.kill(demo.pid, number)
    assert demo.wait(STOP_S) == 0
    assert "stopped by a signal" in demo.log_tail()


def test_even_a_killed_demo_leaves_no_process(watched: tuple[Process, dict[str, int]]) -> None:
    demo, _ = watched
    os.kill(demo.pid, signal.SIGKILL)
    assert demo.wait(STOP_S) == -signal.SIGKILL


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local.command", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def look_at_an_empty_broker(bootstrap: str) -> None:
    letters = run("dlq", "list", "--bootstrap", bootstrap)
    assert letters.returncode == 1
    assert f"topic market.candles.v1.dlq: does not exist at {bootstrap}" in letters.stderr
    doctor = run("doctor", "--json", "--bootstrap", bootstrap)
    verdicts = {found["what"]: found["verdict"] for found in json.loads(doctor.stdout)}
    assert verdicts["Kafka"] == verdicts["model"] == "ok"
    assert verdicts["topic market.candles.v1"] == "note"
    tail = run("tail", "--once", "--bootstrap", bootstrap)
    assert "topic market.forecasts.v1: does not exist" in tail.stderr


def test_a_stop_while_starting_says_no_summary_of_zeros(processes: Processes) -> None:
    demo = processes.start("local", "--json")
    wait_until(
        lambda: "starting Kafka" in demo.log_tail(), START_S, "Kafka is starting", process=demo
    )
    os.kill(demo.pid, signal.SIGINT)
    assert demo.wait(STOP_S) == 0
    *_, said = demo.log.read_text().splitlines()
    assert "stopped while starting" in said
    assert "0 candles" not in demo.log.read_text()


def test_kafka_alone(processes: Processes) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a script's background command
    try:
        kafka = processes.start("local", "kafka")
    finally:
        signal.signal(signal.SIGINT, before)
    wait_until(
        lambda: "runs until Ctrl-C" in kafka.log_tail(), START_S, "Kafka is up", process=kafka
    )
    _, address, _ = kafka.log.read_text().splitlines()
    assert address.startswith("127.0.0.1:")
    pid = pids_of(kafka)["java"]
    look_at_an_empty_broker(address)
    os.kill(kafka.pid, signal.SIGINT)
    assert kafka.wait(STOP_S) == 0
    assert not runs(pid)
