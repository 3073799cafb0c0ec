"""What each command says while no Kafka is there: at once, what it waits for, and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from local.process import Process
from tests.integration.processes import Processes, wait_until

pytestmark = pytest.mark.integration

NOWHERE = "127.0.0.1:1"

SAID = f"Kafka answers at {NOWHERE}: expected its host:port in --bootstrap or CANDLECAST_BOOTSTRAP"


def test_who_waits_for_kafka_says_so_each_ten_seconds(processes: Processes) -> None:
    waiting = [
        processes.start("stream_app", "--bootstrap", NOWHERE, "--metrics-port", "0"),
        processes.start("producer", "--bootstrap", NOWHERE, "--metrics-port", "0"),
        processes.start("api", "--bootstrap", NOWHERE, "--port", "0"),
        processes.candlecast("tail", "--bootstrap", NOWHERE),
        processes.candlecast("topics", "diff", "--bootstrap", NOWHERE),
    ]

    def has_said(process: Process, times: int) -> Callable[[], bool]:
        return lambda: process.log.read_text().count(SAID) >= times

    for process in waiting:
        wait_until(has_said(process, 1), 20.0, "its first line", process=process)
    for process in waiting:
        wait_until(has_said(process, 3), 25.0, "two lines more", process=process)
        assert len(process.log.read_text().splitlines()) < 12, "and no flood"


@pytest.mark.parametrize(
    "command",
    [
        ("dlq", "list"),
        ("trainer", "scores"),
        ("trainer", "fit", "--data", "kafka", "--interval", "5m", "--out", "x", "--no-progress"),
        ("trainer", "backtest", "--data", "kafka", "--interval", "5m", "--out", "x.csv"),
    ],
)
def test_who_does_not_wait_for_kafka_says_what_to_do(
    command: tuple[str, ...], processes: Processes, tmp_path: Path
) -> None:
    snapshots = ["--snapshots", str(tmp_path)] if "kafka" in command else []
    process = processes.candlecast(command[0], *command[1:], *snapshots, "--bootstrap", NOWHERE)
    assert process.wait(60) == 1
    log = process.log.read_text()
    assert f"no {SAID}" in log.splitlines()[-1]
    assert "Traceback" not in log
