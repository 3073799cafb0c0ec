"""What our clients of Kafka promise, on any broker: one suite for memory and for the real one.

A module that runs it derives a class and brings the fixture ``kafka``: settings of a broker, with
topics that no other test has. The topics are made by ``made``.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from api.stream.follower import Follower as ApiFollower
from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from local.accounting import Accounting
from local.follow import Follower as LocalFollower
from producer.resume import newest_published
from producer.sink import KafkaSink, PublishError
from producer.source import Kind, Publication
from shared import kafka as clients
from shared import topics
from shared.candles import Candle, InvalidCandle, RejectReason
from shared.forecaster import ModelSet
from shared.forecasts import Forecast
from shared.kafka import KafkaSettings, Partition, Record
from shared.metrics import ApiMetrics, ProducerMetrics, WorkerMetrics
from shared.score_messages import Scores
from shared.terminal import Console
from shared.topics import Topic, TopicError
from stream_app import dlq
from stream_app.fence import Fence
from stream_app.pipeline import BatchResult, Incoming, advance
from stream_app.publisher import Publisher
from stream_app.settings import ReplaySettings, WorkerSettings
from tests.candles import walk
from tests.forecasters import LastMove

T = TypeVar("T")

PARTITIONS = 3
PATIENCE_S = 30.0
MODELS = ModelSet(LastMove())


def within(work: Coroutine[Any, Any, T]) -> T:
    """Run work for a while at most, and return its result."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return asyncio.run(bounded())


async def until(condition: Callable[[], object | Awaitable[object]]) -> None:
    while True:
        met = condition()
        if await met if inspect.isawaitable(met) else met:
            return
        await asyncio.sleep(0.01)


async def made(kafka: KafkaSettings) -> None:
    await topics.ensure(kafka, topics.market_topics(kafka))


async def read(kafka: KafkaSettings, topic: str) -> list[Record]:
    parts = [Partition(topic, number) for number in await topics.partitions_of(kafka, topic)]
    async with clients.connected(clients.consumer(kafka)) as consumer:
        starts = await consumer.beginning_offsets(parts)
        ends = await consumer.end_offsets(parts)
        return [
            record
            async for records in clients.read_to_end(consumer, starts, ends)
            for record in records
        ]


async def publish(kafka: KafkaSettings, candles: list[Candle]) -> None:
    metrics = ProducerMetrics(CollectorRegistry())
    async with KafkaSink(kafka, metrics, "test", buffered=5000) as sink:
        for candle in candles:
            await sink.publish(Publication(candle, Kind.CLOSED))
        await sink.flush()


def incoming(records: list[Record]) -> list[Incoming]:
    return [
        Incoming(record.key, record.value, record.partition, record.offset, record.timestamp)
        for record in records
    ]


def publisher_of(settings: WorkerSettings) -> Publisher:
    return Publisher(settings, Fence(), WorkerMetrics(CollectorRegistry()))


def worker_of(kafka: KafkaSettings) -> WorkerSettings:
    read = WorkerSettings.read([], "tests")
    return read.model_copy(update=kafka.model_dump() | {"group": f"{kafka.candles_topic}-group"})


class KafkaContract:
    """The suite."""

    def test_topics_are_made_once_and_checked(self, kafka: KafkaSettings) -> None:
        async def twice() -> list[int]:
            assert await topics.partitions_of(kafka, kafka.candles_topic) == []
            await made(kafka)
            await made(kafka)
            with pytest.raises(TopicError, match=f"expected 4 partitions, got {PARTITIONS}"):
                await topics.ensure(kafka, [Topic(kafka.candles_topic, 4, 1)])
            return await topics.partitions_of(kafka, kafka.candles_topic)

        assert within(twice()) == list(range(PARTITIONS))

    def test_a_topic_of_another_policy_is_refused(self, kafka: KafkaSettings) -> None:
        """Windows in a topic that deletes, and candles with times of their senders' clocks."""
        changelog = topics.all_topics(kafka, worker_of(kafka).group)[-1]

        async def ensure(name: str, config: Mapping[str, str], wanted: Topic) -> None:
            await topics.ensure(kafka, [Topic(name, PARTITIONS, 1, config)])
            await topics.ensure(kafka, [wanted])

        by_sender = f"{re.escape(kafka.candles_topic)}: expected message.timestamp.type=LogAppend"
        with pytest.raises(TopicError, match=f"{by_sender}Time, got CreateTime; python -m"):
            within(ensure(kafka.candles_topic, {}, topics.market_topics(kafka)[0]))
        with pytest.raises(TopicError, match=r"expected cleanup\.policy=compact, got delete"):
            within(ensure(changelog.name, topics.BROKERS_TIME, changelog))

    def test_a_topic_is_read_from_anywhere_to_its_end_and_no_further(
        self, kafka: KafkaSettings
    ) -> None:
        part, other = (Partition(kafka.candles_topic, number) for number in range(2))

        async def some() -> list[list[bytes | None]]:
            await made(kafka)
            async with (
                clients.connected(clients.producer(kafka)) as producer,
                clients.connected(clients.consumer(kafka)) as consumer,
            ):
                sent = [
                    await producer.send(part.topic, b"%d" % number, None, part.partition)
                    for number in range(9)
                ]
                await asyncio.gather(*sent)
                spans = [({part: 0, other: 0}, {part: 9, other: 0}), ({part: 4}, {part: 6}),
                         ({part: 2}, {part: 2})]  # fmt: skip
                return [
                    [
                        record.value
                        async for records in clients.read_to_end(consumer, *span)
                        for record in records
                    ]
                    for span in spans
                ]

        whole = [b"%d" % number for number in range(9)]
        assert within(some()) == [whole, whole[4:6], []]

    def test_a_follower_sees_what_comes_later(self, kafka: KafkaSettings) -> None:
        part = Partition(kafka.candles_topic, 0)

        async def later() -> list[bytes | None]:
            await made(kafka)
            values: list[bytes | None] = []
            async with (
                clients.connected(clients.producer(kafka)) as producer,
                clients.connected(clients.consumer(kafka)) as consumer,
            ):
                async for records in clients.follow(consumer, {part: 0}):
                    values += [record.value for record in records]
                    if len(values) == 3:
                        assert await clients.has_reached(consumer, {part: 3})
                        assert not await clients.has_reached(consumer, {part: 4})
                        return values
                    if not records or len(values) == 1:
                        await (await producer.send(part.topic, b"%d" % len(values), None, 0))
            raise AssertionError

        assert within(later()) == [b"0", b"1", b"2"]

    def test_a_follower_leaves_partitions_aside_and_loses_nothing_of_them(
        self, kafka: KafkaSettings
    ) -> None:
        parts = [Partition(kafka.candles_topic, number) for number in range(2)]

        async def by_turns() -> list[tuple[int, bytes | None]]:
            await made(kafka)
            async with (
                clients.connected(clients.producer(kafka)) as producer,
                clients.connected(clients.consumer(kafka)) as consumer,
            ):
                for number in range(6):
                    await (await producer.send(parts[0].topic, b"%d" % number, None, number % 2))
                starts = dict.fromkeys(parts, 0)
                wanted, read = [parts[0]], []
                async for records in clients.follow(
                    consumer, starts, most=2, wanted=lambda: wanted
                ):
                    read += [(record.partition, record.value) for record in records]
                    if len(read) == 3:
                        wanted.clear()  # all
                    if len(read) == 6:
                        return read
            raise AssertionError

        first = [(0, b"0"), (0, b"2"), (0, b"4")]
        read = within(by_turns())
        assert read[:3] == first
        assert sorted(read[3:]) == [(1, b"1"), (1, b"3"), (1, b"5")]

    def test_a_sink_keeps_the_order_of_a_symbol_and_resume_finds_its_end(
        self, kafka: KafkaSettings
    ) -> None:
        candles = [*walk(30), *walk(20, symbol="MSFT")]

        async def both() -> tuple[list[Record], dict[str, list[Candle]]]:
            await made(kafka)
            await publish(kafka, candles)
            wanted = ["AAPL", "MSFT", "NONE"]
            newest = await newest_published(kafka, range(PARTITIONS), wanted, "1d")
            return await read(kafka, kafka.candles_topic), newest

        records, newest = within(both())
        for symbol in (b"AAPL", b"MSFT"):
            own = [record for record in records if record.key == symbol]
            assert len({record.partition for record in own}) == 1
            assert [Candle.model_validate_json(record.value or b"") for record in own] == [
                candle for candle in candles if candle.symbol == symbol.decode()
            ]
        assert dict(records[0].headers)["ce_type"] == b"market.candle.v1"
        assert {symbol: found[-1] for symbol, found in newest.items()} == {
            "AAPL": candles[29], "MSFT": candles[-1],
        }  # fmt: skip

    def test_what_was_appended_before_a_time_is_not_looked_for(self, kafka: KafkaSettings) -> None:
        async def since(time_ms: int) -> dict[str, list[Candle]]:
            partitions = range(PARTITIONS)
            return await newest_published(kafka, partitions, ["AAPL"], "1d", since_ms=time_ms)

        async def both() -> list[int]:
            await made(kafka)
            await publish(kafka, walk(3))
            return [len(await since(at_ms)) for at_ms in (1, 1 << 42)]

        assert within(both()) == [1, 0]

    def test_a_refused_candle_is_the_sink_s_error(self, kafka: KafkaSettings) -> None:
        async def refused() -> None:
            small = {"max.message.bytes": "100"}
            await topics.ensure(kafka, [Topic(kafka.candles_topic, PARTITIONS, 1, small)])
            await publish(kafka, walk(1))

        with pytest.raises(PublishError, match="a candle was refused: MessageSizeTooLarge"):
            within(refused())

    def test_a_publisher_s_batch_is_there_when_it_returns(self, kafka: KafkaSettings) -> None:
        worker = worker_of(kafka)
        changelog = Topic(worker.changelog_topic, PARTITIONS, 1)

        async def batch() -> tuple[BatchResult, *tuple[list[Record], ...]]:
            await topics.ensure(kafka, [*topics.market_topics(kafka), changelog])
            await publish(kafka, [*walk(5), *walk(4, symbol="MSFT")])
            records = await read(kafka, kafka.candles_topic)
            result = advance(incoming(records), lambda _: None, MODELS, 3, 1 << 42)
            result.rejected.append((0, InvalidCandle(RejectReason.NOT_JSON, "value: é")))
            publisher = publisher_of(worker)
            await publisher.start()
            await publisher.outputs(records, result, 0)
            await publisher.windows(result)
            written = [
                await read(kafka, topic)
                for topic in (
                    worker.forecasts_topic, worker.scores_topic, worker.changelog_topic,
                    worker.dlq_topic,
                )
            ]  # fmt: skip
            await publisher.stop()
            return result, *written

        result, *written = within(batch())
        forecasts, scores, windows, letters = written
        expected = {forecast.id for _, forecast in result.forecasts}
        assert {Forecast.decode(record.value or b"").id for record in forecasts} == expected
        assert len(expected) == 3 + 2
        settled = {scores.id for _, scores in result.scores}
        assert {Scores.decode(record.value).id for record in scores} == settled
        assert len(settled) == 2 + 1
        assert {record.key for record in windows} >= {b"AAPL|1d", b"MSFT|1d"}
        [letter] = letters
        about = {name: value.decode() for name, value in letter.headers}
        assert about["candlecast-reason"] == "not_json"
        assert about["candlecast-detail"] == "value: é"
        assert about["ce_type"] == "market.candle.v1"

    def test_dead_letters_go_back_to_where_they_came_from(self, kafka: KafkaSettings) -> None:
        settings = ReplaySettings.read([], "tests").model_copy(update=kafka.model_dump())
        message = SimpleNamespace(
            topic=kafka.candles_topic, partition=2, offset=7, key=b"K", value=b"{",
            headers=[("ce_id", b"1")],
        )  # fmt: skip
        of_context = SimpleNamespace(
            topic=kafka.context_topic, partition=0, offset=3, key=b"^VIX|1d|1", value=b"[",
            headers=[],
        )  # fmt: skip
        of_others = SimpleNamespace(**vars(of_context) | {"topic": "others", "value": b"]"})
        not_json = InvalidCandle(RejectReason.NOT_JSON, "value")
        rejected = BatchResult(rejected=[(0, not_json)])

        async def back() -> tuple[list[dlq.DeadLetter], list[Record], list[Record]]:
            await topics.ensure(kafka, [*topics.market_topics(kafka), topics.context_topic(kafka)])
            publisher = publisher_of(worker_of(kafka))
            await publisher.start()
            others = [(of_context, not_json), (of_others, not_json)]
            await publisher.outputs([message], rejected, 0, others)
            await publisher.stop()
            letters = [letter async for letter in dlq.read(settings) if letter.key == b"K"]
            await dlq._replay(settings, Console(quiet=True))
            candles = await read(kafka, kafka.candles_topic)
            return letters, candles, await read(kafka, kafka.context_topic)

        [letter], candles, [context] = within(back())
        [record] = [record for record in candles if record.key == b"K"]
        assert (context.key, context.value) == (b"^VIX|1d|1", b"[")
        assert [record.value for record in candles if record.key != b"K"] == [b"]"]
        assert (letter.key, letter.value, letter.about["offset"]) == (b"K", b"{", "7")
        assert (record.partition, record.key, record.value) == (2, b"K", b"{")
        names = dict(record.headers)
        assert names["ce_id"] == b"1"
        assert names[dlq.REPLAYED_HEADER].startswith(settings.dlq_topic.encode())

    def test_the_api_follows_topics_that_come_later(self, kafka: KafkaSettings) -> None:
        live = StreamView(Market(), Hub())
        metrics = ApiMetrics(CollectorRegistry())

        async def follow() -> None:
            following = asyncio.ensure_future(ApiFollower(kafka, live, metrics, 1000).run())
            await until(lambda: "out of reach" in live.detail)
            await made(kafka)
            await until(lambda: live.connected)
            await publish(kafka, walk(5))
            await until(lambda: len(live.market.series) == 1 and live.lag == 0)
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

        within(follow())
        assert live.lag == 0

    def test_local_counts_what_is_in_the_topics(self, kafka: KafkaSettings) -> None:
        account = Accounting(MODELS.default.window_length)

        async def count() -> None:
            await made(kafka)
            await publish(kafka, walk(5))
            async with LocalFollower(kafka, account) as follower:
                reading = asyncio.ensure_future(follower.run())
                await until(follower.has_read_all)
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading

        within(count())
        assert (account.candles, account.missing, account.forecasts) == (5, 3, 0)
