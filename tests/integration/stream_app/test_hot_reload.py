"""Champions change under load: worker and API swap, nothing is lost, faults leave the old model."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.ports import HOST, free_ports
from local.process import Process
from shared.champions import ANY, Choice
from shared.forecasts import Forecast
from shared.model_store import Decision, ModelStore
from tests.integration.faults.load import Load, settled
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import count, read_forecasts
from tests.integration.workers import RunningWorker, WorkerTopics, start_worker
from tests.recipes import Recipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NOTICED_S = 10.0
"""Time within which a champion is noticed; loading and a loaded machine come on top."""

DONE_S = 60.0
SYMBOLS = 20
WARM_UP = 320
RATE = 100.0  # candles a second
FIRST = Recipe(name="first", drift=0.001, window_length=20)


@pytest.fixture
def topics(kafka: str, unique_name: Callable[[str], str]) -> WorkerTopics:
    return WorkerTopics.make(kafka, unique_name)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(str(tmp_path / "models"))
    store.promote(store.put(FIRST.contents()), ANY, decision=Decision("first"))
    return store


@dataclass(frozen=True)
class Crew:
    """A worker and an API that serve from one store; the built-in model is short too."""

    processes: Processes
    topics: WorkerTopics
    store: ModelStore
    api: Process
    api_port: int
    flags: tuple[str, ...]

    def worker(self) -> RunningWorker:
        return start_worker(self.processes, self.topics, *self.flags)

    def versions(self) -> set[str]:
        """Return the names of the models whose forecasts are among the newest of each symbol."""
        newest: dict[str, Forecast] = {}
        if not count(self.topics.bootstrap, self.topics.forecasts):
            return set()
        for forecast in read_forecasts(self.topics.bootstrap, self.topics.forecasts):
            newest[forecast.symbol] = forecast
        return {made.model_version.partition("-")[0] for made in newest.values()}

    def ask(self, path: str) -> dict[str, object]:
        with urllib.request.urlopen(f"http://{HOST}:{self.api_port}{path}", timeout=10) as got:
            answer: dict[str, object] = json.load(got)
            return answer

    def served_by_api(self) -> str:
        with suppress(OSError):
            return str(self.ask("/")["model_version"]).partition("-")[0]
        return ""

    def promote(self, recipe: Recipe) -> float:
        """Promote a model; return after how many seconds worker and API forecast with it."""
        began_s = time.monotonic()
        digest = self.store.put(recipe.contents())
        self.store.promote(digest, ANY, decision=Decision("test"))
        wait_until(lambda: self.versions() == {recipe.name}, DONE_S, f"{recipe.name} forecasts")
        wait_until(lambda: self.served_by_api() == recipe.name, DONE_S, f"API: {recipe.name}")
        return time.monotonic() - began_s

    def finish(self, load: Load, worker: RunningWorker) -> None:
        """End a load; wait until every candle has its forecast."""
        load.finish()
        account = settled(self.topics, load.owed(), process=worker.process)
        assert not account.missing, account

    def force(self, recipe: Recipe) -> str:
        """Name a bundle the champion without the checks of a promotion; return its digest."""
        digest = self.store.put(recipe.contents())
        choice = Choice(
            version=recipe.name, bundle=digest, window_length=recipe.window_length,
            by="", at_ms=0, why="",
        )  # fmt: skip
        self.store.change(lambda now: now.with_promoted(ANY, ANY, choice))
        return digest


@pytest.fixture
def crew(processes: Processes, topics: WorkerTopics, store: ModelStore, tmp_path: Path) -> Crew:
    built_in = Recipe(name="builtin", window_length=20).write(tmp_path / "builtin")
    flags = ("--models", store.url, "--model", str(built_in))
    port = free_ports(1)[0]
    api = processes.start("api", *topics.flags(), "--port", str(port), *flags)
    return Crew(processes, topics, store, api, port, (*flags, "--session-seconds", "6"))


def fault(worker: RunningWorker) -> float:
    return worker.metrics()["candlecast_model_store_fault"]


def test_champions_change_under_load_and_no_candle_is_missed(crew: Crew, tmp_path: Path) -> None:
    worker = crew.worker()
    wait_until(lambda: crew.served_by_api() == "first", DONE_S, "the API", process=crew.api)
    with Load(crew.topics, WARM_UP, rate=RATE, symbols=SYMBOLS) as load:
        wait_until(lambda: crew.versions() == {"first"}, DONE_S, "first", process=worker.process)
        took_s = crew.promote(Recipe(name="second", drift=0.002, window_length=20))
        assert took_s < 2 * NOTICED_S
        # one that needs more candles than any window holds, a minute of them: the topic has them
        crew.promote(Recipe(name="long", drift=0.003, window_length=300))
        assert f"{SYMBOLS} windows get older candles" in worker.process.log_tail(100)

        digest = crew.force(Recipe(name="bad", drift=float("nan"), window_length=20))
        wait_until(lambda: fault(worker) == 1, DONE_S, "a fault", process=worker.process)
        assert worker.probe("/readyz") == 200
        wait_until(
            lambda: "got nan apart" in str(crew.ask("/readyz")["detail"]),
            DONE_S,
            "the API's reason",
        )
        assert crew.versions() == {"long"}
        crew.store.rollback(ANY)
        wait_until(lambda: fault(worker) == 0, DONE_S, "no fault", process=worker.process)

        away = tmp_path / "away"
        Path(crew.store.url).rename(away)
        wait_until(lambda: fault(worker) == 1, DONE_S, "a fault", process=worker.process)
        away.rename(crew.store.url)
        wait_until(lambda: fault(worker) == 0, DONE_S, "no fault", process=worker.process)

        os.kill(worker.process.pid, signal.SIGKILL)  # a promotion while no worker runs
        last = Recipe(name="last", drift=0.004, window_length=20)
        crew.store.promote(crew.store.put(last.contents()), ANY, decision=Decision("meanwhile"))
        worker = crew.worker()
        wait_until(lambda: crew.versions() == {"last"}, DONE_S, "last", process=worker.process)
        crew.finish(load, worker)
    listed = crew.ask("/v1/models")
    assert {entry["version"].partition("-")[0] for entry in listed["versions"]} >= {"last", "bad"}  # type: ignore[attr-defined]
    assert digest in {entry["digest"] for entry in listed["versions"]}  # type: ignore[attr-defined]
    assert worker.process.exit_code is None


def test_champions_that_are_removed_by_hand_serve_on_until_the_next_promotion(crew: Crew) -> None:
    worker = crew.worker()
    wait_until(lambda: crew.served_by_api() == "first", DONE_S, "the API", process=crew.api)
    with Load(crew.topics, WARM_UP, rate=RATE, symbols=SYMBOLS) as load:
        wait_until(lambda: crew.versions() == {"first"}, DONE_S, "first", process=worker.process)
        crew.promote(Recipe(name="second", drift=0.002, window_length=20))
        files = sorted((Path(crew.store.url) / "champions").iterdir())
        assert [path.name for path in files] == ["0000000001.json", "0000000002.json"]
        for path in reversed(files):  # the newest is gone; then there is none
            path.unlink()
            got = f"or a later one, got {len(list(path.parent.iterdir()))}: the file was removed"
            wait_until(
                lambda: got in worker.process.log_tail(100),  # noqa: B023
                DONE_S, "the worker's message", process=worker.process,
            )  # fmt: skip
            wait_until(
                lambda: got in str(crew.ask("/readyz")["detail"]),  # noqa: B023
                DONE_S, "the API's message", process=crew.api,
            )  # fmt: skip
            assert fault(worker) == 1
            assert worker.probe("/readyz") == 200
            sent = load.sent
            wait_until(lambda: load.sent > sent + 2 * SYMBOLS, DONE_S, "candles")  # noqa: B023
            assert crew.versions() == {"second"}
            assert crew.served_by_api() == "second"
        crew.promote(Recipe(name="third", drift=0.003, window_length=20))
        assert crew.store.champions().generation == 1
        wait_until(lambda: fault(worker) == 0, DONE_S, "no fault", process=worker.process)
        crew.finish(load, worker)
