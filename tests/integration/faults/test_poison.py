"""One message of every hostile kind on every topic, under load, with all processes running.

Every good candle has its forecast, probes tell the truth, memory stays, and each hostile message
is accounted for. Candles come from a client that is not aiokafka, in each of Kafka's codecs.
"""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cramjam
import psutil
import pytest
from aiokafka.record.util import calc_crc32c
from confluent_kafka import Producer

from local.broker import Broker
from shared.candles import Candle
from shared.forecasts import Forecast, InvalidForecast
from shared.topics import ensure, market_topics
from tests import record_batches
from tests.candles import candle, walk
from tests.integration.api.test_serving import Api
from tests.integration.api.test_stream import get, start
from tests.integration.processes import Processes, wait_until
from tests.integration.stream_app.test_worker import WARM_UP, bad_messages, given, owed
from tests.integration.topics import count, read, write
from tests.integration.workers import WorkerTopics, start_worker
from tests.kafka import kafka_at
from tests.poison import POISON
from tests.record_batches import Message, batch

pytestmark = pytest.mark.integration

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
DONE_S = 90.0
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

    def send(self, topic: str, batches: Iterable[bytes]) -> None:
        """Send batches as they are, turn by turn to the partitions."""

        async def send() -> None:
            for number, sent in enumerate(batches):
                await record_batches.send(self.topics.bootstrap, topic, number % 8, sent)

        asyncio.run(send())

    def damage(self, topic: str) -> int:
        """Damage batches of a topic in ways that no client can; return how many."""
        self.send(topic, [batch([(b"DISK", b"x" * 50, [])] * 4)] * 17)  # three of partition 0
        [segment] = (self.broker._dir / "kafka" / f"{topic}-0").glob("*.log")
        return damage_on_disk(segment)

    def forecasts(self) -> list[Forecast]:
        """Return what of the forecasts topic is a forecast."""
        found = []
        for record in read(self.topics.bootstrap, self.topics.forecasts):
            with suppress(InvalidForecast):
                found.append(Forecast.decode(record.value))
        return found

    def use_tools(self) -> None:
        """Run the tools that read the candles and the dead letters."""
        for command in ("list", "show", "replay"):
            argv = [sys.executable, "-m", "stream_app", "dlq", command, *self.topics.flags()]
            argv += ["--dry-run"] * (command == "replay")
            done = subprocess.run(argv, check=False, capture_output=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert b"\x1b" not in done.stdout
        producer = self.processes.start(
            "producer", *self.topics.flags(), "--metrics-port", "0", "--symbols", "AAPL"
        )
        wait_until(lambda: producer.exit_code is not None, 60, "the producer's end")
        assert producer.exit_code == 0


def ignored_by(api: Api) -> float:
    lines = api.ask("GET", "/metrics")[1].splitlines()
    counts = [line for line in lines if line.startswith("candlecast_stream_ignored_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def shown_by(api: Api) -> dict[str, int]:
    found = get(api, "/v1/forecasts") or {"forecasts": []}
    return {latest["symbol"]: latest["as_of_ms"] for latest in found["forecasts"]}


def test_no_message_stops_a_process_or_costs_a_candle(
    broker: Broker, processes: Processes, unique_name: Callable[[str], str]
) -> None:
    broker.wait_ready()
    topics = WorkerTopics.make(broker.bootstrap, unique_name)
    scene = Scene(broker, topics, processes)
    kafka = kafka_at(topics.bootstrap).model_copy(
        update={"candles_topic": topics.candles, "forecasts_topic": topics.forecasts}
    )
    asyncio.run(ensure(kafka, market_topics(kafka)))
    on_disk = [scene.damage(topic) for topic in (topics.candles, topics.forecasts)]
    plain_batches = 17 - 3  # of four messages that are not JSON

    symbols = ("AAPL", "MSFT", "^GSPC", "BTC-USD", "IBM")
    series = [walk(WARM_UP + 40, symbol=symbol) for symbol in symbols]
    first = [candle for candles in series for candle in candles[: WARM_UP + 10]]
    more = [candle for candles in series for candle in candles[WARM_UP + 10 : WARM_UP + 25]]
    rest = [candle for candles in series for candle in candles[WARM_UP + 25 :]]
    worker = start_worker(processes, topics)
    api = start(processes, kafka)
    send_candles(topics.bootstrap, topics.candles, first)
    wait_until(
        lambda: given(scene.forecasts()) == owed(first),
        DONE_S, "forecasts of candles in every codec", process=worker.process,
    )  # fmt: skip
    wait_until(lambda: len(shown_by(api)) == len(symbols), 30, "the API shows them")
    before = [memory_of(process.pid) for process in (worker.process, api.process)]

    plain = [message for ten in bad_messages().values() for message in ten[:1]]
    hostile = [*HOSTILE.values(), *bombs()]
    write(topics.bootstrap, topics.candles, plain)
    scene.send(topics.candles, hostile[:5])
    send_candles(topics.bootstrap, topics.candles, more)
    scene.send(topics.candles, hostile[5:])
    write(topics.bootstrap, topics.forecasts, [(b"AAPL", value) for value, _ in POISON.values()])
    scene.send(topics.forecasts, hostile)
    send_candles(topics.bootstrap, topics.candles, rest)

    expected = len(plain) + len(hostile) + on_disk[0] + 4 * plain_batches
    wait_until(
        lambda: count(topics.bootstrap, topics.dlq) >= expected,
        DONE_S, f"{expected} dead letters", process=worker.process,
    )  # fmt: skip
    newest = {candles[0].symbol: candles[-1].close_ms for candles in series}
    wait_until(lambda: shown_by(api) == newest, DONE_S, "the API has the newest forecasts")
    assert given(scene.forecasts()) == owed([candle for candles in series for candle in candles])
    letters = read(topics.bootstrap, topics.dlq)
    reasons = Counter(letter.headers["candlecast-reason"].decode() for letter in letters)
    assert reasons.total() == expected
    assert reasons["unreadable"] == on_disk[0] + 1 + 2, "on the disk, a header's name, two bombs"
    of_forecasts = len(POISON) + len(hostile) + on_disk[1] + 4 * plain_batches
    assert ignored_by(api) == expected + of_forecasts
    after = [memory_of(process.pid) for process in (worker.process, api.process)]
    assert all(now < MEMORY * then for now, then in zip(after, before, strict=True)), (
        before,
        after,
    )
    for path in ("/livez", "/readyz"):
        assert worker.probe(path) == 200
        assert api.ask("GET", path)[0] == 200
    scene.use_tools()
    assert worker.process.stop(15) == 0
    assert api.process.stop(15) == 0
