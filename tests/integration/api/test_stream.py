"""The API and a real Kafka: forecasts, events, scores; gone and back again."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from local.broker import Broker
from local.ports import HOST, free_ports
from shared.candles import Candle
from shared.forecaster import ModelSet
from shared.kafka import KafkaSettings
from shared.leash import Leash
from shared.topics import ensure, market_topics
from tests.candles import walk
from tests.forecasters import PersistenceForecaster
from tests.integration.api.test_serving import Api, request_body
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import write, write_candles
from tests.streams import Stream

pytestmark = pytest.mark.integration

LENGTH = 20


def make_topics(kafka: KafkaSettings) -> None:
    asyncio.run(ensure(kafka, market_topics(kafka)))


def start(processes: Processes, kafka: KafkaSettings, *more: str, port: int | None = None) -> Api:
    port = port or free_ports(1)[0]
    flags = ["--bootstrap", kafka.bootstrap, "--candles-topic", kafka.candles_topic]
    flags += ["--forecasts-topic", kafka.forecasts_topic, "--scores-topic", kafka.scores_topic]
    flags += ["--port", str(port)]
    api = Api(processes.start("api", *flags, *more), port)
    wait_until(api.is_ready, 60.0, "the API is ready", process=api.process)
    return api


def settings_of(bootstrap: str, name: Callable[[str], str]) -> KafkaSettings:
    return KafkaSettings.model_construct(
        bootstrap=bootstrap,
        candles_topic=name("candles"),
        forecasts_topic=name("forecasts"),
        scores_topic=name("scores"),
        partitions=3,
        replication=1,
    )


def publish(kafka: KafkaSettings, candles: list[Candle], before: int = 0) -> None:
    """Publish candles, and the forecasts and scores made at them, after the first ``before``."""
    worker = Stream(ModelSet(PersistenceForecaster(LENGTH)))
    worker.take(*candles[:before])
    forecasts, scores = len(worker.forecasts), len(worker.scores)
    worker.take(*candles[before:])
    write_candles(kafka.bootstrap, kafka.candles_topic, candles[before:])
    made = [(one.symbol.encode(), one.encode()) for one in worker.forecasts[forecasts:]]
    write(kafka.bootstrap, kafka.forecasts_topic, made)
    settled = [(one.symbol.encode(), one.encode()) for one in worker.scores[scores:]]
    write(kafka.bootstrap, kafka.scores_topic, settled)


def get(api: Api, path: str) -> Any:
    status, text = api.ask("GET", path)
    return json.loads(text) if status == 200 else None


def wait_followed(api: Api) -> None:
    wait_until(lambda: get(api, "/v1/forecasts"), 30, "it is followed", process=api.process)


def events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str, Any]]:
    """Yield id, kind and data of server-sent events."""
    fields: dict[str, str] = {}
    for line in answer:
        name, found, value = line.decode().rstrip("\n").partition(": ")
        if found and name:
            fields[name] = value
        elif not line.strip() and "event" in fields:
            yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


@contextmanager
def listening(api: Api, query: str = "", last: str | None = None) -> Iterator[Iterator[Any]]:
    with closing(api.connect()) as connection:
        headers = {} if last is None else {"Last-Event-ID": last}
        connection.request("GET", f"/v1/stream{query}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events(answer)


def test_the_api_follows_the_topics(
    processes: Processes, kafka: str, unique_name: Callable[[str], str]
) -> None:
    topics = settings_of(kafka, unique_name)
    make_topics(topics)
    candles = walk(40)
    publish(topics, candles[:30])
    api = start(processes, topics)
    wait_until(lambda: get(api, "/v1/forecasts"), 30, "the stream is followed", process=api.process)
    assert get(api, "/v1/forecasts/AAPL")["as_of_ms"] == candles[29].close_ms
    with listening(api, "?symbols=AAPL&events=forecast") as stream:
        first, kind, _ = next(stream)
        assert kind == "hello"
        publish(topics, candles[:33], before=30)
        got = [next(stream) for _ in range(3)]
    assert [data["as_of_ms"] for _, _, data in got] == [
        candle.close_ms for candle in candles[30:33]
    ]
    with listening(api, "?events=forecast", last=got[0][0]) as stream:
        assert [kind for _, kind, _ in (next(stream) for _ in range(3))] == [
            "resumed",
            "forecast",
            "forecast",
        ]
    with listening(api, last=first.replace(first[:2], "zz")) as stream:
        assert next(stream)[1] == "reset"
    status = get(api, "/v1/status")
    assert (status["connected"], status["lag"], status["series"]) == (True, 0, 1)
    wait_until(lambda: get(api, "/v1/scores")["series"], 10, "scores are there")
    [series] = get(api, "/v1/scores")["series"]
    assert series["steps"][0]["count"] == 33 - LENGTH
    assert api.process.stop(10.0) == 0, api.process.log_tail()


def test_an_id_is_good_at_another_instance_and_after_a_restart(
    processes: Processes, kafka: str, unique_name: Callable[[str], str]
) -> None:
    topics = settings_of(kafka, unique_name)
    make_topics(topics)
    candles = walk(40)
    publish(topics, candles[:30])
    first, second = start(processes, topics), start(processes, topics)
    for instance in (first, second):
        wait_followed(instance)
    with listening(first) as stream:
        assert next(stream)[1] == "hello"
        publish(topics, candles[:36], before=30)
        got = [next(stream) for _ in range(5)]
    first.process.kill()  # in the middle of it
    seen = {json.dumps(data) for _, _, data in got}
    for again in (second, start(processes, topics)):
        wait_followed(again)
        last = next(identity for identity, _, _ in reversed(got) if identity)
        with listening(again, last=last) as stream:
            assert next(stream)[1] == "resumed"
            rest = until(stream, candles[35].close_ms)
        closes = {
            data["as_of_ms"]
            for data in map(json.loads, seen | {json.dumps(data) for _, _, data in rest})
            if "made_at_ms" in data
        }
        assert closes == {candle.close_ms for candle in candles[30:36]}


def test_ids_are_good_after_a_restart_on_long_topics(
    processes: Processes, kafka: str, unique_name: Callable[[str], str]
) -> None:
    """More messages than are kept, over many partitions, of which a consumer reads one by one."""
    topics = settings_of(kafka, unique_name)
    make_topics(topics)
    api = start(processes, topics)
    wait_until(lambda: get(api, "/v1/forecasts"), 30, "it is followed", process=api.process)
    of_symbols = [[c.model_copy(update={"symbol": f"S{n}"}) for c in walk(600)] for n in range(40)]
    candles = [candle for at_once in zip(*of_symbols, strict=True) for candle in at_once]
    with listening(api, "?events=candle") as stream:
        assert next(stream)[1] == "hello"
        got = []
        for begin in range(0, len(candles), 1_000):  # it reads on, or it would be dropped
            write_candles(topics.bootstrap, topics.candles_topic, candles[begin : begin + 1_000])
            got += [next(stream) for _ in range(1_000)]
    api.process.kill()
    again = start(processes, topics)
    wait_until(lambda: get(again, "/v1/forecasts"), 60, "it is followed", process=again.process)
    ids = [identity for identity, _, _ in got if identity]
    for back in range(500, 10_500, 1_000):
        with listening(again, "?events=candle", last=ids[-back]) as stream:
            assert next(stream)[1] == "resumed", f"{back} messages back"
    at = got.index(next(event for event in got if event[0] == ids[-4_000]))
    missed = {(data["symbol"], data["open_ms"]) for _, _, data in got[at + 1 :]}
    with listening(again, "?events=candle", last=ids[-4_000]) as stream:
        assert next(stream)[1] == "resumed"
        came: set[tuple[str, int]] = set()
        while not missed <= came:
            _, _, data = next(stream)
            came.add((data["symbol"], data["open_ms"]))


def until(stream: Iterator[Any], as_of_ms: int) -> list[Any]:
    """Return the events up to the forecast made at a time."""
    found = []
    for event in stream:
        found.append(event)
        if event[1] == "forecast" and event[2]["as_of_ms"] == as_of_ms:
            return found
    raise AssertionError(f"the stream ended after {found}")


def test_missing_topics_are_waited_for(
    processes: Processes, kafka: str, unique_name: Callable[[str], str]
) -> None:
    topics = settings_of(kafka, unique_name)
    api = start(processes, topics)
    assert api.ask("GET", "/v1/forecasts")[0] == 503
    make_topics(topics)
    wait_until(lambda: get(api, "/v1/forecasts"), 30, "the stream is followed", process=api.process)
    assert get(api, "/v1/forecasts") == {"forecasts": [], "behind": []}


@pytest.mark.timeout(180)
def test_without_kafka_predictions_go_on_and_all_comes_back(
    processes: Processes, leash: Leash, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    port = free_ports(1)[0]
    folder = tmp_path / "kafka"
    topics = settings_of(f"{HOST}:{port}", unique_name)
    with Broker(folder, port=port, leash=leash) as broker, ExitStack() as listeners:
        broker.wait_ready()
        make_topics(topics)
        publish(topics, walk(25))
        api = start(processes, topics)
        wait_until(lambda: get(api, "/v1/forecasts"), 30, "it is followed", process=api.process)
        stream = listeners.enter_context(listening(api, "?events=candle"))
        assert next(stream)[1] == "hello"
        patient = listeners.pop_all()  # it listens on while Kafka is away
    refusal = wait_until(lambda: down(api), 30, "the loss is seen", process=api.process)
    assert json.loads(refusal)["status"] == 503
    for path in ("/v1/scores", "/v1/forecasts/AAPL", "/v1/forecasts/AAPL/history"):
        assert api.ask("GET", path)[0] == 503
    waiting = patient.enter_context(listening(api, "?events=candle"))  # accepted all the same
    assert api.ask("POST", "/predict", request_body())[0] == 200
    assert api.is_ready()
    with Broker(folder, port=port, leash=leash) as broker:
        broker.wait_ready()
        publish(topics, walk(27), before=25)

        def is_back() -> bool:
            newest = get(api, "/v1/forecasts/AAPL")
            return newest is not None and newest["as_of_ms"] == walk(27)[-1].close_ms

        wait_until(is_back, 60, "all is back", process=api.process)
        with patient:
            came = [next(stream)[2]["close_ms"] for _ in range(2)]
            assert next(waiting)[1] == "hello"
        assert came == [candle.close_ms for candle in walk(27)[25:]]


def down(api: Api) -> str:
    status, text = api.ask("GET", "/v1/forecasts")
    return text if status == 503 else ""


def test_200_listeners_that_do_not_read_do_not_hinder_one_that_does(
    processes: Processes, kafka: str, unique_name: Callable[[str], str]
) -> None:
    topics = settings_of(kafka, unique_name)
    make_topics(topics)
    most = ("--max-streams", "300", "--max-streams-a-client", "300")
    api = start(processes, topics, *most, "--max-connections-an-address", "300")
    wait_until(lambda: get(api, "/v1/forecasts"), 30, "it is followed", process=api.process)
    candles = walk(6_000)
    with ExitStack() as listeners, listening(api, "?events=candle") as fast:
        slow = [listeners.enter_context(listening(api)) for _ in range(200)]
        assert {next(listener)[1] for listener in (*slow, fast)} == {"hello"}
        started = time.monotonic()
        write_candles(topics.bootstrap, topics.candles_topic, candles)
        got = [next(fast)[2]["open_ms"] for _ in candles]
        assert got == [candle.open_ms for candle in candles]
        assert time.monotonic() - started < 60
        assert api.ask("POST", "/predict", request_body())[0] == 200
