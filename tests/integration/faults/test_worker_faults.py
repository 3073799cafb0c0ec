"""Kill anything at any time and count: every candle has its forecast.

CANDLECAST_FAULT_ROUNDS scales how often a thing is killed: 1 by default, which CI has time for;
``make faults`` runs 10 times as many.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.broker import Broker
from shared import bundle
from shared.forecaster import ModelSet, OnnxForecaster
from shared.leash import Leash
from stream_app.settings import WorkerSettings
from tests.integration.faults.load import (
    Account,
    Load,
    clean_account,
    replay,
    wait_for_replay,
)
from tests.integration.processes import Processes, wait_until
from tests.integration.workers import (
    RunningWorker,
    WorkerTopics,
    launch_worker,
    start_worker,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("CANDLECAST_FAULT_ROUNDS", "1"))
RATE = 1000.0 if ROUNDS > 1 else 500.0  # candles a second; other tests run beside these
SESSION_S = 6.0
FLAGS = ("--session-seconds", str(SESSION_S))

MODELS = ModelSet(OnnxForecaster(bundle.load(WorkerSettings.read([], "tests").model)))
WARM_UP = MODELS.default.window_length - 1


class Crew:
    """Workers of one group, each restarted when it has ended, as a supervisor would."""

    def __init__(self, processes: Processes, topics: WorkerTopics) -> None:
        self._processes = processes
        self.topics = topics
        self.workers: list[RunningWorker] = []

    def hire(self) -> RunningWorker:
        """Start a worker and wait until it is ready."""
        worker = start_worker(self._processes, self.topics, *FLAGS)
        self.workers.append(worker)
        return worker

    def hire_at_once(self, count: int) -> None:
        """Start workers together, and wait for none of them."""
        self.workers += [launch_worker(self._processes, self.topics, *FLAGS) for _ in range(count)]

    def fails_to_start(self, *flags: str) -> str:
        """Start a worker that must end with exit code 1; return what it wrote."""
        process = launch_worker(self._processes, self.topics, *FLAGS, *flags).process
        assert process.wait(60) == 1
        return process.log.read_text()

    def mend(self) -> None:
        """Replace the workers that have ended."""
        for worker in [one for one in self.workers if one.process.exit_code is not None]:
            self.workers.remove(worker)
            self.hire()

    def kill(self, worker: RunningWorker) -> None:
        """End a worker by SIGKILL."""
        worker.process.kill()


@pytest.fixture
def own_broker(tmp_path: Path, leash: Leash) -> Iterator[Broker]:
    """A broker of the test's own, on data that survive it."""
    with Broker(tmp_path / "kafka", leash=leash) as broker:
        yield broker


@pytest.fixture
def new_crew(processes: Processes, unique_name: Callable[[str], str]) -> Callable[[str], Crew]:
    """A function that makes crews without a worker yet, each on topics of its own at a broker."""
    return lambda bootstrap: Crew(processes, WorkerTopics.make(bootstrap, unique_name))


@pytest.fixture
def crew(new_crew: Callable[[str], Crew], kafka: str) -> Crew:
    """No worker yet, at the session's broker."""
    return new_crew(kafka)


@pytest.fixture
def own_crew(new_crew: Callable[[str], Crew], own_broker: Broker) -> Crew:
    """No worker yet, at the test's own broker."""
    return new_crew(own_broker.bootstrap)


def warmed_up(crew: Crew, load: Load) -> None:
    """Wait until forecasts flow."""
    wait_until(load.warm.is_set, 60, "the warm-up is sent")
    wait_until(
        lambda: crew.workers[0].metrics().get("candlecast_forecasts_published_total", 0) > 100,
        60,
        "forecasts flow",
        process=crew.workers[0].process,
    )


def let_run(seconds: float) -> None:
    """Let the load run on for a while; what happens in it is the test."""
    time.sleep(seconds)


def settle_up(crew: Crew, load: Load) -> Account:
    """Finish the load, wait until all is forecast, and settle."""
    load.finish()
    owed = load.owed()
    account = clean_account(crew.topics, owed, tend=crew.mend)
    counts = {"owed": len(owed), "repeats": account.repeats}
    print(json.dumps(counts | {"per_second": round(len(owed) / load.seconds)}))
    expected = replay(crew.topics, MODELS)
    # of a short load's candles most have not met their tenth one yet
    assert len(expected.scores) > len(owed)
    wait_for_replay(crew.topics, MODELS, expected)
    return account


def test_without_a_fault_nothing_is_repeated(crew: Crew) -> None:
    crew.hire()
    with Load(crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(crew, load)
        let_run(3)
        assert settle_up(crew, load).repeats == 0


def test_worker_killed_at_random_instants(crew: Crew) -> None:
    crew.hire()
    chance = random.Random(1)
    with Load(crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(crew, load)
        for _ in range(2 * ROUNDS):
            let_run(chance.uniform(0.2, 2.0))
            crew.kill(crew.workers[0])
            crew.mend()
        settle_up(crew, load)


def test_broker_killed_and_restarted_on_its_data(own_crew: Crew, own_broker: Broker) -> None:
    own_crew.hire()
    chance = random.Random(2)
    with Load(own_crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(own_crew, load)
        for _ in range((ROUNDS + 1) // 2):
            let_run(chance.uniform(0.5, 2.0))
            own_broker.kill()
            own_broker.restart()
            let_run(2)
            own_crew.mend()
        settle_up(own_crew, load)


def test_worker_and_broker_killed_at_once(own_crew: Crew, own_broker: Broker) -> None:
    own_crew.hire()
    with Load(own_crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(own_crew, load)
        own_crew.kill(own_crew.workers[0])
        own_broker.kill()
        own_broker.restart()
        own_crew.mend()
        settle_up(own_crew, load)


def test_a_worker_paused_past_its_session_does_no_harm(crew: Crew) -> None:
    paused, _ = crew.hire(), crew.hire()
    with Load(crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(crew, load)
        os.kill(paused.process.pid, signal.SIGSTOP)
        let_run(SESSION_S * 2)
        os.kill(paused.process.pid, signal.SIGCONT)
        let_run(3)
        settle_up(crew, load)


def test_workers_join_and_leave_under_load(crew: Crew) -> None:
    crew.hire()
    with Load(crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(crew, load)
        second, third = crew.hire(), crew.hire()
        let_run(2)
        for leaving in (second, third):  # the third within the recovery that the second causes
            os.kill(leaving.process.pid, signal.SIGTERM)
            let_run(0.8)
        for leaving in (second, third):
            assert leaving.process.stop(15) == 0
            crew.workers.remove(leaving)
        let_run(1)
        settle_up(crew, load)
    assert "windows are missing or short" not in crew.workers[0].process.log.read_text()


def test_workers_started_at_once_in_a_new_group(
    new_crew: Callable[[str], Crew], kafka: str
) -> None:
    """They join while others recover, and no partition has a committed offset yet."""
    for _ in range(2 * ROUNDS):
        crew = new_crew(kafka)
        with Load(crew.topics, WARM_UP, rate=RATE, symbols=40) as load:
            crew.hire_at_once(3)
            wait_until(load.warm.is_set, 60, "the warm-up is sent")
            let_run(2)
            settle_up(crew, load)
        for worker in crew.workers:
            assert worker.process.stop(15) == 0


def test_a_disk_that_takes_nothing_more(own_crew: Crew, own_broker: Broker) -> None:
    """The worker keeps nothing on disk and goes on; the broker ends, and is started with room."""
    worker = own_crew.hire()
    with Load(own_crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(own_crew, load)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        let_run(2)
        resource.prlimit(own_broker.pid, resource.RLIMIT_FSIZE, (0, 0))
        wait_until(lambda: own_broker.exit_code is not None, 60, "the broker gives up")
        own_broker.restart()
        let_run(2)
        settle_up(own_crew, load)


def test_a_damaged_bundle_at_start(crew: Crew, tmp_path: Path) -> None:
    """The worker says so and ends; one with a good bundle takes up where the last one ended."""
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle.default_path(), damaged)
    graph = next(damaged.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    crew.hire()
    with Load(crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(crew, load)
        crew.kill(crew.workers.pop())
        said = crew.fails_to_start("--model", str(damaged))
        assert graph.name in said
        assert "Traceback" not in said
        crew.hire()
        settle_up(crew, load)


def test_broker_unreachable_for_a_while(own_crew: Crew, own_broker: Broker) -> None:
    own_crew.hire()
    with Load(own_crew.topics, WARM_UP, rate=RATE) as load:
        warmed_up(own_crew, load)
        os.kill(own_broker.pid, signal.SIGSTOP)
        let_run(60 if ROUNDS > 1 else 15)
        os.kill(own_broker.pid, signal.SIGCONT)
        let_run(3)
        settle_up(own_crew, load)


def test_sigterm_under_full_load_drains_and_ends_with_0(crew: Crew) -> None:
    crew.hire()
    with Load(crew.topics, WARM_UP, rate=5 * RATE) as load:
        warmed_up(crew, load)
        for _ in range(ROUNDS):
            let_run(1)
            [worker] = crew.workers
            started = time.monotonic()
            assert worker.process.stop(10) == 0, worker.process.log_tail()
            assert time.monotonic() - started < 10
            crew.mend()
        settle_up(crew, load)
