"""Whatever comes in from outside, spoilt by Hypothesis: read or refused in words, never a fault.

Each test tries examples for its share of ``CANDLECAST_FUZZ_SECONDS``, by default two minutes of
CI's time; ``make fuzz`` takes an hour. Counts are printed at the end. ``CANDLECAST_FUZZ_SEED``
repeats a run.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import pytest
from aiokafka.record.util import calc_crc32c
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from local.accounting import Accounting
from local.ports import HOST
from local.screen import forecasts_table
from local.tail import Rows
from shared import bundle, kafka
from shared.bundle import BundleError
from shared.candles import InvalidCandle, decode_candle
from shared.forecaster import ModelSet, OnnxForecaster
from shared.forecasts import Forecast, InvalidForecast
from shared.leash import Leash
from shared.messages import PartialValue
from shared.metrics import WorkerMetrics
from shared.score_messages import InvalidScore, Scores
from shared.status import Health, StatusServer
from shared.terminal import Console
from shared.topics import ensure, market_topics
from stream_app import dlq
from stream_app.dlq import DeadLetter
from stream_app.pipeline import Incoming, advance
from stream_app.rebuild import SOURCE_KEY, skip_key
from stream_app.settings import ListSettings, ReplaySettings, ShowSettings
from stream_app.state import StateError, SymbolState
from tests import bundles, reader_fuzz
from tests.candles import candle, walk
from tests.conftest import COUNTS
from tests.forecasters import LastMove
from tests.fuzzing import BYTES, fuzz, in_words, spoilt, spoilt_documents
from tests.integration.api.test_safety import ENVELOPES, HEAD, VALUES, start
from tests.integration.api.test_serving import Api, request_body
from tests.integration.processes import Processes
from tests.integration.topics import count
from tests.integration.workers import WorkerTopics
from tests.kafka import kafka_at
from tests.poison import POISON, SCORES, forecast_of, horizon_of, horizon_score_of, scores_of
from tests.record_batches import Message, batch, read, send
from tests.streams import published
from tests.unit.api.client import application, call
from tests.unit.api.stream.test_follower_messages import TOPICS, Topics, record
from tests.unit.shared.test_batches import DAMAGED, PACK, packed
from tests.unit.stream_app import test_changelog_poison as changelog
from trainer import snapshot

T = TypeVar("T")

SECONDS: Final = float(os.environ.get("CANDLECAST_FUZZ_SECONDS", "120"))
SEED: Final = int(os.environ.get("CANDLECAST_FUZZ_SEED", time.time_ns() % 10**9))
TARGETS: Final = 13

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(SECONDS / TARGETS + 300),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]

NOW_MS: Final = 2_000_000_000_000

kafka.mend_clients()

Try = Callable[[Callable[[T], str], st.SearchStrategy[T]], Counter[str]]


@pytest.fixture(name="tries")
def fixture_tries(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[..., Counter[str]]:
    """Try examples for a share of the time, and print how they ended."""

    def tries(body: Callable[[T], str], examples: st.SearchStrategy[T]) -> Counter[str]:
        ends = fuzz(body, examples, SECONDS / TARGETS, SEED)
        counts = f"{request.node.name}: {ends.total():,} tried: {in_words(ends)}"
        record_property(COUNTS, counts)
        assert len(ends) > 1, "all examples end alike: the corpus or the spoiling is of no use"
        return ends

    return tries


CANDLE: Final = json.loads(candle().encode())
KEYS: Final = st.sampled_from([b"AAPL", b"MSFT", b"", None, b"\xff", b"[/red]\x1b[2J"])
TIMES: Final = st.sampled_from([NOW_MS, 0, -1, 1 << 62])


@cache
def candle_values() -> st.SearchStrategy[Any]:
    """Return values of messages on the candles topic: good ones in order, and spoilt ones."""
    good = [made.encode() for made in (*walk(12), *walk(3, symbol="MSFT"))]
    odd = [
        CANDLE | {"interval": name, "close_ms": CANDLE["open_ms"] + length}
        for name, length in (("1m", 60_000), ("1h", 1), ("1wk", 604_800_000), ("1mo", 86_400_000))
    ]
    cut = st.binary(max_size=90).map(lambda whole: PartialValue.of(whole, 50, "its checksum"))
    documents = spoilt_documents([CANDLE, *odd])
    return st.sampled_from(good) | documents | documents | st.none() | cut


@cache
def forecast_values() -> st.SearchStrategy[Any]:
    """Return values of messages on the forecasts topic."""
    steps = forecast_of(horizon_of(1), horizon_of(5), horizon_of(10))
    known = st.sampled_from([value for value, _ in POISON.values()])
    return known | spoilt_documents([forecast_of(), steps]) | st.just(json.dumps(steps).encode())


@cache
def score_values() -> st.SearchStrategy[Any]:
    """Return values of messages on the scores topic."""
    good = [json.loads(scores.encode()) for scores in published(walk(12)).scores]
    whole = st.sampled_from(good).map(lambda document: json.dumps(document).encode())
    known = st.sampled_from([value for value, _ in SCORES.values()])
    return known | spoilt_documents([*good, scores_of()]) | whole


def messages() -> st.SearchStrategy[list[tuple[Any, Any, int]]]:
    """Return keys, values and times of messages on the candles topic."""
    keys = st.just(b"AAPL") | KEYS
    begins = st.integers(0, 5).map(lambda n: [(b"AAPL", made.encode(), NOW_MS) for made in walk(n)])
    others = st.lists(st.tuples(keys, candle_values(), st.just(NOW_MS) | TIMES), max_size=12)
    return st.builds(lambda first, then: first + then, begins, others)


def refused(error: Exception, most: int = 1_000) -> str:
    """Check that a refusal is short and safe to print."""
    said = str(error)
    assert said.strip()
    assert len(said) <= most, said[:200]
    assert said.isprintable(), said[:200]
    return "refused"


def test_candle(tries: Try[Any]) -> None:
    def body(message: tuple[Any, Any, int]) -> str:
        try:
            made = decode_candle(*message)
        except InvalidCandle as error:
            return refused(error)
        assert decode_candle(message[0], made.encode(), message[2]) == made
        return "candle"

    tries(body, st.tuples(st.just(b"AAPL") | KEYS, candle_values(), TIMES))


def test_worker(tries: Try[Any]) -> None:
    """Each message is applied or put aside, and what is kept and sent can be read again."""

    def body(sent: list[tuple[Any, Any, int]]) -> str:
        table: dict[bytes, bytes] = {}
        incoming = [Incoming(*message[:2], 0, at, message[2]) for at, message in enumerate(sent)]
        models = ModelSet(LastMove(window_length=3))
        result = advance(incoming, table.get, models, 8, NOW_MS)
        late = sum(error.reason in {"older_than_window", "overlaps", "no_forecast"}
                   for _, error in result.rejected)  # fmt: skip
        assert result.outcomes.total() + len(result.rejected) - late == len(sent)
        for _, error in result.rejected:
            refused(error)
        for _, made in result.forecasts:
            assert Forecast.decode(made.encode()) == made
        for _, scored in result.scores:
            assert Scores.decode(scored.value).id == scored.id
        for _, state in result.states.values():
            SymbolState.decode(state, 8)
        return "forecasts" if result.forecasts else "none"

    tries(body, messages())


def test_snapshot(tries: Try[Any]) -> None:
    """The trainer takes by columns what ``decode_candle`` takes one by one."""

    def body(sent: list[tuple[Any, Any, int]]) -> str:
        records = [record("candles", at, *message[:2]) for at, message in enumerate(sent)]
        table, rejected = snapshot._parse(records)
        singly, reasons = snapshot._one_by_one(records)
        assert (table.num_rows, rejected) == (singly.num_rows, reasons)
        assert table.column("open_ms").to_pylist() == singly.column("open_ms").to_pylist()
        return "candles" if table.num_rows else "none"

    tries(body, messages())


def test_follower(tries: Try[Any]) -> None:
    """The API passes over what it cannot use, and answers whatever was taken."""

    topics = Topics()
    app = application(live=topics.live)

    def body(sent: list[tuple[str, Any, Any, Any]]) -> str:
        topics.live.market.clear()
        for topic, *values in sent:
            topics.take(topic, values[TOPICS.index(topic)])
        assert topics.ignored("error") == 0
        for path in ("status", "scores", "forecasts", "forecasts/AAPL"):
            answer = call(app, "GET", f"/v1/{path}")
            assert answer.status_code in {200, 404}, answer.text
            json.loads(answer.text)
        return "shown" if answer.status_code == 200 else "none"

    chosen = st.sampled_from(TOPICS)
    message = st.tuples(chosen, candle_values(), forecast_values(), score_values())
    tries(body, st.lists(message, max_size=12))


def test_changelog(tries: Try[Any]) -> None:
    def body(message: tuple[Any, Any]) -> str:
        try:
            store = changelog.recover(*message)
        except StateError as error:
            return refused(error)
        for held in store.data.values():
            SymbolState.decode(held, 8)
        return "window"

    known = st.sampled_from(list(changelog.POISON.values()))
    keys = spoilt([changelog.KEY, SOURCE_KEY, skip_key(7)])
    values = spoilt([changelog.STATE, b'{"topic_id": "a", "capacity": 5}'])
    tries(body, known | st.tuples(st.just(changelog.KEY) | keys, values | st.none()))


def test_batches(tries: Try[Any]) -> None:
    """Batches as a broker may send them, half of them with a right checksum."""

    def body(example: tuple[bytes, bool]) -> str:
        sent, is_checked = example
        if is_checked and len(sent) > 21:
            length = 12 + int.from_bytes(sent[8:12], "big", signed=True)
            checksum = calc_crc32c(sent[21 : max(length, 21)])
            sent = sent[:17] + checksum.to_bytes(4, "big") + sent[21:]
        records = read(sent)
        offsets = [got.offset for got in records]
        assert offsets == sorted(set(offsets))
        faults = [got for got in records if isinstance(got.value, PartialValue) and got.value.fault]
        return "with faults" if faults else "whole" if records else "nothing"

    good: list[Message] = [(b"AAPL", made.encode(), [(b"h", b"1")]) for made in walk(4)]
    whole = [batch(good), *(packed(codec, good) for codec in PACK)]
    damaged = [sent for sent, _ in DAMAGED.values()]
    tries(body, st.tuples(spoilt([*whole, *damaged]), st.booleans()))


def test_bundle(tries: Try[Any], tmp_path: Path) -> None:
    """Bundles whose hashes are right; ONNX Runtime is not given graphs of noise."""
    good = bundles.write(tmp_path / "good")
    config = json.loads((good / bundle.CONFIG_NAME).read_bytes())
    golden = (good / bundle.GOLDEN_NAME).read_bytes()

    def body(example: tuple[bool, bytes, bytes]) -> str:
        with TemporaryDirectory() as folder:
            path = Path(folder)
            is_config, about, archive = example
            if is_config:
                bundles.write(path)
                (path / bundle.CONFIG_NAME).write_bytes(about)
            else:
                bundles.write(path, golden=archive)
            try:
                OnnxForecaster(bundle.load(path))
            except BundleError as error:
                said = str(error).replace("\n", " ")
                assert said.isprintable(), said[:200]
                return "refused"
            return "loaded"

    tries(body, st.tuples(st.booleans(), spoilt_documents([config]), spoilt([golden])))


def test_data_reader(tries: Try[int]) -> None:
    tries(
        lambda first: "read" if reader_fuzz.fuzz(1, first)["read"] else "refused",
        st.integers(0, 1 << 40),
    )


HEADERS: Final = st.lists(
    st.tuples(
        st.sampled_from([
            *(f"candlecast-{name}" for name in ("reason", "detail", "partition", "value-bytes")),
            "h", "\x1b[2J", "[/red]", "\u202e",
        ]),
        st.none() | st.sampled_from([*BYTES[:-1], b"not_json", b"2", b"99999999999"]),
    ),
    max_size=8,
)  # fmt: skip


def test_dlq_tool(tries: Try[Any], kafka: str, unique_name: Callable[[str], str]) -> None:
    """Dead letters of anybody, by the real commands and a real topic."""
    topics = WorkerTopics.make(kafka, unique_name)
    pipe = spoilt([b"{}", candle().encode()])

    def body(letters: list[tuple[Any, Any, Any]]) -> str:
        told = 0
        for at, (key, value, headers) in enumerate(letters):
            letter = DeadLetter(0, at, NOW_MS, key, value, tuple(headers))
            assert letter.as_row().isprintable()
            assert json.loads(letter.as_json())["offset"] == at
            told += "reason" in letter.about
        written.extend(letters)
        return "with reasons" if told else "without"

    written: list[tuple[Any, Any, Any]] = []
    tries(body, st.lists(st.tuples(st.none() | pipe, st.none() | pipe, HEADERS), max_size=8))
    some = [
        (key and key[:2_000], value and value[:2_000],
         [(name.encode(), header) for name, header in headers])
        for key, value, headers in written[-300:]
    ]  # fmt: skip
    sends = [batch(some[at : at + 20]) for at in range(0, len(some), 20)]

    names = {"candles_topic": topics.candles, "scores_topic": topics.scores}
    settings_of = kafka_at(kafka).model_copy(update=names)

    async def send_all() -> None:
        for sent in sends:
            await send(kafka, topics.dlq, 0, sent)

    asyncio.run(ensure(settings_of, market_topics(settings_of)))
    asyncio.run(send_all())
    assert count(kafka, topics.dlq) == len(some)
    flags = [*topics.flags(), "--limit", "1000"]
    for settings in (
        ListSettings.read(flags, "list"),
        ShowSettings.read(flags, "show"),
        ReplaySettings.read([*flags, "--dry-run"], "replay"),
    ):
        shown = io.StringIO()
        dlq.run(settings, Console(file=shown, width=200))
        assert shown.getvalue().replace("\n", "").isprintable()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, leash: Leash) -> Iterator[Api]:
    """An API without patience."""
    with Processes(tmp_path_factory.mktemp("api"), leash) as processes:
        yield start(processes, "--receive-seconds", "2")


def heads() -> list[bytes]:
    """Return requests that are right or nearly."""
    bodies = [request_body(30), b'{"history": [1]}', b"{}"]
    bodies += [(ENVELOPES[path] % VALUES["NaN"]).encode() for path in ENVELOPES]
    end = b"\r\n\r\n"
    posts = [HEAD + b"content-length: %d" % len(body) + end + body for body in bodies]
    chunked = HEAD + b"transfer-encoding: chunked" + end + b"2\r\n{}\r\n0\r\nx: y" + end
    gets = [
        b"GET %s HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\nlast-event-id: 1-2,3-4" % path + end
        for path in (b"/livez", b"/metrics", b"/v1/forecasts?symbols=A,B&limit=5", b"/docs",
                     b"/v1/scores", b"/v1/candles/AAPL?from=1&to=2", b"/openapi.json", b"/v2")
    ]  # fmt: skip
    return [*posts, chunked, *gets, gets[0] + posts[0] + gets[1]]


TOKENS: Final = (
    *BYTES, b": ", b"host: [::1]evil.com\r\n", b"host: x\r\n", b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n", b"content-encoding: gzip\r\n", b"expect: 100-continue\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n", b"accept: text/plain;version=1.0.0\r\n", b"%00",
    b"..%2f", b"x: y\r\n" * 200, b"ffffffffffffffff\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"authorization: Bearer \xff\r\n", b"range: bytes=0-0,1-1\r\n", b"HTTP/0.9", b" ",
)  # fmt: skip


def answer_to(port: int, sent: bytes, pieces: int) -> bytes:
    """Return what a server answers to bytes that come in pieces, at most 64 kB of it."""
    got = b""
    with (
        socket.create_connection((HOST, port), timeout=10) as connection,
        suppress(ConnectionError, OSError),
    ):
        size = len(sent) // pieces + 1
        for at in range(0, len(sent), size):
            connection.sendall(sent[at : at + size])
        connection.shutdown(socket.SHUT_WR)
        while len(got) < 1 << 16 and (more := connection.recv(1 << 16)):
            got += more
    return got


def test_http(tries: Try[Any], api: Api) -> None:
    """The real server below its parser: never 5xx but for what is not there, and still alive."""
    beside = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"

    def body(example: tuple[bytes, int]) -> str:
        answer = answer_to(api.port, *example)
        status = answer[9:12].decode() or "none"
        assert not status.startswith("5") or status == "503", answer[:300]
        assert b"Traceback" not in answer
        assert answer_to(api.port, beside, 1).startswith(b"HTTP/1.1 200")
        return status

    tries(body, st.tuples(spoilt(heads(), tokens=TOKENS), st.integers(1, 5)))
    assert api.process.exit_code is None
    log = api.process.log.read_text()
    assert "Traceback" not in log, log[log.find("Traceback") - 600 :][:4_000]


def test_status_port(tries: Try[Any]) -> None:
    said = io.StringIO()
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    fine = Health(ok=True, detail="alive")
    with (
        redirect_stderr(said),
        StatusServer(HOST, 0, registry, live=lambda: fine, ready=lambda: fine) as server,
    ):

        def body(example: tuple[bytes, int]) -> str:
            answer = answer_to(server.port, *example)
            status = answer[9:12].decode() if answer.startswith(b"HTTP/") else "other"
            assert not status.startswith("5") or status in {"501", "505"}, answer[:300]
            return status

        tries(body, st.tuples(spoilt(heads(), tokens=TOKENS), st.integers(1, 5)))
    assert "Traceback" not in said.getvalue()


def test_forecast(tries: Try[Any]) -> None:
    def body(value: Any) -> str:
        try:
            made = Forecast.decode(value)
        except InvalidForecast as error:
            return refused(error)
        assert Forecast.decode(made.encode()) == made
        shown = io.StringIO()
        out = Console(file=shown, width=100)
        Rows(out).show(record(TOPICS[1], 0, b"AAPL", value))
        out.print(forecasts_table([made], out))
        assert shown.getvalue().replace("\n", "").isprintable()
        return "forecast"

    tries(body, forecast_values())


def test_scores(tries: Try[list[Any]]) -> None:
    """What is taken for scores has finite means in the account of the demo."""

    def body(values: list[Any]) -> str:
        account = Accounting(3, horizons=(1, 5))
        for candle_ in walk(12):
            account.candle(candle_, NOW_MS)
        taken = 0
        for value in values:
            try:
                made = Scores.decode(value)
            except InvalidScore as error:
                refused(error)
                continue
            assert Scores.decode(made.encode()) == made
            account.score(made)
            taken += 1
        summary = account.summary()
        assert summary.missing_scores <= 14, "ten forecasts, of which 9 and 5 are due"
        for shares in (summary.coverage.raw, summary.coverage.calibrated):
            assert all(0 <= share <= 1 for share in shares.values())
        return "scores" if taken else "refused"

    good = [scores_of(), scores_of(horizon_score_of(1), horizon_score_of(5))]
    known = st.sampled_from([value for value, _ in SCORES.values()])
    tries(body, st.lists(known | spoilt_documents(good), min_size=1, max_size=4))
