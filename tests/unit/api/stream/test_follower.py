"""The follower through failures of any kind, on a broker in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from api.background import Background
from api.stream import follower as following
from api.stream.follower import Follower, StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from shared.candles import Candle
from shared.kafka import KafkaSettings
from shared.metrics import ApiMetrics
from tests.candles import walk
from tests.kafka_contract import PARTITIONS, made, publish, until, within
from tests.memory_kafka import MemoryBroker, MemoryConsumer, install
from tests.unit.api.client import application, call


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    monkeypatch.setattr(following, "_BACK_OFF_S", (0.01, 0.02))
    monkeypatch.setattr(following, "CHECK_S", 0.01)
    return install(monkeypatch)


@pytest.fixture
def kafka(broker: MemoryBroker) -> KafkaSettings:
    del broker
    return KafkaSettings.read([], "tests").model_copy(update={"partitions": PARTITIONS})


def followed(
    kafka: KafkaSettings, lookback: int, body: Callable[[StreamView], Coroutine[Any, Any, None]]
) -> StreamView:
    """Run ``body`` while a follower runs; return what it sees at the end."""
    live = StreamView(Market(), Hub())
    metrics = ApiMetrics(CollectorRegistry())

    async def run() -> None:
        await made(kafka)
        task = asyncio.ensure_future(Follower(kafka, live, metrics, lookback).run())
        await until(lambda: live.connected)
        await body(live)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    within(run())
    return live


def candles_seen(live: StreamView) -> int:
    return sum(len(series.candles) for series in live.market.series.values())


@pytest.mark.parametrize(
    "error",
    [RuntimeError("unable to perform operation"), KeyError("x"), asyncio.CancelledError()],
)
def test_whatever_leaves_the_client_it_is_made_again(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """uvloop's RuntimeError ended the follower for good, and so did aiokafka's CancelledError."""
    await_error: list[BaseException] = []
    getmany = MemoryConsumer.getmany

    async def failing(consumer: MemoryConsumer, *parts: Any, **options: Any) -> Any:
        if await_error:
            raise await_error.pop()
        return await getmany(consumer, *parts, **options)

    monkeypatch.setattr(MemoryConsumer, "getmany", failing)

    async def body(live: StreamView) -> None:
        await publish(kafka, walk(5))
        await until(lambda: candles_seen(live) == 5)
        await_error.append(error)
        await until(lambda: not live.connected)
        await publish(kafka, walk(5, first=5))
        await until(lambda: live.connected and candles_seen(live) == 10)

    followed(kafka, 1000, body)


def test_after_a_failure_it_goes_on_where_it_was(
    kafka: KafkaSettings, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read the whole look-back again, 122 s long."""

    async def body(live: StreamView) -> None:
        await publish(kafka, walk(20))
        await until(lambda: candles_seen(live) == 20)
        taken: list[object] = []
        add_candle = live.market.add_candle

        def add_and_note(candle: Candle, *rest: Any) -> Any:
            taken.append(candle)
            return add_candle(candle, *rest)

        monkeypatch.setattr(live.market, "add_candle", add_and_note)
        broker.is_up = False
        await until(lambda: not live.connected)
        broker.is_up = True
        await publish(kafka, walk(3, first=20))
        await until(lambda: live.connected and candles_seen(live) == 23)
        assert len(taken) == 3

    followed(kafka, 1000, body)


def test_after_a_long_stall_only_the_newest_are_read(
    kafka: KafkaSettings, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many that each of many symbols is among them, however slow the reading was."""
    monkeypatch.setattr(following, "BURST", 10 * PARTITIONS)
    monkeypatch.setattr(following, "CATCH_UP_S", 0.0)

    async def body(live: StreamView) -> None:
        await publish(kafka, walk(5))
        await until(lambda: candles_seen(live) == 5)
        broker.is_up = False
        await until(lambda: not live.connected)
        broker.is_up = True
        later = walk(200, first=5)
        await publish(kafka, later)
        await until(lambda: live.connected)
        [series] = live.market.series.values()
        assert [kept.close_ms for kept in series.candles] == [one.close_ms for one in later[-10:]]

    followed(kafka, 1_000 * PARTITIONS, body)


def test_another_topic_of_the_same_name_is_read_from_its_newest(
    kafka: KafkaSettings, broker: MemoryBroker
) -> None:
    async def body(live: StreamView) -> None:
        await publish(kafka, walk(5))
        await until(lambda: candles_seen(live) == 5)
        broker.is_up = False
        await until(lambda: not live.connected)
        broker.is_up = True
        broker.topics.clear()
        await made(kafka)
        await publish(kafka, walk(9, first=50))
        await until(lambda: live.connected and candles_seen(live) == 9)

    followed(kafka, 1000, body)


def test_the_probes_say_why_the_stream_is_not_followed_and_since_when() -> None:
    live = StreamView(Market(), Hub(), detail="Kafka is out of reach", since_ms=0)
    said = call(application(live=live), "GET", "/readyz")
    assert said.status_code == 200
    assert "Kafka is out of reach, since 1970-01-01T00:00:00Z" in said.json()["detail"]


def test_a_follower_that_stands_still_fails_the_probe() -> None:
    live = StreamView(Market(), Hub(), turned_s=time.monotonic() - following.STANDSTILL_S - 1)
    said = call(application(live=live), "GET", "/livez")
    assert said.status_code == 503
    assert "stands still" in said.json()["detail"]


def test_a_follower_that_has_ended_fails_the_probe() -> None:
    async def ends() -> None:
        raise ValueError("no reason")

    async def run() -> None:
        background = Background({"the follower": ends})
        background.start()
        await asyncio.sleep(0.01)
        await background.stop()
        assert not background.health().ok
        app = application(background=background)
        said = await asyncio.to_thread(call, app, "GET", "/livez")
        assert said.status_code == 503

    asyncio.run(run())
