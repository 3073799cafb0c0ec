"""The candles topic as the trainer's data: read once, then only what is new."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from shared.candles import DAY_MS
from shared.files.series import HistoryError
from shared.topics import candles_topic, ensure
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
    import asyncio  # noqa: PLC0415

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
