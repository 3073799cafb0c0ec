"""One message of every hostile kind on every topic, under load, with all processes running.

Every good candle has its forecast and its scores and the trainer reads it, probes tell the truth,
memory stays, and each hostile message is accounted for. Candles come from a client that is not
aiokafka, in each of Kafka's codecs.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import cramjam
import psutil
import pytest
from aiokafka.record.util import calc_crc32c
from confluent_kafka import Producer

from local.accounting import Accounting, Summary
from local.broker import Broker
from local.follow import Follower
from local.ports import free_ports
from local.process import Process
from shared import context_topic
from shared.candles import Candle
from shared.context import ContextSpec, context_key
from shared.forecasts import Forecast, InvalidForecast
from shared.kafka import KafkaSettings
from shared.score_messages import InvalidScore, Scores
from shared.topics import changelog_of, ensure, market_topics
from shared.topics import context_topic as context_topic_of
from tests import bundles, record_batches
from tests.candles import candle, values_of, walk
from tests.integration.api.test_serving import Api
from tests.integration.api.test_stream import get, start
from tests.integration.processes import Processes, wait_until
from tests.integration.stream_app.test_worker import (
    MODEL,
    WARM_UP,
    bad_messages,
    given,
    interleaved,
    owed,
)
from tests.integration.topics import count, read, write
from tests.integration.workers import RunningWorker, WorkerTopics, launch_worker, start_worker
from tests.kafka import kafka_at
from tests.poison import POISON, SCORES
from tests.record_batches import Message, batch
from tests.unit.stream_app import test_changelog_poison as changelog
from trainer import snapshot

pytestmark = pytest.mark.integration

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
DONE_S = 90.0
SPEED = 30  # candles a second of our own producer
MEMORY = 1.3  # times as much as before, at most
GOOD = candle(symbol="UNREAD").encode()

HOSTILE: dict[str, bytes] = {
    "header name that is not text": batch([(b"UNREAD", GOOD, [(b"\xff\xfe", b"1")])]),
    "header without a value": batch([(b"UNREAD", b"[]", [(b"candlecast-reason", None)])]),
    "key of markup": batch([(b"[/red][bold", b"{", [])]),
    "terminal's controls": batch([(b"\x1b[2J\x1b]0;x\x07", b"\x1b[31m", [(b"\x1b[1m", b"\x1b")])]),
    "a megabyte": batch([(b"UNREAD", b"[" + b" " * 1_000_000, [])]),
    "long key": batch([(b"k" * 900_000, b"{}", [])]),
    "long headers": batch([(b"UNREAD", b"{}", [(b"h", b"x" * 900_000)])]),
    "many headers": batch([(b"UNREAD", b"{}", [(b"h", b"")] * 5_000)]),
    "nothing at all": batch([(None, None, [])]),
}
"""Single messages on the candles topic, each of which owes one dead letter."""


CHANGELOG: Final = [
    (key, value)
    for name, (key, value) in changelog.POISON.items()
    if key is not None and name != "unreadable"  # which is damage on the disk
]
"""Records of the changelog that the broker takes: a compacted topic's have keys."""


def owed_scores(candles: Sequence[Candle]) -> set[tuple[str, int, int]]:
    """Return symbol, close and step of every horizon that a candle settles."""
    series: dict[str, list[int]] = {}
    for made in candles:
        series.setdefault(made.symbol, []).append(made.close_ms)
    return {
        (symbol, close_ms, step)
        for symbol, closes in series.items()
        for at, close_ms in enumerate(closes)
        for step in MODEL.horizons
        if at - step >= WARM_UP
    }


def packed(codec: int, pack: Callable[[bytes], bytes], messages: Sequence[Message]) -> bytes:
    records = [record_batches.record(delta, message) for delta, message in enumerate(messages)]
    return batch(messages, codec=codec, payload=pack(b"".join(records)))


def bombs() -> list[bytes]:
    """Return messages of 10 and of 40 MB that are few bytes on the wire."""
    packs = ((1, gzip.compress), (4, lambda data: bytes(cramjam.zstd.compress(data))))
    return [
        packed(codec, pack, [(b"BOMB", b"x" * (size << 20), [])])
        for codec, pack in packs
        for size in (10, 40)
    ]


def damage_on_disk(segment: Path) -> int:
    """Damage three batches of a partition's file as a disk or a bug may; return how many."""
    data = bytearray(segment.read_bytes())
    at, frames = 0, []
    while at < len(data):
        length = 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        frames.append((at, length))
        at += length
    (checksum, length), (magic, _), (packing, packed_length) = frames[:3]
    data[checksum + length - 1] ^= 0xFF
    data[magic + 16] = 9
    data[packing + 61 : packing + packed_length] = b"\xaa" * (packed_length - 61)
    data[packing + 22] = 4  # said to be zstd
    checked = data[packing + 21 : packing + packed_length]
    data[packing + 17 : packing + 21] = calc_crc32c(bytes(checked)).to_bytes(4, "big")
    with segment.open("r+b") as stream:
        stream.write(data)
    return 3


def send_candles(bootstrap: str, topic: str, candles: Iterable[Candle]) -> None:
    """Send candles by librdkafka, the symbols' turn by turn in another codec."""
    symbols: dict[str, list[Candle]] = {}
    for made in candles:
        symbols.setdefault(made.symbol, []).append(made)
    for number, series in enumerate(symbols.values()):
        client = Producer(
            {"bootstrap.servers": bootstrap, "compression.type": CODECS[number % len(CODECS)]}
        )
        for made in series:
            client.produce(topic, made.encode(), made.symbol.encode())
        assert client.flush(30) == 0


def memory_of(pid: int) -> int:
    return psutil.Process(pid).memory_info().rss


@dataclass(frozen=True)
class Scene:
    """The topics, and what runs on them."""

    broker: Broker
    topics: WorkerTopics
    processes: Processes

    def send(self, topic: str, batches: Iterable[bytes], partitions: int = 8) -> None:
        """Send batches as they are, turn by turn to the partitions."""

        async def send() -> None:
            for number, sent in enumerate(batches):
                part = number % partitions
                await record_batches.send(self.topics.bootstrap, topic, part, sent)

        asyncio.run(send())

    def send_hostile(
        self,
        plain: Sequence[tuple[bytes | None, bytes | None]],
        batches: Sequence[bytes],
        between: tuple[Sequence[Candle], Sequence[Candle]],
    ) -> int:
        """Send every hostile message to every topic, between good candles.

        Returns:
            How many messages the dead letters now have that are not the worker's.
        """
        bootstrap, candles, forecasts = (
            self.topics.bootstrap, self.topics.candles, self.topics.forecasts,
        )  # fmt: skip
        write(bootstrap, candles, plain)
        self.send(candles, batches[:5])
        send_candles(bootstrap, candles, between[0])
        self.send(candles, batches[5:])
        write(bootstrap, forecasts, [(b"AAPL", value) for value, _ in POISON.values()])
        self.send(forecasts, batches)
        write(bootstrap, self.topics.scores, [(b"AAPL", value) for value, _ in SCORES.values()])
        self.send(self.topics.scores, batches)
        self.send(self.topics.dlq, batches)
        letters = {made.symbol: made for made in between[0]}  # one in each codec
        send_candles(bootstrap, self.topics.dlq, letters.values())
        write(bootstrap, changelog_of(self.topics.group), CHANGELOG)
        send_candles(bootstrap, candles, between[1])
        return len(batches) + len(letters)

    def damage(self, topic: str, partitions: int = 8) -> int:
        """Damage batches of a topic in ways that no client can; return how many."""
        disk = [batch([(b"DISK", b"x" * 50, [])] * 4)] * 17
        self.send(topic, disk, partitions)  # three of partition 0 at least
        [segment] = (self.broker._dir / "kafka" / f"{topic}-0").glob("*.log")
        return damage_on_disk(segment)

    def forecasts(self) -> list[Forecast]:
        """Return what of the forecasts topic is a forecast."""
        found = []
        for record in read(self.topics.bootstrap, self.topics.forecasts):
            with suppress(InvalidForecast):
                found.append(Forecast.decode(record.value))
        return found

    def scores(self) -> set[tuple[str, int, int]]:
        """Return symbol, close and step of every horizon that the scores topic has scores of."""
        found = set()
        for record in read(self.topics.bootstrap, self.topics.scores):
            with suppress(InvalidScore):
                made = Scores.decode(record.value)
                found |= {(made.symbol, made.close_ms, one.step) for one in made.horizons}
        return found

    def account(self) -> Summary:
        """Return what the demo makes of all topics."""
        account = Accounting(MODEL.window_length, MODEL.horizons)

        async def follow() -> None:
            async with Follower(self.topics_as_settings(), account) as follower:
                reading = asyncio.create_task(follower.run())
                async with asyncio.timeout(60):
                    while not await follower.has_read_all():  # noqa: ASYNC110 - no event tells it
                        await asyncio.sleep(0.1)
                reading.cancel()

        asyncio.run(follow())
        return account.summary()

    def check_outputs(self, good: Sequence[Candle]) -> None:
        """Read forecasts and scores, as anybody does and as the demo does: none is missing."""
        assert given(self.forecasts()) == owed(good)
        assert self.scores() == owed_scores(good)
        account = self.account()
        assert (account.missing_forecasts, account.missing_scores) == (0, 0)
        assert account.scores_out == len(owed_scores(good))
        assert account.dead_letters == len(read(self.topics.bootstrap, self.topics.dlq))

    def check_dead_letters(self, expected: int, unreadable: int) -> None:
        """Read the dead letters: ours, and what others have put there."""
        reasons = Counter(
            reason.decode()
            for letter in read(self.topics.bootstrap, self.topics.dlq)
            if (reason := letter.headers.get("candlecast-reason")) is not None
        )
        assert reasons.total() == expected
        assert reasons["unreadable"] == unreadable

    def check_tail(self, tail: Process) -> None:
        """Read what ``candlecast tail`` has printed: every forecast, and nothing that controls."""
        shown = tail.log.read_text()
        assert all(f'"id":"{made.id}"' in shown for made in self.forecasts())
        assert shown.replace("\n", "").isprintable()

    def start_watch(self, folder: Path) -> RunningWorker:
        """Start the trainer's watch, which reads the candles each second and trains nothing."""
        port = free_ports(1)[0]
        process = self.processes.start(
            "trainer", "watch", "--bootstrap", self.topics.bootstrap,
            "--candles-topic", self.topics.candles, "--min-windows", "1000000",
            "--poll-seconds", "1", "--metrics-port", str(port),
            "--models", str(folder / "models"), "--snapshots", str(folder / "snapshots"),
        )  # fmt: skip
        return RunningWorker(process, port)

    def check_what_is_left(self, worker: RunningWorker, more: Sequence[Candle]) -> None:
        """Start the worker again: it names the changelog's poison, and goes on with another group.

        Args:
            worker: which has ended.
            more: candles that come then; they have forecasts.
        """
        again = launch_worker(self.processes, self.topics)
        assert again.process.wait(60) == 1
        place = rf"topic {changelog_of(self.topics.group)}, partition \d, offset \d+, key "
        said = re.search(f"{place}[^\n]*--group", again.process.log.read_text())
        assert said, again.process.log_tail()
        other = replace(self.topics, group=f"{self.topics.group}-2")
        worker = start_worker(self.processes, other)
        send_candles(self.topics.bootstrap, self.topics.candles, more)
        wait_until(
            lambda: given(self.forecasts()) >= given_of(more),
            DONE_S, "forecasts of another group", process=worker.process,
        )  # fmt: skip
        assert worker.process.stop(15) == 0

    def start_producer(self, path: Path, candles: Iterable[Candle]) -> RunningWorker:
        """Start our own producer on a file of candles, at a pace that lasts."""
        rows = [
            f"{datetime.fromtimestamp(made.open_ms / 1000, UTC):%Y-%m-%d},{made.symbol},"
            + ",".join(map(str, values_of(made)))
            for made in candles
        ]
        path.write_text("\n".join(["Date,Symbol,Open,High,Low,Close,Volume", *rows]) + "\n")
        port = free_ports(1)[0]
        process = self.processes.start(
            "producer", *self.topics.flags(), "--metrics-port", str(port), "--path", str(path),
            "--speed", str(SPEED),
        )  # fmt: skip
        return RunningWorker(process, port)

    def check_snapshot(self, root: Path, candles: Sequence[Candle], rejected: int) -> None:
        """Read the topic as the trainer does: all of the candles, and nothing else."""
        folder = snapshot.update(self.topics_as_settings(), root)
        assert sum(snapshot.State.read(folder).rejected.values()) == rejected
        found = {
            (rows.symbol, open_ms, values[3])
            for rows in snapshot.history(folder, "1d").series
            for open_ms, values in zip(
                rows.open_ms.tolist(), rows.candles.tolist(), strict=True
            )
        }  # fmt: skip
        assert found == {(made.symbol, made.open_ms, made.close) for made in candles}

    def topics_as_settings(self) -> KafkaSettings:
        """Return the settings of whoever uses the topics."""
        return kafka_at(self.topics.bootstrap).model_copy(
            update={
                "candles_topic": self.topics.candles,
                "forecasts_topic": self.topics.forecasts,
                "scores_topic": self.topics.scores,
                "context_topic": self.topics.context,
            }
        )

    def use_tools(self, symbols: Sequence[str]) -> None:
        """Run the tools that read the candles and the dead letters, those of symbols in codecs."""
        for command in ("list", "show", "replay"):
            argv = [sys.executable, "-m", "stream_app", "dlq", command, *self.topics.flags()]
            argv += ["--dry-run"] * (command == "replay") + ["--limit", "1000"]
            done = subprocess.run(argv, check=False, capture_output=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert b"\x1b" not in done.stdout
            assert command != "list" or all(name.encode() in done.stdout for name in symbols)
        producer = self.processes.start(
            "producer", *self.topics.flags(), "--metrics-port", "0", "--symbols", "AAPL"
        )
        wait_until(lambda: producer.exit_code is not None, 60, "the producer's end")
        assert producer.exit_code == 0


def given_of(candles: Sequence[Candle]) -> set[tuple[str, int]]:
    """Return symbol and close of candles."""
    return {(made.symbol, made.close_ms) for made in candles}


def ignored_by(api: Api) -> float:
    """Return how many candles, forecasts and scores the API has passed over."""
    lines = api.ask("GET", "/metrics")[1].splitlines()
    counts = [line for line in lines if line.startswith("candlecast_stream_ignored_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def shown_by(api: Api) -> dict[str, int]:
    found = get(api, "/v1/forecasts") or {"forecasts": []}
    return {latest["symbol"]: latest["as_of_ms"] for latest in found["forecasts"]}


@dataclass(frozen=True)
class Running:
    """The processes that must go on."""

    worker: RunningWorker
    api: Api
    producer: RunningWorker
    watch: RunningWorker
    tail: Process

    def memory(self) -> list[int]:
        """Return the bytes that worker, API, watch and tail hold."""
        processes = (self.worker.process, self.api.process, self.watch.process, self.tail)
        return [memory_of(process.pid) for process in processes]

    def are_well(self) -> bool:
        """Tell that all say that they work, which they do; the producer until it is done."""
        for path in ("/livez", "/readyz"):
            assert self.worker.probe(path) == 200, path
            assert self.api.ask("GET", path)[0] == 200, path
            assert self.watch.probe(path) == 200, path
            if self.producer.process.exit_code is None and self.producer.probe(path) != 200:
                assert self.producer.process.wait(5) == 0, path
        assert self.tail.exit_code is None
        return True

    def wait_for_a_look(self) -> None:
        """Wait until the watch has looked again."""
        name = "candlecast_trainer_looked_timestamp_seconds"
        looked_s = self.watch.metrics()[name]
        wait_until(lambda: self.watch.metrics()[name] > looked_s, 30, "a look of the watch")

    def stop(self) -> None:
        """End them in order."""
        assert self.producer.process.wait(15) == 0
        assert self.watch.process.stop(15) in {0, 130, 143}
        assert self.tail.stop(15) in {0, 130, 143}
        assert self.worker.process.stop(15) == 0
        assert self.api.process.stop(15) == 0


def scored_by(api: Api) -> set[str]:
    """Return the symbols whose forecasts have scores."""
    return {summary["symbol"] for summary in get(api, "/v1/scores")["series"]}


def test_no_message_stops_a_process_or_costs_a_candle(
    broker: Broker, processes: Processes, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    broker.wait_ready()
    topics = WorkerTopics.make(broker.bootstrap, unique_name)
    scene = Scene(broker, topics, processes)
    kafka = scene.topics_as_settings()
    asyncio.run(ensure(kafka, market_topics(kafka)))
    on_disk = [
        scene.damage(topic)
        for topic in (topics.candles, topics.forecasts, topics.scores, topics.dlq)
    ]
    plain_batches = 17 - 3  # of four messages that are not JSON

    symbols = ("AAPL", "MSFT", "^GSPC", "BTC-USD", "IBM")
    series = [walk(WARM_UP + 41, symbol=symbol) for symbol in symbols]
    first = [candle for candles in series for candle in candles[: WARM_UP + 10]]
    more = [candle for candles in series for candle in candles[WARM_UP + 10 : WARM_UP + 25]]
    rest = [candle for candles in series for candle in candles[WARM_UP + 25 : -1]]
    worker = start_worker(processes, topics)
    watch = scene.start_watch(tmp_path)
    api = start(processes, kafka, "--scores-topic", topics.scores)
    tail = processes.candlecast(
        "tail", "--bootstrap", topics.bootstrap, "--forecasts-topic", topics.forecasts,
        "--lines", "100000",
    )  # fmt: skip
    send_candles(topics.bootstrap, topics.candles, first)
    wait_until(
        lambda: given(scene.forecasts()) == owed(first),
        DONE_S, "forecasts of candles in every codec", process=worker.process,
    )  # fmt: skip
    wait_until(lambda: len(shown_by(api)) == len(symbols), 30, "the API shows them")
    load = interleaved([f"LOAD{i}" for i in range(4)], WARM_UP + 60)
    producer = scene.start_producer(tmp_path / "load.csv", load)
    wait_until(lambda: producer.probe("/readyz") == 200, 30, "the producer is ready")
    wait_until(lambda: watch.probe("/readyz") == 200, 60, "the watch", process=watch.process)
    good = [*first, *more, *rest, *load]

    running = Running(worker, api, producer, watch, tail)
    before = running.memory()

    plain = [message for ten in bad_messages().values() for message in ten[:1]]
    hostile = [*HOSTILE.values(), *bombs()]
    others = 4 * 17 + scene.send_hostile(plain, hostile, between=(more, rest))
    expected = len(plain) + len(hostile) + on_disk[0] + 4 * plain_batches
    wait_until(
        lambda: running.are_well() and count(topics.bootstrap, topics.dlq) >= expected + others,
        DONE_S, f"{expected} dead letters", process=worker.process,
    )  # fmt: skip
    assert producer.process.exit_code is None, "the load was over before the messages were read"
    newest = {candle.symbol: candle.close_ms for candle in good}
    wait_until(
        lambda: running.are_well() and shown_by(api) == newest,
        DONE_S, "the API has the newest forecasts", process=worker.process,
    )  # fmt: skip
    scene.check_outputs(good)
    assert scored_by(api) == newest.keys()
    scene.check_dead_letters(expected, unreadable=on_disk[0] + 1 + 2)  # a header, two bombs
    of_forecasts = len(POISON) + len(hostile) + on_disk[1] + 4 * plain_batches
    of_scores = len(SCORES) + len(hostile) + on_disk[2] + 4 * plain_batches
    assert ignored_by(api) == expected + of_forecasts + of_scores
    running.wait_for_a_look()
    after = running.memory()
    grown = [now / then for now, then in zip(after, before, strict=True)]
    assert max(grown) < MEMORY, grown
    assert running.are_well()
    scene.check_snapshot(tmp_path, good, expected)
    scene.use_tools(symbols)
    scene.check_tail(tail)
    running.stop()
    scene.check_what_is_left(worker, [candles[-1] for candles in series])


def test_no_message_of_the_context_stops_a_process_or_costs_a_candle(
    broker: Broker, processes: Processes, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    """Worker and API of a model that reads a context: each forecast has the whole of its own."""
    broker.wait_ready()
    topics = WorkerTopics.make(broker.bootstrap, unique_name)
    scene = Scene(broker, topics, processes)
    kafka = scene.topics_as_settings()
    asyncio.run(ensure(kafka, [*market_topics(kafka), context_topic_of(kafka)]))
    on_disk = scene.damage(topics.context, partitions=1)
    spec = ContextSpec(symbols=("^GSPC",), interval="1d", length=2)
    model = "--model", str(bundles.write(tmp_path / "reading", context=spec))
    worker = start_worker(processes, topics, *model, "--context-wait-seconds", "30")
    api = start(
        processes, kafka, "--scores-topic", topics.scores, "--context-topic", topics.context,
        *model,
    )  # fmt: skip
    days = 40
    index = [candle(day, 1.0 + day, symbol="^GSPC") for day in range(days)]
    send_context(topics, index[:10])
    wait_until(
        lambda: context_rejects(worker.metrics()) >= on_disk + 4 * 14, DONE_S, "what is on disk",
        process=worker.process,
    )  # fmt: skip
    before = [memory_of(worker.process.pid), memory_of(api.process.pid)]

    plain = [
        message for ten in bad_messages().values() for message in ten[:1] if message[0] is not None
    ]
    hostile = [sent for name, sent in HOSTILE.items() if name != "nothing at all"]  # it has no key
    hostile += bombs()
    write(topics.bootstrap, topics.context, plain)
    scene.send(topics.context, hostile[:5], partitions=1)
    send_context(topics, index[10:25])
    scene.send(topics.context, hostile[5:], partitions=1)
    stocks = [walk(days, symbol=symbol) for symbol in ("AAPL", "MSFT", "BTC-USD")]
    good = [made for series in stocks for made in series]
    send_candles(topics.bootstrap, topics.candles, good)
    send_context(topics, index[25:])

    wait_until(
        lambda: len(given(scene.forecasts())) >= 3 * (days - bundles.LENGTH + 1), DONE_S,
        "the forecasts", process=worker.process,
    )  # fmt: skip
    check_joined(scene.forecasts())
    expected = on_disk + 4 * 14 + len(plain) + len(hostile)
    assert context_rejects(worker.metrics()) == expected
    assert count(topics.bootstrap, topics.dlq) == len(plain) + len(hostile), "what came since"
    wait_until(
        lambda: context_rejects(api_metrics(api)) == expected, 30, "the API", process=api.process
    )
    assert worker.probe("/livez") == worker.probe("/readyz") == 200
    assert api.ask("GET", "/livez")[0] == api.ask("GET", "/readyz")[0] == 200
    after = [memory_of(worker.process.pid), memory_of(api.process.pid)]
    assert max(now / then for now, then in zip(after, before, strict=True)) < MEMORY
    check_by_name(api, scene.forecasts())
    store = asyncio.run(context_topic.read(kafka))
    assert store.newest_ms("^GSPC", "1d") == index[-1].close_ms, "as the trainer reads it"

    worker.process.kill()
    worker = start_worker(processes, topics, *model)
    check_after_restart(scene, worker, candle(days, symbol="AAPL"), index[-1].close_ms)
    assert worker.process.stop(15) == 0
    assert api.process.stop(15) == 0


def check_by_name(api: Api, forecasts: Sequence[Forecast]) -> None:
    """Ask the API for the stream's own series: its context and its numbers are the worker's."""
    body = json.dumps({"histories": [{"symbol": "AAPL", "interval": "1d"}]}).encode()
    status, text = api.ask("POST", "/v1/forecasts", body)
    assert status == 200, text
    [by_name] = json.loads(text)["forecasts"]
    newest = {made.symbol: made for made in forecasts}["AAPL"]
    assert by_name["context_as_of_ms"] == newest.context_as_of_ms == newest.as_of_ms
    assert by_name["horizons"][0]["volatility"] == newest.horizons[0].volatility


def check_after_restart(scene: Scene, worker: RunningWorker, more: Candle, known_ms: int) -> None:
    """Send a candle to a worker that has read the context again, poison and all."""
    send_candles(scene.topics.bootstrap, scene.topics.candles, [more])
    wait_until(
        lambda: (more.symbol, more.close_ms) in given(scene.forecasts()), DONE_S,
        "a forecast after a restart", process=worker.process,
    )  # fmt: skip
    [last] = [made for made in scene.forecasts() if made.as_of_ms == more.close_ms]
    assert last.context_as_of_ms == known_ms


def send_context(topics: WorkerTopics, candles: Sequence[Candle]) -> None:
    messages = [(context_key(made), made.encode()) for made in candles]
    write(topics.bootstrap, topics.context, messages)


def check_joined(forecasts: Sequence[Forecast]) -> None:
    """Hold each forecast's context against the index, whose closes count up by one a day."""
    for made in forecasts:
        assert made.context_as_of_ms == made.as_of_ms
        day = (made.as_of_ms - candle(0).close_ms) // 86_400_000
        assert made.horizons[0].volatility == pytest.approx(0.01 + day + day + 1, rel=1e-6)


def context_rejects(metrics: Mapping[str, float]) -> float:
    return sum(
        value
        for name, value in metrics.items()
        if name.startswith("candlecast_context_rejects_total")
    )


def api_metrics(api: Api) -> dict[str, float]:
    lines = api.ask("GET", "/metrics")[1].splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
    }
