"""Searches that are pruned, interrupted and killed; the storage and MLflow are real."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from shared.history import bundled
from trainer import search
from trainer.__main__ import main
from trainer.dataset import Source

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def candles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV of 900 real candles of a symbol."""
    columns = ("symbol", "open_ms", "open", "high", "low", "close", "volume")
    rows = [[getattr(one, name) for name in columns] for one in bundled(["IBM"]).candles[:900]]
    path = tmp_path_factory.mktemp("data") / "candles.csv"
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False)
    return path


def command(candles: Path, folder: Path, trials: int, folds: int) -> list[str]:
    return [
        "search", "--data", str(candles), "--until", "2003-09-01", "--folds", str(folds),
        "--trials", str(trials), "--max-epochs", "1", "--no-progress", "--out", str(folder),
        "--storage", f"sqlite:///{folder}/search.db", "--tracking-uri", f"sqlite:///{folder}/m.db",
    ]  # fmt: skip


def statuses(folder: Path) -> dict[str, str]:
    """Return each run's status in MLflow, by its name."""
    client = MlflowClient(f"sqlite:///{folder}/m.db")
    [experiment] = [one for one in client.search_experiments() if one.name == "candlecast"]
    found = client.search_runs([experiment.experiment_id])
    return {one.info.run_name: one.info.status for one in found}


def test_a_pruned_trial_has_not_failed(
    candles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda _: True)
    assert main(command(candles, tmp_path, trials=1, folds=2)) == 0
    assert statuses(tmp_path) == {
        "search candlecast on candles.csv": "FINISHED",
        "trial 0": "FINISHED",
    }
    [trial] = search.open_study(f"sqlite:///{tmp_path}/search.db", "candlecast", 0).trials
    assert trial.state is TrialState.PRUNED
    assert len(trial.intermediate_values) == 1
    assert json.loads((tmp_path / "best.json").read_text())["complete"] == 0


def test_a_search_that_is_interrupted_shows_what_it_has_found(
    candles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = search.relative_pinball
    measured: list[float] = []

    def once(table: pd.DataFrame, source: Source) -> float:
        if measured:
            raise KeyboardInterrupt
        measured.append(measure(table, source))
        return measured[0]

    monkeypatch.setattr(search, "relative_pinball", once)
    assert main(command(candles, tmp_path, trials=9, folds=1)) == 130
    found = json.loads((tmp_path / "best.json").read_text())
    assert (found["trials"], found["complete"], found["value"]) == (2, 1, measured[0])
    assert statuses(tmp_path) == {
        "search candlecast on candles.csv": "KILLED",
        "trial 0": "FINISHED",
        "trial 1": "KILLED",
    }


@pytest.mark.parametrize("shown", ["loading PyTorch", "trial 0, fold 1 of 3, epoch 2"])
def test_ctrl_c_is_heard_within_seconds(shown: str, tmp_path: Path) -> None:
    """It took 30 s, and nothing was shown within a trial."""
    master, terminal = pty.openpty()
    script = "from local.command import script; script()"
    argv = [sys.executable, "-P", "-c", script, "trainer", "search", "--trials", "1"]
    argv += ["--storage", f"sqlite:///{tmp_path}/search.db", "--out", str(tmp_path)]
    searching = subprocess.Popen(
        [*argv, "--tracking-uri", ""], stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    try:
        seen = read_until(master, shown, 120.0)
        searching.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        seen += read_until(master, None, 60.0)
        assert searching.wait(60) == 130, seen
        assert time.monotonic() - began_s < 5.0
        assert "Traceback" not in seen
    finally:
        searching.kill()
        searching.wait()
        os.close(master)


def read_until(terminal: int, words: str | None, longest_s: float) -> str:
    """Return what a terminal shows until some words, or until its process has ended."""
    seen, deadline = "", time.monotonic() + longest_s
    while words is None or words not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                seen += os.read(terminal, 1 << 16).decode(errors="replace")
            except OSError:  # nobody has the other end
                assert words is None, seen
                break
    return seen


DYING = """
import os, signal, sqlite3, sys, time
from trainer import search

def die(_):
    database = sqlite3.connect(sys.argv[1])
    for _ in range(600):
        if database.execute("SELECT count(*) FROM trial_heartbeats").fetchone()[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)

search.open_study("sqlite:///" + sys.argv[1], "x", 0).optimize(die, n_trials=1)
"""


def test_a_trial_whose_process_was_killed_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    ended = subprocess.run([sys.executable, "-c", DYING, str(path)], env=os.environ, check=False)
    assert ended.returncode == -9
    study = search.open_study(f"sqlite:///{path}", "x", 0)
    assert [one.state for one in study.trials] == [TrialState.RUNNING]
    with sqlite3.connect(path) as database:  # an hour later
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    study.optimize(lambda _: 1.0, n_trials=1)
    assert [one.state for one in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
