"""Topics that change under the worker: recreated, emptied, shortened, with other partitions."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest

from shared import topics as topics_of
from shared.candles import Candle
from shared.forecasts import Forecast
from shared.topics import BROKERS_TIME, Topic, all_topics
from tests.candles import walk
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import count, read, read_forecasts, write_candles
from tests.integration.workers import (
    RunningWorker,
    WorkerTopics,
    launch_worker,
    start_worker,
    wait_ready,
)
from tests.kafka import kafka_at
from tests.recipes import Recipe

pytestmark = pytest.mark.integration

DONE_S = 60.0
NEEDED = 144
EXTRA = 20
SYMBOLS = ("AAPL", "MSFT", "IBM")


@pytest.fixture
def topics(kafka: str, unique_name: Callable[[str], str]) -> WorkerTopics:
    return WorkerTopics.make(kafka, unique_name)


def market(days: int, first: int = 0) -> list[Candle]:
    """Return candles of all symbols, day by day."""
    walks = [walk(days, first=first, symbol=symbol) for symbol in SYMBOLS]
    return [candle for day in zip(*walks, strict=True) for candle in day]


def owed(candles: Sequence[Candle]) -> int:
    return max(0, len(candles) - len(SYMBOLS) * (NEEDED - 1))


def wait_for(
    topics: WorkerTopics, forecasts: int, worker: RunningWorker, since: int = 0
) -> list[Forecast]:
    """Wait for so many forecasts in all; return those of candles that close after ``since``."""
    wait_until(
        lambda: count(topics.bootstrap, topics.forecasts) >= forecasts,
        DONE_S, f"{forecasts} forecasts", process=worker.process,
    )  # fmt: skip
    made = read_forecasts(topics.bootstrap, topics.forecasts)
    return [forecast for forecast in made if forecast.as_of_ms > since]


def warm(processes: Processes, topics: WorkerTopics) -> None:
    """Let a worker forecast a first history, and stop it in order."""
    candles = market(NEEDED + EXTRA)
    worker = start_worker(processes, topics)
    write_candles(topics.bootstrap, topics.candles, candles)
    wait_for(topics, owed(candles), worker)
    assert worker.process.stop(15) == 0


def recreate(
    bootstrap: str, name: str, partitions: int = 8, config: Mapping[str, str] = BROKERS_TIME
) -> None:
    async def run() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([name])
            while name in await admin.list_topics():  # noqa: ASYNC110 - the broker's state
                await asyncio.sleep(0.05)
        finally:
            await admin.close()
        await topics_of.ensure(kafka_at(bootstrap), [Topic(name, partitions, 1, config)])

    asyncio.run(asyncio.wait_for(run(), DONE_S))


def test_a_recreated_topic_that_has_outgrown_the_offsets_is_known_by_its_id(
    processes: Processes, topics: WorkerTopics
) -> None:
    warm(processes, topics)
    recreate(topics.bootstrap, topics.candles)
    before = count(topics.bootstrap, topics.forecasts)
    longer = market(2 * (NEEDED + EXTRA), first=2000)
    write_candles(topics.bootstrap, topics.candles, longer)
    refused = launch_worker(processes, topics)
    assert refused.process.wait(DONE_S) == 1
    assert "it was deleted and created again" in refused.process.log.read_text()
    assert count(topics.bootstrap, topics.forecasts) == before

    worker = start_worker(processes, topics, "--when-recreated", "begin")
    made = wait_for(topics, before + owed(longer), worker, longer[0].open_ms)
    assert worker.process.stop(15) == 0
    known = {(forecast.symbol, forecast.as_of_ms) for forecast in made}
    full = [candle for candle in longer if candle.open_ms >= longer[3 * (NEEDED - 1)].open_ms]
    assert known >= {(candle.symbol, candle.close_ms) for candle in full}

    again = start_worker(processes, topics)  # the windows of the topic before stay forgotten
    more = market(3, first=2000 + 2 * (NEEDED + EXTRA))
    write_candles(topics.bootstrap, topics.candles, more)
    wait_for(topics, before + owed(longer) + len(more), again)
    assert again.process.stop(15) == 0


def test_windows_that_the_changelog_has_lost_are_rebuilt_from_the_candles(
    processes: Processes, topics: WorkerTopics
) -> None:
    warm(processes, topics)
    before = count(topics.bootstrap, topics.forecasts)
    changelog = all_topics(kafka_at(topics.bootstrap), topics.group)[-1]
    recreate(topics.bootstrap, changelog.name, config=changelog.config)
    worker = start_worker(processes, topics)
    assert "rebuilt from the candles topic" in worker.process.log.read_text()
    assert worker.metrics()["candlecast_windows_rebuilt_total"] == len(SYMBOLS)
    more = market(5, first=NEEDED + EXTRA)
    write_candles(topics.bootstrap, topics.candles, more)
    made = wait_for(topics, before + len(more), worker, more[0].open_ms)
    assert worker.process.stop(15) == 0
    assert {forecast.as_of_ms for forecast in made} == {one.close_ms for one in more}


def test_a_longer_window_is_filled_from_the_candles_topic(
    processes: Processes, topics: WorkerTopics, tmp_path: Path
) -> None:
    days, needed = 170, 40
    model = ("--model", str(Recipe(window_length=needed).write(tmp_path / "short")))
    worker = start_worker(processes, topics, *model)
    write_candles(topics.bootstrap, topics.candles, market(days))
    wait_for(topics, len(SYMBOLS) * (days - needed + 1), worker)
    assert worker.process.stop(15) == 0
    worker = start_worker(processes, topics, *model, "--window", "160")
    assert worker.metrics()["candlecast_windows_rebuilt_total"] == len(SYMBOLS)
    assert worker.metrics()["candlecast_window_bytes"] > len(SYMBOLS) * 28 * 160
    assert worker.process.stop(15) == 0


def test_a_symbol_that_changes_its_partition_keeps_its_window(
    processes: Processes, topics: WorkerTopics
) -> None:
    warm(processes, topics)
    before = count(topics.bootstrap, topics.forecasts)
    worker = start_worker(processes, topics)
    more = market(6, first=NEEDED + EXTRA)

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=topics.bootstrap) as producer:
            for candle in more:  # as a client with another partitioner does
                key, value = candle.symbol.encode(), candle.encode()
                await producer.send_and_wait(topics.candles, value, key, partition=7)

    asyncio.run(asyncio.wait_for(send(), DONE_S))
    made = wait_for(topics, before + len(more), worker, more[0].open_ms)
    assert {forecast.as_of_ms for forecast in made} == {one.close_ms for one in more}
    moved = worker.metrics()["candlecast_series_moved_total"]
    assert 2 <= moved <= 3, "of those that did not lie there already"
    assert worker.probe("/livez") == 200
    assert worker.process.stop(15) == 0


def grow(topics: WorkerTopics, partitions: int) -> None:
    """Add partitions to every topic, as an operator does."""

    async def run() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=topics.bootstrap)
        await admin.start()
        try:
            names = [topics.candles, topics.forecasts, topics.scores, topics.dlq, topics.changelog]
            await admin.create_partitions({name: NewPartitions(partitions) for name in names})
        finally:
            await admin.close()

    asyncio.run(asyncio.wait_for(run(), DONE_S))


def places(topics: WorkerTopics) -> Mapping[str, set[int]]:
    """Return for each series the partitions of the changelog that have a window of it."""
    newest: dict[tuple[str, int], bytes | None] = {}
    for record in read(topics.bootstrap, topics.changelog):
        key = (record.key or b"").decode()
        if not key.startswith("|") and "|tail" not in key:
            newest[key, record.partition] = record.value
    found: dict[str, set[int]] = defaultdict(set)
    for (key, partition), window in newest.items():
        if window:
            found[key].add(partition)
    return found


def test_windows_follow_their_symbols_to_new_partitions(
    processes: Processes, topics: WorkerTopics
) -> None:
    """Two workers: who has a symbol's new partition need not have had the old one."""
    symbols = [f"S{number}" for number in range(24)]

    def days(count: int, first: int = 0) -> list[Candle]:
        walks = [walk(count, first=first, symbol=symbol) for symbol in symbols]
        return [candle for day in zip(*walks, strict=True) for candle in day]

    worker = start_worker(processes, topics)
    write_candles(topics.bootstrap, topics.candles, days(NEEDED + 2))
    wait_for(topics, 3 * len(symbols), worker)
    grow(topics, 12)
    assert worker.process.wait(DONE_S) == 1
    assert "expected 8 partitions, got 12" in worker.process.log.read_text()

    both = [launch_worker(processes, topics, "--partitions", "12") for _ in range(2)]
    for one in both:
        wait_ready(one)
    more = days(3, first=NEEDED + 2)
    write_candles(topics.bootstrap, topics.candles, more)
    made = wait_for(topics, 6 * len(symbols), both[0], more[0].open_ms)
    assert {(one.symbol, one.as_of_ms) for one in made} == {(c.symbol, c.close_ms) for c in more}
    for one in both:
        assert one.process.stop(15) == 0
    said = "".join(one.process.log.read_text() for one in both)
    assert "12 partitions, it had 8" in said
    found = places(topics)
    assert len(found) == len(symbols)
    assert all(len(partitions) == 1 for partitions in found.values()), "no orphans"


def test_candles_that_retention_took_before_they_were_read_are_counted(
    processes: Processes, topics: WorkerTopics
) -> None:
    warm(processes, topics)
    gone = market(4, first=NEEDED + EXTRA)
    write_candles(topics.bootstrap, topics.candles, gone)

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=topics.bootstrap)
        await admin.start()
        try:
            parts = [TopicPartition(topics.candles, number) for number in range(8)]
            ends = {part: RecordsToDelete(before_offset=-1) for part in parts}
            await admin.delete_records(ends)
        finally:
            await admin.close()

    asyncio.run(asyncio.wait_for(delete(), DONE_S))
    worker = start_worker(processes, topics)
    lost = [
        value for name, value in worker.metrics().items()
        if name.startswith("candlecast_messages_lost_total")
    ]  # fmt: skip
    assert sum(lost) == len(gone)
    assert "were gone from the topic before they were read" in worker.process.log.read_text()
    wait_until(lambda: worker.probe("/livez") == 200, 10, "liveness", process=worker.process)
    assert worker.process.stop(15) == 0


def test_a_deleted_group_costs_a_reading_and_nothing_else(
    processes: Processes, topics: WorkerTopics
) -> None:
    """Without its offsets the topic is read from its beginning; the windows know what they had."""
    warm(processes, topics)
    before = count(topics.bootstrap, topics.forecasts)

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=topics.bootstrap)
        await admin.start()
        try:
            client = admin._client  # aiokafka has no method for it
            answer = await client.send(
                client.get_random_node(), DeleteGroupsRequest([topics.group])
            )
            assert answer.results == [(topics.group, 0)]
        finally:
            await admin.close()

    asyncio.run(asyncio.wait_for(delete(), DONE_S))
    more = market(2, first=NEEDED + EXTRA)
    write_candles(topics.bootstrap, topics.candles, more)
    worker = start_worker(processes, topics)
    made = wait_for(topics, before + len(more), worker, more[0].open_ms)
    again = 'candlecast_candles_consumed_total{"outcome": "redelivered"}'
    wait_until(
        lambda: worker.metrics().get(again) == len(SYMBOLS) * (NEEDED + EXTRA),
        DONE_S, "all read again", process=worker.process,
    )  # fmt: skip
    assert {(one.symbol, one.as_of_ms) for one in made} == {(c.symbol, c.close_ms) for c in more}
    assert count(topics.bootstrap, topics.forecasts) == before + len(more), "no repeats"
    assert worker.process.stop(15) == 0


def test_candles_of_an_aborted_transaction_are_not_candles(
    processes: Processes, topics: WorkerTopics, unique_name: Callable[[str], str]
) -> None:
    warm(processes, topics)
    before = count(topics.bootstrap, topics.forecasts)
    worker = start_worker(processes, topics)
    aborted, kept = market(2, first=NEEDED + EXTRA), market(2, first=NEEDED + EXTRA + 2)

    async def send() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=topics.bootstrap, transactional_id=unique_name("transaction")
        )
        async with producer:
            for candles, commits in ((aborted, False), (kept, True)):
                await producer.begin_transaction()
                for candle in candles:
                    await producer.send(topics.candles, candle.encode(), candle.symbol.encode())
                await producer.flush()
                await (producer.commit_transaction() if commits else producer.abort_transaction())

    asyncio.run(asyncio.wait_for(send(), DONE_S))
    made = wait_for(topics, before + len(kept), worker, aborted[0].open_ms)
    assert {forecast.as_of_ms for forecast in made} == {one.close_ms for one in kept}
    assert worker.process.stop(15) == 0


def test_a_message_too_large_for_a_dead_letter_is_put_aside_in_part(
    processes: Processes, topics: WorkerTopics
) -> None:
    worker = start_worker(processes, topics)

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=topics.bootstrap, max_request_size=1 << 20)
        async with producer:
            headers = [("h", b"x" * 200_000)]
            value, key = b"[" + b"0," * 380_000 + b"0]", b"k" * 5000
            await producer.send_and_wait(topics.candles, value, key, headers=headers)

    asyncio.run(asyncio.wait_for(send(), DONE_S))
    write_candles(topics.bootstrap, topics.candles, market(NEEDED))
    wait_for(topics, len(SYMBOLS), worker)
    [letter] = read(topics.bootstrap, topics.dlq)
    assert letter.headers["candlecast-value-bytes"] == b"760003"
    assert letter.headers["candlecast-key-bytes"] == b"5000"
    assert letter.headers["candlecast-headers-bytes"] == b"200001"
    assert len(letter.headers["candlecast-value-sha256"]) == 64
    assert worker.process.stop(15) == 0
