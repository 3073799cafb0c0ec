"""The candles topic as the trainer's data: read once, then only what is new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shared import context_topic
from shared.candles import DAY_MS
from shared.context import ContextSpec, context_key
from shared.files.series import HistoryError
from shared.topics import candles_topic, ensure
from shared.topics import context_topic as made_topic
from tests import bundles
from tests.candles import START_MS, candle, walk
from tests.integration.topics import write, write_candles
from trainer import snapshot
from trainer.__main__ import main
from trainer.settings import BacktestSettings

pytestmark = pytest.mark.integration


async def _make(settings: BacktestSettings) -> None:
    await ensure(settings, [candles_topic(settings)])


@pytest.fixture
def flags(kafka: str, unique_name: Callable[[str], str], tmp_path: Path) -> list[str]:
    flags = [
        "--data", "kafka", "--bootstrap", kafka, "--candles-topic", unique_name("candles"),
        "--snapshots", str(tmp_path / "snapshots"), "--out", str(tmp_path / "forecasts.csv"),
        "--no-progress",
    ]  # fmt: skip
    asyncio.run(_make(BacktestSettings.read(flags, "x")))
    return flags


def test_the_topic_is_read_once_and_then_on(
    flags: list[str], kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BacktestSettings.read(flags, "x")
    days = 200
    series = walk(days, symbol="A") + walk(days, symbol="B")
    write_candles(kafka, settings.candles_topic, series)
    write(kafka, settings.candles_topic, [(b"A", b"{"), (b"A", None)])
    assert main(["backtest", *flags]) == 0
    forecasts = pd.read_csv(tmp_path / "forecasts.csv")
    assert set(forecasts["symbol"]) == {"A", "B"}
    first = snapshot.history(snapshot.update(settings, settings.snapshots), "1d")
    assert first.count == 2 * days
    assert main(["inspect", str(settings.snapshots)]) == 0
    assert first.notes == (
        "1 messages are not candles: empty",
        "1 messages are not candles: not_json",
    )

    write_candles(kafka, settings.candles_topic, [candle(days, 120.0, symbol="A")])
    write_candles(kafka, settings.candles_topic, [candle(3, 77.0, symbol="A")])
    read: list[int] = []
    monkeypatch.setattr(snapshot, "MOST_PARTS", 1)  # so that parts are joined
    folder = snapshot.update(settings, settings.snapshots, lambda done, _: read.append(done))
    assert read[-1] == 2
    rows = snapshot.history(folder, "1d", ("A",)).series[0]
    assert len(rows.open_ms) == days + 1
    assert rows.candles[3, 3] == 77.0
    assert rows.open_ms[-1] == START_MS + days * DAY_MS
    assert len(list(folder.glob("*.parquet"))) == 1
    with pytest.raises(HistoryError, match="expected candles of 5m, got none"):
        snapshot.history(folder, "5m")
    with pytest.raises(HistoryError, match="expected 1d candles of C, got none"):
        snapshot.history(folder, "1d", ("A", "C"))


def test_the_context_is_read_of_its_own_topic(
    flags: list[str], kafka: str, tmp_path: Path, unique_name: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Each candle has a key of its own there, and is found again by its symbol and close."""
    flags = [*flags, "--context-topic", unique_name("context")]
    settings = BacktestSettings.read(flags, "x")
    asyncio.run(ensure(settings, [made_topic(settings)]))
    write_candles(kafka, settings.candles_topic, walk(10, symbol="A"))
    around = walk(8, symbol="^VIX")
    messages = [(context_key(candle), candle.encode()) for candle in around]
    odd = [(b"^VIX", around[0].encode()), (b"k", b"{"), (context_key(around[0]), None)]
    write(kafka, settings.context_topic, [*messages, *odd])
    spec = ContextSpec(symbols=("^VIX",), interval="1d", length=2)
    store = asyncio.run(context_topic.read(settings))
    window = store.window(spec, around[-1].close_ms)
    assert window.closes[:, 0].tolist() == [np.float32(candle.close) for candle in around[-2:]]
    told = [record.getMessage() for record in caplog.records if record.name.endswith("topic")]
    assert [line.partition(": ")[2] for line in told] == [
        "1 messages are not context: not_json", "1 messages are not context: wrong_key",
    ]  # fmt: skip

    model = bundles.write(tmp_path / "model", context=spec)
    assert main(["backtest", *flags, "--model", str(model)]) == 0
    table = pd.read_csv(tmp_path / "forecasts.csv")
    volatility = table.loc[table["step"] == 1, "volatility"].to_numpy()
    read = [sum(context.close for context in around[: day + 1][-2:]) for day in range(3, 10)]
    np.testing.assert_allclose(volatility, np.array(read) + 0.01, rtol=1e-5)


def test_a_run_that_dies_leaves_what_the_one_before_wrote(
    flags: list[str], kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BacktestSettings.read(flags, "x")
    write_candles(kafka, settings.candles_topic, walk(30, symbol="A"))
    folder = snapshot.update(settings, settings.snapshots)
    write_candles(kafka, settings.candles_topic, walk(10, symbol="A", first=30))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(snapshot.State, "write", die)
        with pytest.raises(KeyboardInterrupt):
            snapshot.update(settings, settings.snapshots)
    assert snapshot.history(folder, "1d").count == 30
    snapshot.update(settings, settings.snapshots)
    assert snapshot.history(folder, "1d").count == 40


def test_a_topic_that_is_not_there_is_an_error(flags: list[str], tmp_path: Path) -> None:
    assert main(["backtest", *flags, "--candles-topic", "no.such.topic"]) == 1
    assert not (tmp_path / "forecasts.csv").exists()
