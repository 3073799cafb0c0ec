"""``trainer watch`` on a real topic: trains, promotes what proves better, and says why not."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient

from local.live_training import FEATURES
from local.ports import HOST, free_ports
from shared import bundle
from shared.bundle import Bundle
from shared.candles import Candle
from shared.forecaster import ModelSet, OnnxForecaster
from shared.leash import Leash
from shared.model_store import Decision, ModelStore
from shared.objects import open_objects
from shared.topics import candles_topic, ensure, market_topics
from tests.candles import candle
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import write, write_candles
from tests.recipes import Recipe
from tests.streams import Stream
from trainer import snapshot
from trainer.__main__ import main
from trainer.interval_drift import ALARM
from trainer.journal import JOURNAL
from trainer.journal import read as read_journal
from trainer.outbox import Outbox
from trainer.watch_settings import WatchSettings

pytestmark = pytest.mark.integration

ROUNDS = int(os.environ.get("CANDLECAST_FAULT_ROUNDS", "1"))

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
LATE = Recipe(name="late", spread=0.1, horizons=(1, 5, 10), levels=LEVELS)
"""A champion whose intervals are far too wide."""


def moving(symbol: str, seed: int, count: int = 700) -> list[Candle]:
    """Return days of a random walk whose volatility comes and goes."""
    chance = np.random.default_rng(seed)
    close, spread, made = 100.0, 0.01, []
    for at in range(count):
        spread = 0.01 * math.exp(0.95 * math.log(spread / 0.01) + 0.15 * chance.standard_normal())
        opened, close = close, close * math.exp(spread * chance.standard_normal())
        high, low = (max(opened, close) * (1 + spread / 3), min(opened, close) * (1 - spread / 3))
        made.append(
            candle(at, close, symbol=symbol).model_copy(
                update={"open": opened, "high": high, "low": low}
            )
        )
    return made


@pytest.fixture
def flags(
    kafka: str, unique_name: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Return the flags of a watch over a topic of three symbols and a store with a bad champion."""
    levels = ",".join(map(str, LEVELS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other are slow
    few = ("FEATURES", FEATURES)
    for name, value in (("HIDDEN", "4"), ("MAX_EPOCHS", "2"), ("QUANTILES", levels), few):
        monkeypatch.setenv(f"CANDLECAST_TRAINER_{name}", value)
    flags = [
        "--bootstrap", kafka, "--candles-topic", unique_name("candles"),
        "--scores-topic", unique_name("scores"),
        "--snapshots", str(tmp_path / "snapshots"), "--models", str(tmp_path / "models"),
        "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", "--metrics-port", "0",
        "--min-windows", "500", "--test-share", "0.3",
    ]  # fmt: skip
    settings = WatchSettings.read(flags, "x")
    [scores] = [made for made in market_topics(settings) if made.name == settings.scores_topic]
    asyncio.run(ensure(settings, [candles_topic(settings), scores]))
    write_candles(
        kafka,
        settings.candles_topic,
        (made for seed, name in enumerate("ABC") for made in moving(name, seed)),
    )
    store = ModelStore(settings.models)
    folder = LATE.write(tmp_path / "late")
    store.promote(
        store.put(bundle.contents_of(folder)), "1d", decision=Decision("to begin with", at_ms=1)
    )
    return flags


@pytest.fixture
def untracked(flags: list[str]) -> list[str]:
    """Return the same flags without MLflow, whose database takes seconds to make."""
    return ["" if flag.startswith("sqlite:") else flag for flag in flags]


def journal(tmp_path: Path) -> list[dict[str, Any]]:
    content = json.loads((tmp_path / "models" / JOURNAL).read_text())
    attempts: list[dict[str, Any]] = content["attempts"]["1d"]
    return attempts


def probe(address: str) -> tuple[int, str]:
    """Return the status of a probe, and how what it says begins."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    return status, " ".join(json.loads(body)["detail"].split()[:2])


def drifting(kafka: str, settings: WatchSettings, model: Bundle) -> None:
    """Let the stream score a model, and one more day come."""
    stream = Stream(ModelSet(OnnxForecaster(model)))
    days = {name: moving(name, seed, 701) for seed, name in enumerate("ABC")}
    for candles in days.values():
        stream.take(*candles[:200])
    write(kafka, settings.scores_topic, [(b"A", scores.encode()) for scores in stream.scores])
    write_candles(kafka, settings.candles_topic, (candles[-1] for candles in days.values()))


def test_a_challenger_is_trained_on_drift_and_promoted_and_the_rest_is_logged(
    kafka: str, flags: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In a folder where the user's own packages are called as ours are."""
    for name in ("shared", "trainer"):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    monkeypatch.chdir(tmp_path / "own")
    caplog.set_level(logging.INFO, "trainer")
    settings = WatchSettings.read(flags, "x")
    store = ModelStore(settings.models)
    few = [*flags, "--once", "--min-windows", "100000"]
    assert main(["watch", *few]) == 0
    assert "too few windows" in caplog.text
    assert main(["watch", *flags, "--once", "--dry-run"]) == 0
    [attempt] = journal(tmp_path)
    assert (attempt["outcome"], attempt["trigger"]) == ("promoted", "schedule"), attempt
    assert attempt["figures"]["skill"] > 0.1
    late = store.champions().at("1d")
    assert late is not None
    assert late.choice.version.startswith("late-")

    hasty = [*flags, "--once", "--cooldown-hours", "1e-9"]
    caplog.clear()
    assert main(["watch", *hasty]) == 0
    assert "nothing is trained: it was tried" in caplog.text  # there is no drift yet
    drifting(kafka, settings, store.load(late.choice.bundle))
    assert main(["watch", *hasty, "--drift-share", "0"]) == 0
    assert len(journal(tmp_path)) == 1
    assert main(["watch", *flags, "--once"]) == 0
    assert len(journal(tmp_path)) == 1  # the cool-down holds for a drift too
    assert main(["watch", *hasty]) == 0
    [_, attempt] = journal(tmp_path)
    assert (attempt["outcome"], attempt["trigger"]) == ("promoted", "drift"), attempt
    assert f"the forecasts of {late.choice.version} drift: 3 of 3 series drift" in caplog.text
    assert attempt["figures"]["drift_evidence"] >= ALARM
    assert attempt["figures"]["drift_spread"] < 0.5
    champion = store.champions().at("1d")
    assert champion is not None
    assert champion.choice.version == attempt["version"]
    assert champion.choice.why.startswith("drift: pinball")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    named = client.get_model_version_by_alias("candlecast-1d", "champion")
    assert client.get_run(str(named.run_id)).data.tags["model_version"] == attempt["version"]
    gate = client.get_run(champion.choice.run).data
    assert gate.tags["trigger"] == "drift"
    for figure in ("skill", "drift_evidence", "drift_spread"):
        assert gate.metrics[figure] == pytest.approx(attempt["figures"][figure])

    caplog.clear()
    assert main(["watch", *hasty]) == 0
    assert "nothing is trained: it was tried" in caplog.text  # the scores are of the former one
    assert main(["watch", *flags, "--once", "--every-hours", "1e-9"]) == 0
    assert "nothing is trained: no new candle" in caplog.text
    assert len(journal(tmp_path)) == 2


def test_a_shadow_forecasts_beside_the_champion_and_is_promoted_once_it_has_shown_enough(
    kafka: str,
    untracked: list[str],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each look is a watch of its own, which knows what the one before left in the store."""
    caplog.set_level(logging.INFO, "trainer")
    settings = WatchSettings.read(untracked, "x")
    store = ModelStore(settings.models)
    objects = open_objects(settings.models)
    look = ["watch", *untracked, "--once", "--shadow", "50"]
    days = {name: moving(name, seed, 801) for seed, name in enumerate("ABC")}

    def come(first: int, last: int) -> None:
        some = (made for candles in days.values() for made in candles[first:last])
        write_candles(kafka, settings.candles_topic, some)

    assert main(look) == 0
    shadow = read_journal(objects).shadows["1d"]
    assert "is a shadow for 50 candles a series" in caplog.text
    come(700, 770)
    assert main(look) == 0
    assert "is a shadow: 69 of 50 candles a series, 69 of 100 days" in caplog.text
    assert not read_journal(objects).of("1d")
    capsys.readouterr()
    assert main(["gc", "--models", settings.models, "--dry-run", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["kept"]
    assert kept[shadow.bundle] == "it forecasts beside the champion of 1d"
    come(770, 801)
    assert main(look) == 0
    [attempt] = read_journal(objects).of("1d")
    assert (attempt.outcome, attempt.version) == ("promoted", shadow.version), attempt
    assert attempt.figures["days"] == 100
    assert attempt.newest_ms == days["A"][699].open_ms
    assert read_journal(objects).shadows == {}
    champion = store.champions().at("1d")
    assert champion is not None
    assert champion.choice.bundle == shadow.bundle
    [trained] = [made.config for made in store.bundles() if made.digest == shadow.bundle]
    assert trained is not None
    assert trained.data.last_ms == days["A"][699].open_ms  # it saw all that there was


def trainings_of(pid: int) -> list[psutil.Process]:
    """Return the trainings that a watch has started."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # it ended, and may wait for its parent
            if "fit" in child.cmdline():
                found.append(child)
    return found


def test_a_killed_watch_leaves_all_as_it_was_and_another_waits_for_its_lease(
    untracked: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "watch.log"
    with Leash() as leash, log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "trainer", "watch", *untracked, "--max-hours", "0.002"],
            stderr=stream,
            start_new_session=True,
        )
        leash.hold(child.pid)
        try:
            wait_until(lambda: "training on the candles" in log.read_text(), 60, "a training")
            [where] = [line for line in log.read_text().splitlines() if "metrics at" in line]
            address = where.split("metrics at ")[1].split("/metrics")[0]
            assert probe(f"{address}/livez") == (200, "training since")
            training = wait_until(lambda: trainings_of(child.pid), 20, "the training's process")[0]
            training.suspend()
            wait_until(
                lambda: probe(f"{address}/livez") == (503, "training since"),
                30, "a red probe while the training stands still",
            )  # fmt: skip
            assert main(["watch", *untracked, "--once"]) == 1
            assert "holds the lease" in caplog.text
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(10)
        wait_until(lambda: not training.is_running(), 10, "the training ends with its watch")
    champion = ModelStore(str(tmp_path / "models")).champions().at("1d")
    assert champion is not None
    assert champion.choice.version.startswith("late-")
    assert not (tmp_path / "models" / JOURNAL).exists()


@pytest.mark.timeout(600)
def test_runs_models_and_aliases_are_on_a_server_of_mlflow(
    untracked: list[str], tmp_path: Path, processes: Processes
) -> None:
    (port,) = free_ports(1)
    uri = f"http://{HOST}:{port}"
    server = processes.start(
        "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination", str(tmp_path / "artifacts"),
        env={"MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip

    def is_up() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{uri}/health") as answer:  # noqa: S310
            return bool(answer.status == 200)
        return False

    wait_until(is_up, 120, "MLflow's server", process=server)
    look = ["watch", *untracked, "--tracking-uri", uri, "--once"]
    assert main([*look, "--dry-run"]) == 0
    [tried] = journal(tmp_path)
    (tmp_path / "models" / JOURNAL).unlink()  # so that it is tried again on the same candles
    assert main(look) == 0
    [promoted] = journal(tmp_path)
    champion = ModelStore(str(tmp_path / "models")).champions().at("1d")
    assert champion is not None
    assert champion.choice.version == promoted["version"]

    client, name = MlflowClient(uri), "candlecast-1d"
    aliases = client.get_registered_model(name).aliases
    run_ids = {
        alias: str(client.get_model_version(name, number).run_id)
        for alias, number in aliases.items()
    }
    made = {alias: client.get_run(run_id) for alias, run_id in run_ids.items()}
    assert {alias: run.data.tags["model_version"] for alias, run in made.items()} == {
        "challenger": tried["version"], "champion": promoted["version"],
    }  # fmt: skip
    stored = {entry.path for entry in client.list_artifacts(run_ids["champion"])}
    assert "bundle" in stored, stored
    gate = client.get_run(champion.choice.run)
    assert gate.data.tags["passed"] == "True"
    assert gate.data.metrics["skill"] == pytest.approx(promoted["figures"]["skill"])
    assert [entry.path for entry in client.list_artifacts(champion.choice.run)] == ["verdict.json"]


def test_an_mlflow_that_is_away_costs_no_training_and_no_promotion(
    untracked: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # of minutes
    [port] = free_ports(1)
    uri = f"http://me:geheim@{HOST}:{port}"
    assert main(["watch", *untracked, "--tracking-uri", uri, "--once"]) == 0
    [promoted] = journal(tmp_path)
    champion = ModelStore(str(tmp_path / "models")).champions().at("1d")
    assert champion is not None
    assert champion.choice.version == promoted["version"]
    for missing in ("the training is not in MLflow", "the verdict is not in MLflow"):
        assert f"1d: {missing}: http://me:***@{HOST}:{port}: " in caplog.text
    assert "geheim" not in caplog.text


@pytest.mark.parametrize("shadow", [0, 50])
def test_a_store_that_takes_nothing_as_a_training_ends_gets_it_later_and_it_is_trained_once(
    untracked: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, shadow: int
) -> None:
    """A full disk and a kill at the gate; a store that is away as a shadow begins."""
    caplog.set_level(logging.INFO, "trainer")
    settings = WatchSettings.read(untracked, "x")
    models, away, log = Path(settings.models), tmp_path / "away", tmp_path / "watch.log"
    flags = [*untracked, "--shadow", str(shadow)]
    command = [sys.executable, "-m", "trainer", "watch", *flags, "--poll-seconds", "1"]
    with Leash() as leash, log.open("wb") as stream:
        child = subprocess.Popen(command, stderr=stream, start_new_session=True)
        leash.hold(child.pid)

        def logged(words: str) -> bool:
            assert child.poll() is None, log.read_text()
            return words in log.read_text()

        try:
            wait_until(lambda: trainings_of(child.pid), 60, "a training")
            if shadow:
                models.rename(away)
                models.write_text("not a folder")
                why = "Not a directory"
            else:  # larger than a lease, the journal and this log, smaller than a model
                psutil.Process(child.pid).rlimit(psutil.RLIMIT_FSIZE, (8192, 8192))
                why = "File too large"
            wait_until(lambda: logged("1d: the outcome of a training waits in"), 120, "a complaint")
            assert logged(f"cannot be written: {why}"), log.read_text()
            if shadow:
                models.unlink()
                away.rename(models)
                wait_until(lambda: logged("is a shadow for 50 candles"), 90, "the shadow begins")
        finally:
            child.kill()
            child.wait(10)
    assert log.read_text().count("training on") == 1
    for name in (objects := open_objects(settings.models)).names("leases"):  # a minute later
        objects.remove(f"leases/{name}")
    assert main(["watch", *flags, "--once"]) == 0
    assert "training on" not in caplog.text
    champion, held = ModelStore(settings.models).champions().at("1d"), read_journal(objects)
    assert champion is not None
    if shadow:
        assert held.shadows["1d"].version in log.read_text()
    else:
        [attempt] = held.of("1d")
        assert (attempt.outcome, attempt.version) == ("promoted", champion.choice.version)
    assert not Outbox(settings).all()


def test_a_watch_killed_at_random_moments_leaves_a_sound_store_and_the_next_one_finishes(
    untracked: list[str], tmp_path: Path
) -> None:
    """``CANDLECAST_FAULT_ROUNDS=10`` kills it ten times; the seed of a failure is printed."""
    settings = WatchSettings.read(untracked, "x")
    store, objects = ModelStore(settings.models), open_objects(settings.models)
    seed = int(os.environ.get("CANDLECAST_FAULT_SEED", time.time_ns() % 2**32))
    chance = random.Random(seed)
    log = tmp_path / "watch.log"
    command = [
        sys.executable,
        "-m",
        "trainer",
        "watch",
        *untracked,
        "--every-hours",
        "1e-9",
        "--once",
    ]
    began_s = time.monotonic()
    with Leash() as leash, log.open("wb") as stream:
        for left in reversed(range(ROUNDS + 1)):
            child = subprocess.Popen(command, stderr=stream, stdout=stream, start_new_session=True)
            leash.hold(child.pid)
            if not left:
                assert child.wait(240) == 0, log.read_text()
                break
            moment_s = chance.uniform(0, 12)
            trainings: list[psutil.Process] = []
            deadline_s = time.monotonic() + moment_s
            while time.monotonic() < deadline_s and child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.05)
                with suppress(psutil.Error):
                    trainings = trainings_of(child.pid) or trainings
            child.kill()
            child.wait(10)
            said = f"seed {seed}, killed after {moment_s:.2f} s"
            for training in trainings:
                wait_until(lambda: not training.is_running(), 10, f"{said}: its training ends")  # noqa: B023
            champion = store.champions().at("1d")
            assert champion is not None, said
            OnnxForecaster(store.load(champion.choice.bundle))  # verified down to every byte
            read_journal(objects)
            for name in objects.names("leases"):  # a minute later
                objects.remove(f"leases/{name}")
    print(f"{ROUNDS} kills within {time.monotonic() - began_s:.0f} s")
    assert "damaged" not in log.read_text()
    champion = store.champions().at("1d")
    assert champion is not None
    [*_, attempt] = read_journal(objects).of("1d")
    assert attempt.version == champion.choice.version, attempt  # at the latest by the last one
    assert champion.choice.why.startswith("schedule: pinball")
    held = snapshot.history(settings.snapshots / settings.candles_topic, "1d")
    assert [len(rows.open_ms) for rows in held.series] == [700] * 3
