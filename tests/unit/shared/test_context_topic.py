"""The context topic, followed on a broker in memory: whole, for what is wanted, past any fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from shared import context_topic, topics
from shared import kafka as clients
from shared.candles import Candle
from shared.context import NEVER, ContextSpec, context_key
from shared.context_topic import ContextReader
from shared.kafka import KafkaSettings, Partition, Record
from shared.metrics import ModelMetrics
from tests.candles import candle, walk
from tests.kafka_contract import until, within
from tests.memory_kafka import MemoryBroker, install

SPEC: Final = ContextSpec(symbols=("^GSPC", "^VIX"), interval="1d", length=4)
GOLD: Final = ContextSpec(symbols=("GC=F",), interval="1d", length=4)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    monkeypatch.setattr(context_topic, "RETRY_S", 0.01)
    monkeypatch.setattr(clients, "RETRY_S", 0.005)
    monkeypatch.setattr(clients, "POLL_MS", 5)
    return install(monkeypatch)


@pytest.fixture
def kafka(broker: MemoryBroker) -> KafkaSettings:
    del broker
    return KafkaSettings.read([], "tests")


def measured() -> ModelMetrics:
    return ModelMetrics(CollectorRegistry())


def rejected(metrics: ModelMetrics) -> dict[str, float]:
    """Return how many messages were passed over, by reason."""
    [family] = metrics.context_rejects.collect()
    return {
        sample.labels["reason"]: sample.value
        for sample in family.samples
        if sample.value and sample.name.endswith("_total")
    }


def append(broker: MemoryBroker, candles: Sequence[Candle]) -> None:
    for made in candles:
        garbage(broker, context_key(made), made.encode())


def garbage(broker: MemoryBroker, key: bytes | None, value: bytes | None) -> None:
    broker.append(Partition("market.context.v1", 0), key, value, ())


@asynccontextmanager
async def reading(
    kafka: KafkaSettings, metrics: ModelMetrics, *specs: ContextSpec
) -> AsyncIterator[ContextReader]:
    reader = ContextReader(kafka, metrics)
    reader.want(specs)
    following = asyncio.create_task(reader.run())
    yield reader
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


def holds(reader: ContextReader) -> bool:
    return reader.is_read


async def made(kafka: KafkaSettings) -> None:
    await topics.ensure(kafka, [topics.context_topic(kafka)])


def test_it_holds_what_was_there_and_what_comes_of_what_is_wanted(
    kafka: KafkaSettings, broker: MemoryBroker
) -> None:
    async def run() -> list[int]:
        await made(kafka)
        append(broker, [*walk(3, symbol="^GSPC"), *walk(5, symbol="GC=F")])
        async with reading(kafka, measured(), SPEC) as reader:
            assert await reader.until_read(5)
            before = reader.store.newest_ms("^GSPC", "1d")
            append(broker, [candle(3, symbol="^GSPC")])
            await until(lambda: reader.store.newest_ms("^GSPC", "1d") > before)
            corrected = candle(3, 50.0, symbol="^GSPC")
            append(broker, [corrected])
            await until(lambda: reader.store.window(SPEC, corrected.close_ms).closes[-1, 0] == 50)
            return [before, reader.store.newest_ms("GC=F", "1d")]

    assert within(run()) == [walk(3)[-1].close_ms, NEVER]


def test_garbage_is_counted_and_stops_nothing(kafka: KafkaSettings, broker: MemoryBroker) -> None:
    metrics = measured()
    good = walk(3, symbol="^VIX")
    overlapping = candle(1, symbol="^VIX").model_copy(
        update={"open_ms": good[1].open_ms + 1, "close_ms": good[1].close_ms}
    )

    async def run() -> int:
        await made(kafka)
        append(broker, good[:2])
        garbage(broker, b"^VIX|1d|0", b"{")
        garbage(broker, None, good[0].encode())
        garbage(broker, b"^VIX", good[0].encode())
        append(broker, [candle(9_000, symbol="^VIX")])
        garbage(broker, context_key(good[0]), None)  # takes it away
        append(broker, [overlapping, good[2]])
        async with reading(kafka, metrics, SPEC) as reader:
            assert await reader.until_read(5)
            return reader.store.newest_ms("^VIX", "1d")

    assert within(run()) == good[2].close_ms
    assert rejected(metrics) == {"not_json": 1, "wrong_key": 2, "future": 1, "overlaps": 1}


def test_a_model_with_another_context_has_the_topic_read_again(
    kafka: KafkaSettings, broker: MemoryBroker
) -> None:
    """A swap: none at first, then one, then both, then none."""

    async def run() -> None:
        await made(kafka)
        append(broker, [*walk(3, symbol="^GSPC"), *walk(5, symbol="GC=F")])
        async with reading(kafka, measured()) as reader:
            assert holds(reader), "nothing is wanted"
            reader.want([SPEC])
            assert not holds(reader)
            assert await reader.until_read(5)
            reader.want([SPEC, GOLD])
            assert not holds(reader)
            assert await reader.until_read(5)
            assert reader.store.newest_ms("GC=F", "1d") == walk(5)[-1].close_ms
            assert len(reader.store.window(SPEC, walk(3)[-1].close_ms).closes) == 4
            reader.want([])
            assert holds(reader), "nothing is wanted any more"
            append(broker, [candle(7, symbol="^GSPC")])
            reader.want([SPEC])
            assert await reader.until_read(5)
            assert reader.store.newest_ms("^GSPC", "1d") == candle(7).close_ms

    within(run())


def test_a_topic_that_is_missing_is_nothing_and_is_followed_once_it_is_there(
    kafka: KafkaSettings, broker: MemoryBroker
) -> None:
    async def run() -> None:
        async with reading(kafka, measured(), SPEC) as reader:
            assert await reader.until_read(5)
            await made(kafka)
            append(broker, walk(3, symbol="^GSPC"))
            await until(lambda: reader.store.newest_ms("^GSPC", "1d") != NEVER)

    within(run())


def test_it_goes_on_behind_what_it_read_after_a_failure(
    kafka: KafkaSettings, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = measured()
    follow = clients.follow
    broken = [KeyError("a fault of ours"), OSError("reset"), None]

    async def failing(*of: object) -> AsyncIterator[list[Record]]:
        error = broken.pop(0)
        async for records in follow(*of):  # type: ignore[arg-type]
            yield records
            if error is not None and not records:
                raise error

    async def run() -> None:
        await made(kafka)
        garbage(broker, b"^VIX|1d|0", b"{")
        append(broker, walk(3, symbol="^GSPC"))
        monkeypatch.setattr(clients, "follow", failing)
        async with reading(kafka, metrics, SPEC) as reader:
            await until(lambda: not broken)
            append(broker, [candle(3, symbol="^GSPC")])
            await until(lambda: reader.store.newest_ms("^GSPC", "1d") == candle(3).close_ms)

    within(run())
    assert rejected(metrics) == {"not_json": 1}, "what was read before is not read again"


def test_a_topic_created_again_is_read_from_its_beginning(
    kafka: KafkaSettings, broker: MemoryBroker
) -> None:
    async def run() -> None:
        await made(kafka)
        append(broker, walk(9, symbol="^GSPC"))
        async with reading(kafka, measured(), SPEC) as reader:
            assert await reader.until_read(5)
            broker.is_up = False
            del broker.topics["market.context.v1"]
            broker.is_up = True
            await made(kafka)
            append(broker, [candle(20, symbol="^GSPC")])
            reader._readings += 1  # a new client, as after any failure
            await until(lambda: reader.store.newest_ms("^GSPC", "1d") == candle(20).close_ms)

    within(run())
