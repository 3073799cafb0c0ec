"""Three brokers of which one or two are away, under worker, producer and API.

CANDLECAST_FAULT_ROUNDS above 1, as in ``make faults-broker``, kills, stops and empties every broker
in turn; CI has time for one whose disk is lost, and for two that are away.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from local.broker import Broker
from local.cluster import Cluster
from local.ports import free_ports
from shared import bundle, kafka
from shared.forecaster import ModelSet, OnnxForecaster
from shared.leash import Leash
from stream_app.settings import WorkerSettings
from tests.integration.api.test_serving import Api
from tests.integration.faults.load import Load, clean_account, unlike_a_replay
from tests.integration.processes import Processes, wait_until
from tests.integration.producer.producers import log_of
from tests.integration.topics import Record, count, read
from tests.integration.workers import RunningWorker, WorkerTopics, launch_worker, wait_ready
from tests.kafka import kafka_at

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("CANDLECAST_FAULT_ROUNDS", "1"))
RECOVERED_S = 15.0
AWAY_S = 45.0 if ROUNDS > 1 else 5.0
"""Long enough for aiokafka to give up a batch, 40 s, where there is time."""

MODELS = ModelSet(OnnxForecaster(bundle.load(WorkerSettings.read([], "tests").model)))
WARM_UP = MODELS.default.window_length - 1
REPLICATED = ("--replication", "3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, leash: Leash) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    with Cluster(3, folder, leash=leash) as cluster:
        yield cluster


def in_sync(topics: WorkerTopics) -> bool:
    """Tell whether every replica of the candles and the changelog is in sync."""

    async def ask() -> list[int]:
        admin = kafka.admin(kafka_at(topics.bootstrap))
        try:
            await admin.start()
            names = [topics.candles, topics.forecasts, f"{topics.group}-windows-changelog"]
            described = await admin.describe_topics([*names, "__consumer_offsets"])
            return [len(part["isr"]) for topic in described for part in topic["partitions"]]
        finally:
            await admin.close()

    try:
        replicas = asyncio.run(ask())
    except kafka.TRANSIENT:
        return False
    return bool(replicas) and min(replicas) == 3


@dataclass
class System:
    """Brokers, and the services on them."""

    cluster: Cluster
    topics: WorkerTopics
    worker: RunningWorker
    api: Api
    recovered_s: list[float] = field(default_factory=list)

    def whole(self) -> None:
        """Wait until any broker may be taken away again."""
        wait_until(lambda: in_sync(self.topics), 60, "all replicas are in sync")

    def flows_again(self) -> None:
        """Hold the worker to forecasts and its probes to green, soon after a fault's end."""
        began_s = time.monotonic()
        before = count(self.topics.bootstrap, self.topics.forecasts)
        wait_until(
            lambda: count(self.topics.bootstrap, self.topics.forecasts) > before + 100
            and self.worker.probe("/readyz") == 200,
            2 * RECOVERED_S, "forecasts flow again", process=self.worker.process,
        )  # fmt: skip
        self.recovered_s.append(time.monotonic() - began_s)

    def settled(self, owed: set[tuple[str, int]]) -> list[Record]:
        """Wait for all that is owed, hold it to a clean account, and return the topic."""
        clean_account(self.topics, owed, process=self.worker.process)
        return read(self.topics.bootstrap, self.topics.forecasts)

    def restart(self, broker: Broker, end: Callable[[Broker], None]) -> None:
        """End a broker while all is whole, leave it away for a while, and start it."""
        self.whole()
        end(broker)
        time.sleep(AWAY_S / 5)
        broker.start()
        self.flows_again()


def lose(broker: Broker) -> None:
    broker.kill()
    broker.lose_disk()


def followed(api: Api) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(api.ask("GET", "/v1/status")[1])
    except OSError:
        return {}
    return found


@pytest.fixture
def system(cluster: Cluster, processes: Processes, unique_name: Callable[[str], str]) -> System:
    topics = WorkerTopics.make(cluster.bootstrap, unique_name)
    worker = launch_worker(processes, topics, *REPLICATED, "--session-seconds", "6")
    port = free_ports(1)[0]
    api = Api(processes.start("api", *topics.flags(), "--port", str(port)), port)
    wait_ready(worker)
    return System(cluster, topics, worker, api)


def test_no_broker_that_goes_loses_contradicts_or_stops_anything(
    system: System, processes: Processes
) -> None:
    topics, brokers = system.topics, system.cluster.brokers
    with Load(topics, WARM_UP, rate=200, symbols=20) as load:
        wait_until(load.warm.is_set, 60, "the warm-up is sent")
        system.flows_again()
        system.restart(brokers[0], lose)
        if ROUNDS > 1:
            for end in (Broker.kill, Broker.stop, lose):
                for broker in brokers:
                    system.restart(broker, end)
        system.whole()
        for broker in brokers[1:]:
            broker.kill()
        producer = processes.start(
            "producer", *topics.flags(), *REPLICATED, "--symbols", "IBM", "--metrics-port", "0"
        )
        wait_until(lambda: system.worker.probe("/readyz") == 503, 20, "the worker says so")
        assert system.worker.probe("/livez") == 200, "a restart would not help"
        time.sleep(AWAY_S)
        assert producer.exit_code is None
        for broker in brokers[1:]:
            broker.launch()
        for broker in brokers[1:]:
            broker.wait_ready()
        system.flows_again()
        assert producer.wait(60) == 0, producer.log_tail()
        load.finish()
    forecasts = system.settled(load.owed())
    assert not unlike_a_replay(topics, MODELS, forecasts)
    wait_until(
        lambda: followed(system.api).get("lag") == 0 and followed(system.api)["connected"],
        RECOVERED_S, "the API follows", process=system.api.process,
    )  # fmt: skip
    assert followed(system.api)["series"] == 21
    assert system.worker.process.stop(15) == 0
    print(f"recovered after {[round(s, 1) for s in system.recovered_s]} s", flush=True)
    for process in (producer, system.worker.process, system.api.process):
        assert "Traceback" not in log_of(process)
