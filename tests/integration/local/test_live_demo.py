"""``--live-training`` whole, as a user runs it: its trainer is killed, and Ctrl-C in a training."""

from __future__ import annotations

import math
import os
import signal
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest

from local.live_training import WATCH
from local.process import Process
from tests.integration.processes import Processes, runs, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

UP_S = 240.0  # for the first model and everything to be up on a busy machine
TRAINED_S = 240.0  # a training, and before it the minute of a killed trainer's lease
STOP_S = 60.0
SYMBOLS = ("A", "B", "C", "D", "E")
DAYS = 1400  # the oldest eighth holds a window and its outcomes, all together more than WATCH asks
SPEED = 400


@pytest.fixture
def candles(tmp_path: Path) -> Path:
    """Daily candles whose volatility comes and goes."""
    chance = np.random.default_rng(18)
    rows = ["symbol,date,open,high,low,close,volume"]
    for symbol in SYMBOLS:
        close, spread = 100.0, 0.01
        for day in range(DAYS):
            spread = 0.01 * math.exp(0.95 * math.log(spread / 0.01) + 0.1 * chance.normal())
            opened, close = close, close * math.exp(spread * chance.normal())
            high, low = max(opened, close) * (1 + spread / 3), min(opened, close) / (1 + spread / 3)
            on = date(2015, 1, 1) + timedelta(days=day)
            rows.append(f"{symbol},{on},{opened:.6f},{high:.6f},{low:.6f},{close:.6f},1000")
    path = tmp_path / "candles.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def below(demo: Process) -> dict[int, list[str]]:
    """Return the processes below a demo: the id of each to its command."""
    found = psutil.Process(demo.pid).children(recursive=True)
    return {child.pid: child.cmdline() for child in found}


def test_a_killed_trainer_is_started_again_and_ctrl_c_in_a_training_leaves_nothing(
    processes: Processes, candles: Path
) -> None:
    assert int(WATCH[WATCH.index("--min-windows") + 1]) < len(SYMBOLS) * (DAYS - 144)
    demo = processes.start(
        "local", "--live-training", "--path", str(candles), "--speed", str(SPEED)
    )

    def said(words: str, times: int = 1) -> bool:
        return demo.log.read_text().count(words) >= times

    wait_until(lambda: said("trainer: training on"), UP_S, "a training", process=demo)
    wait_until(lambda: any("fit" in command for command in below(demo).values()),
               STOP_S, "the training that was said to begin", process=demo)  # fmt: skip
    started = below(demo)
    [trainer] = [pid for pid, command in started.items() if "watch" in command]
    [training] = [pid for pid, command in started.items() if "fit" in command]
    os.kill(trainer, signal.SIGKILL)
    wait_until(lambda: said("the trainer ended with SIGKILL and is started again"),
               STOP_S, "a message", process=demo)  # fmt: skip
    wait_until(lambda: not runs(training), STOP_S, "the training ends with its watch")
    wait_until(lambda: said("trainer: training on", 2), TRAINED_S, "another", process=demo)
    started |= below(demo)
    os.kill(demo.pid, signal.SIGINT)
    assert demo.wait(STOP_S) == 0
    log = demo.log.read_text()
    assert "stopping trainer, producer, worker, API and Kafka" in log
    assert log.rstrip().endswith("stopped by a signal")
    assert f"{len(SYMBOLS) * DAYS:,} candles" in log, log
    assert "forecasts, 0 missing, 0 dead letters" in log, log
    wait_until(lambda: not any(map(runs, started)), STOP_S, f"{started} have ended")


def test_ctrl_c_while_the_first_model_is_trained_leaves_nothing(
    processes: Processes, candles: Path, tmp_path: Path
) -> None:
    demo = processes.start("local", "--live-training", "--path", str(candles))
    wait_until(lambda: "training a weak first model" in demo.log_tail(), UP_S, "it", process=demo)
    started = wait_until(lambda: below(demo), STOP_S, "the training", process=demo)
    os.kill(demo.pid, signal.SIGINT)
    assert demo.wait(STOP_S) == 0
    assert "stopped while starting" in demo.log_tail()
    wait_until(lambda: not any(map(runs, started)), STOP_S, f"{started} have ended")
    assert not list(tmp_path.glob("candlecast-models-*"))
