"""The context that the producer publishes: of the same sources, into the topic of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from producer import __main__ as producer
from producer import sink as sinks
from producer.settings import ProducerSettings
from producer.wiring import open_sources
from shared import context_topic, permissions
from shared import kafka as clients
from shared.candles import Candle
from shared.context import ContextSpec, context_key, decode_context
from shared.kafka import Record
from shared.metrics import ProducerMetrics
from tests.candles import values_of, walk
from tests.kafka_contract import read, within
from tests.memory_kafka import MemoryBroker, install

ANY_MS = 1 << 53


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    monkeypatch.setattr(sinks, "FIRST_WAIT_S", 0.005)
    monkeypatch.setattr(clients, "RETRY_S", 0.005)
    return install(monkeypatch)


@pytest.fixture(autouse=True)
def _nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: object) -> None:
        pass

    monkeypatch.setattr(permissions, "check", nobody)


def file_of(path: Path, candles: list[Candle]) -> Path:
    rows = [
        f"{made.open_ms},{made.symbol}," + ",".join(map(str, values_of(made))) for made in candles
    ]
    path.write_text("\n".join(["time,symbol,open,high,low,close,volume", *rows]) + "\n")
    return path


def settings_of(*argv: str) -> ProducerSettings:
    return ProducerSettings.read(["--partitions", "2", *argv], "producer")


async def publish(settings: ProducerSettings, registry: CollectorRegistry | None = None) -> None:
    metrics = ProducerMetrics(registry or CollectorRegistry())
    with open_sources(settings, metrics) as sources:
        await producer._publish(settings, sources, metrics, producer._Probes())


def contexts(records: list[Record]) -> list[Candle]:
    return [decode_context(record.key, record.value, ANY_MS) for record in records]


def test_a_replay_publishes_the_context_first_and_goes_on_where_it_ended(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    del broker
    index = walk(20, symbol="^GSPC")
    stocks = file_of(tmp_path / "stocks.csv", walk(20))
    flags = ("--path", str(stocks), "--context", "^GSPC", "--context-path")
    short = settings_of(*flags, str(file_of(tmp_path / "short.csv", index[:12])))
    whole = settings_of(*flags, str(file_of(tmp_path / "whole.csv", index)))
    registry = CollectorRegistry()

    async def run() -> tuple[list[Record], list[Record]]:
        await publish(short)
        await publish(whole, registry)
        return await read(whole, whole.context_topic), await read(whole, whole.candles_topic)

    context, candles = within(run())
    assert contexts(context) == [made.model_copy(update={"source": "replay"}) for made in index], (
        "each once: a restart resumes after the newest"
    )
    assert [record.key for record in context] == [context_key(made) for made in index]
    assert dict(context[0].headers)["ce_type"] == b"market.context.v1"
    assert context[11].timestamp <= candles[0].timestamp, "before the first candle"
    assert {record.key for record in candles} == {b"AAPL"}
    assert len(candles) == 20
    name = "candlecast_candles_published_total"
    assert registry.get_sample_value(name, {"source": "replay-context"}) == 8


def test_a_context_may_lie_with_the_candles_and_is_read_as_the_trainer_reads_it(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    del broker
    both = file_of(tmp_path / "both.csv", [*walk(9), *walk(9, symbol="^VIX")])
    settings = settings_of("--path", str(both), "--symbols", "AAPL", "--context", "^VIX")
    spec = ContextSpec(symbols=("^VIX",), interval="1d", length=3)

    async def run() -> list[float]:
        await publish(settings)
        store = await context_topic.read(settings)
        closes: list[float] = store.window(spec, walk(9)[-1].close_ms).closes[:, 0].tolist()
        return closes

    assert within(run()) == pytest.approx([made.close for made in walk(9)[-3:]])


def test_without_a_context_no_topic_of_it_is_made(broker: MemoryBroker, tmp_path: Path) -> None:
    within(publish(settings_of("--path", str(file_of(tmp_path / "a.csv", walk(3))))))
    assert set(broker.topics) == {"market.candles.v1"}


def test_live_polls_the_context_whose_interval_may_differ() -> None:
    given = ["--source", "live", "--interval", "5m", "--context", "^GSPC,^VIX"]
    context = settings_of(*given, "--context-interval", "1d").of_context()
    assert (context.source, context.interval, context.symbols) == (
        "yfinance", "1d", ("^GSPC", "^VIX"),
    )  # fmt: skip
    assert settings_of(*given).of_context().interval == "5m"


@pytest.mark.parametrize(
    ("argv", "rule"),
    [
        (["--context", "^GSPC,^GSPC"], "context: symbols: expected each once"),
        (["--context", ",".join(map(str, range(17)))], "context: symbols: expected an array"),
        (["--context", "a,<b>"], "context: symbols[1]: expected 1 to 32 letters"),
        (["--context", "MSFT", "--context-interval", "1h"], "context: interval: the bundled"),
        (
            ["--source", "yfinance", "--interval", "1d", "--context", "A", "--context-interval",
             "3m"],
            "context: interval: Yahoo has candles of",
        ),
    ],
)  # fmt: skip
def test_a_context_that_cannot_be_is_refused(
    argv: list[str], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        ProducerSettings.read(argv, "producer")
    assert exit_.value.code == 2
    assert f"producer: {rule}" in capsys.readouterr().err
