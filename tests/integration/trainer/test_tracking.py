"""A SQLite store of MLflow's that several trainers open at once, and one that is broken."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import tracking

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

OPEN = """
import sys
from trainer import tracking
with tracking.run(sys.argv[1], "candlecast", sys.argv[2]) as run:
    run.metrics({"pinball": 0.1})
"""


def test_trainers_that_start_together_share_a_store_that_is_new(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    names = ["one", "two", "three"]
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN, uri, name], stderr=subprocess.PIPE)
        for name in names
    ]
    try:
        errors = [process.communicate(timeout=240)[1].decode() for process in started]
    finally:
        for process in started:
            process.kill()  # of one that ended it does nothing
    assert [process.returncode for process in started] == [0, 0, 0], errors
    client = tracking.Tracker(uri, "candlecast").client
    [known] = client.search_experiments(filter_string="name = 'candlecast'")
    runs = client.search_runs([known.experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(names)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_store_that_is_broken_is_named_with_the_way_to_mend_it(tmp_path: Path) -> None:
    text, other, half = (tmp_path / f"{name}.db" for name in ("text", "other", "half"))
    text.write_text("candles, not a database " * 100)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('0')")
    with tracking.run(f"sqlite:///{half}", "candlecast", "whole"):
        pass
    with sqlite3.connect(half) as database:
        database.execute("DROP TABLE experiments")
    for broken in (text, other, half):
        with (
            pytest.raises(tracking.TrackingError, match="move the file away") as failed,
            tracking.run(f"sqlite:///{broken}", "candlecast", "none"),
        ):
            pass
        assert str(failed.value).startswith(f"sqlite:///{broken}: cannot be used for tracking: ")


def test_a_store_that_breaks_costs_a_run_nothing_but_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "mlflow.db"
    with tracking.run(f"sqlite:///{store}", "candlecast", "interrupted") as run:
        run.params({"seed": 1})
        with sqlite3.connect(store) as database:
            for table in ("metrics", "runs"):
                database.execute(f"ALTER TABLE {table} RENAME TO away_{table}")
        run.metrics({"pinball": 0.1})
        run.tags({"model_version": "lstm-0"})
        run.artifact(Path(__file__), "bundle")
        run.register("candlecast", "bundle")
        with run.nested("within") as inner:
            inner.metrics({"pinball": 0.1})
    given_up, left_running = [
        record.message for record in caplog.records if record.name == "trainer"
    ]
    assert given_up.startswith("the rest of this run is not in MLflow: ")
    assert "no such table" in given_up
    assert left_running.startswith(f"MLflow shows run {run.id} as running: ")
    with (
        pytest.raises(tracking.TrackingError, match="MLflow takes no run: "),
        tracking.run(f"sqlite:///{store}", "candlecast", "none"),
    ):
        pass
