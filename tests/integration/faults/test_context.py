"""Context under load: kill anything, late, out of order, away; every forecast has its own.

A replay of the topics without a fault gives the same forecasts, by identity: an id takes in all
closes of the context that its model was given.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pytest

from local.broker import Broker
from shared import bundle, context_topic
from shared.candles import DAY_MS, Candle
from shared.context import ContextSpec, context_key
from shared.forecaster import ModelSet, OnnxForecaster
from shared.forecasts import Forecast
from shared.leash import Leash
from tests import bundles
from tests.candles import START_MS, candle
from tests.integration.faults.load import (
    Load,
    clean_account,
    replay,
    wait_for_replay,
)
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import count, read_forecasts
from tests.integration.workers import RunningWorker, WorkerTopics, start_worker
from tests.kafka import kafka_at

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SPEC: Final = ContextSpec(symbols=("^GSPC", "^VIX"), interval="1d", length=4)
WARM_UP: Final = bundles.LENGTH - 1
SYMBOLS: Final = 50
RATE: Final = 500.0  # candles a second, so 10 days
DONE_S: Final = 90.0
LAST_DAY: Final = WARM_UP + 20
"""The context's last day, where its producer goes away."""

Arrival = Literal["before", "late", "disordered", "away"]


class LoadWithContext(Load):
    """A load whose days have a context, which arrives in one of several ways."""

    arrival: Arrival = "before"

    async def _send_once(self, candles: list[Candle]) -> None:
        days = sorted({(made.open_ms - START_MS) // DAY_MS for made in candles})
        if self.arrival == "late":
            await super()._send_once(candles)
            await asyncio.sleep(0.05)
            await self._send_context(days)
            return
        if self.arrival == "disordered":
            await self._send_context([*reversed(days), days[-1], max(days[-1] - 1, 0)])
        elif self.arrival == "before":
            await self._send_context(days)
        else:
            await self._send_context([day for day in days if day <= LAST_DAY])
        await super()._send_once(candles)

    async def _send_context(self, days: list[int]) -> None:
        producer = await self._connected()
        closed = [
            candle(day, 1.0 + day + 0.5 * at, symbol=symbol)
            for day in days
            for at, symbol in enumerate(SPEC.symbols)
        ]
        sent = [
            await producer.send(self._topics.context, made.encode(), context_key(made))
            for made in closed
        ]
        await asyncio.gather(*sent)


@dataclass
class Crew:
    """A worker whose model reads a context, started again when it has ended."""

    processes: Processes
    topics: WorkerTopics
    folder: Path

    def __post_init__(self) -> None:
        self.models = ModelSet(OnnxForecaster(bundle.load(self.folder)))
        self.worker = self.hire()

    def hire(self) -> RunningWorker:
        return start_worker(
            self.processes, self.topics, "--model", str(self.folder), "--session-seconds", "6",
            "--context-wait-seconds", "30",
        )  # fmt: skip

    def kill(self) -> None:
        """End the worker by SIGKILL and start another."""
        self.worker.process.kill()
        self.worker = self.hire()

    def mend(self) -> None:
        if self.worker.process.exit_code is not None:
            self.worker = self.hire()

    def load(self, arrival: Arrival) -> LoadWithContext:
        made = LoadWithContext(self.topics, WARM_UP, rate=RATE, symbols=SYMBOLS)
        made.arrival = arrival
        return made

    def runs_on(self, forecasts: int = 400) -> None:
        """Wait until so many more forecasts are there; what happens meanwhile is the test."""
        at, topic = self.topics.bootstrap, self.topics.forecasts
        least = count(at, topic) + forecasts
        wait_until(
            lambda: count(at, topic) >= least, DONE_S, "the next forecasts",
            process=self.worker.process,
        )  # fmt: skip

    def account(self, load: Load) -> list[Forecast]:
        """Finish the load and return its forecasts: those of a replay, each with its scores."""
        load.finish()
        owed = load.owed()
        topics = self.topics
        account = clean_account(topics, owed, tend=self.mend)
        print(json.dumps({"owed": len(owed), "repeats": account.repeats}))
        kafka = kafka_at(topics.bootstrap).model_copy(update={"context_topic": topics.context})
        store = asyncio.run(context_topic.read(kafka))
        expected = replay(topics, self.models, store.window)
        forecasts = read_forecasts(topics.bootstrap, topics.forecasts)
        assert {made.id for made in forecasts} == expected.forecasts
        wait_for_replay(topics, self.models, expected)
        return forecasts


@pytest.fixture
def own_broker(tmp_path: Path, leash: Leash) -> Iterator[Broker]:
    """A broker of the test's own, on data that survive it."""
    with Broker(tmp_path / "kafka", leash=leash) as broker:
        yield broker


@pytest.fixture
def new_crew(
    processes: Processes, unique_name: Callable[[str], str], tmp_path: Path
) -> Callable[[str], Crew]:
    """A function that hires a crew at a broker's address, on topics of its own."""
    folder = bundles.write(tmp_path / "reading", context=SPEC)
    return lambda at: Crew(processes, WorkerTopics.make(at, unique_name), folder)


def ages(forecasts: list[Forecast]) -> dict[int, set[int | None]]:
    """Return how many days old the context of the forecasts of each day was; None without any."""
    found: dict[int, set[int | None]] = defaultdict(set)
    for made in forecasts:
        known = made.context_as_of_ms
        day = (made.as_of_ms - START_MS) // DAY_MS - 1
        found[day].add(None if known is None else (made.as_of_ms - known) // DAY_MS)
    return found


@pytest.mark.parametrize("arrival", ["before", "late", "disordered"])
def test_a_worker_killed_at_random_instants_joins_as_before(
    new_crew: Callable[[str], Crew], kafka: str, arrival: Arrival
) -> None:
    """No forecast is without the context of its own close, however the context arrives."""
    crew = new_crew(kafka)
    chance = random.Random(1)
    with crew.load(arrival) as load:
        crew.runs_on()
        for _ in range(2):
            crew.runs_on(chance.randrange(100, 600))
            crew.kill()
        crew.runs_on()
        forecasts = crew.account(load)
    assert set().union(*ages(forecasts).values()) == {0}
    assert crew.worker.process.stop(15) == 0


def test_a_broker_killed_and_restarted_loses_no_context(
    new_crew: Callable[[str], Crew], own_broker: Broker
) -> None:
    crew = new_crew(own_broker.bootstrap)
    with crew.load("before") as load:
        crew.runs_on()
        own_broker.kill()
        own_broker.restart()
        crew.runs_on()
        forecasts = crew.account(load)
    assert set().union(*ages(forecasts).values()) == {0}


def test_forecasts_go_on_when_the_producer_of_context_is_away(
    new_crew: Callable[[str], Crew], kafka: str
) -> None:
    """They read what is known, say how old it is, and after a week read none."""
    crew = new_crew(kafka)
    crew.worker.process.kill()
    crew.worker = start_worker(
        crew.processes, crew.topics, "--model", str(crew.folder), "--session-seconds", "6",
        "--context-wait-seconds", "1",
    )  # fmt: skip
    with crew.load("away") as load:
        crew.runs_on((LAST_DAY + 15) * SYMBOLS)
        forecasts = crew.account(load)
    found = ages(forecasts)
    assert found[LAST_DAY] == {0}
    assert [found[LAST_DAY + day] for day in range(1, 8)] == [{day} for day in range(1, 8)]
    assert found[LAST_DAY + 8] == {None}
    late = sum(
        value
        for name, value in crew.worker.metrics().items()
        if name.startswith("candlecast_context_late_total")
    )
    assert late == len(SPEC.symbols), "each is awaited in vain once"
