"""Starts a stream of five-minute candles on a model of daily ones, and lets it get its own.

``python -m benchmarks intraday FOLDER --bundle DAILY`` takes the Parquet file of a folder whose
series have the most days, its candles those of five minutes or made into such, and writes the
oldest two thirds of them into a candles topic. ``trainer watch``, a process on a store whose
champion is the daily bundle, trains on them alone, and its gate decides. What is champion then, and
the daily bundle, forecast the last third, as the worker would, beside a HAR that knows the time of
day. A second topic has 300 candles of five of the series: there the built-in model must stay. The
bundle may be one of format 2, as the built-in one of daily candles had. One JSON object is printed;
the exit code is 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from local.broker import Broker
from shared import bundle, kafka, topics
from shared.bundle import CONFIG_NAME
from shared.candles import DAY_MS, INTERVALS_MS, Candle
from shared.forecaster import OnnxForecaster
from shared.leash import Leash
from shared.model_store import Decision, ModelStore
from trainer import panels
from trainer.dataset import SymbolCandles
from trainer.evaluate import backtest, evaluation
from trainer.evaluate.baselines.har import HarTimeOfDay
from trainer.evaluate.baselines.walk import Walk, forecast_symbol
from trainer.evaluate.evaluation import MODEL
from trainer.watch_settings import WatchSettings

INTERVAL: Final = "5m"
LENGTH_MS: Final = INTERVALS_MS[INTERVAL]
GOALS: Final = {1: 1.0, 5: 0.3, 10: 0.3}
"""Least per cent that pinball is lower than that of HAR with time of day, by candles ahead."""

SEEN: Final = 2 / 3
"""Share of the candles that come before the swap."""

FEW_SERIES, FEW_CANDLES = 5, 300
HISTORY: Final = 300
"""Candles that HAR is first fitted on."""

REFIT: Final = 1000

Series = Mapping[str, SymbolCandles]


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks intraday", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of Parquet files of candles")
    parser.add_argument("--bundle", type=Path, required=True, help="of daily candles")
    options = parser.parse_args(argv)
    name, series = longest(options.folder)
    times = np.concatenate([held.open_ms for held in series.values()])
    swap_ms = int(np.quantile(times, SEEN)) // DAY_MS * DAY_MS
    with (
        tempfile.TemporaryDirectory(prefix="candlecast-intraday-") as temporary,
        Leash() as leash,
        Broker(leash=leash) as broker,
    ):
        folder = Path(temporary)
        daily = adopted(options.bundle, folder / "daily")
        few = dict(list(series.items())[:FEW_SERIES])
        few = {
            symbol: SymbolCandles(held.open_ms[:FEW_CANDLES], held.candles[:FEW_CANDLES])
            for symbol, held in few.items()
        }
        kept, why = watched(broker.bootstrap, "few", few, folder, bundle.default_path())
        seen = {symbol: held.until(swap_ms) for symbol, held in series.items()}
        own, words = watched(broker.bootstrap, "many", seen, folder, daily)
        skills = {
            said: against_har(OnnxForecaster(model), series, swap_ms)
            for said, model in (("daily", bundle.load(daily)), ("own", own))
        }
    result = {
        "file": name, "series": len(series), "candles": len(times),
        "swapped_at": f"{pd.Timestamp(swap_ms, unit='ms'):%Y-%m-%d}",
        "champion": own.config.model_version, "verdict": words,
        "pinball_lower_than_har_with_time_of_day_percent": skills,
        "few": {"candles": FEW_CANDLES, "champion": kept.config.model_version, "why": why},
        "goals": GOALS,
    }  # fmt: skip
    print(json.dumps(result))
    default = bundle.load(bundle.default_path()).config.model_version
    reached = all(skills["own"][step] >= goal for step, goal in GOALS.items())
    return int(not reached or kept.config.model_version != default)


def longest(folder: Path) -> tuple[str, Series]:
    """Return the file whose series last longest, and its five-minute candles by symbol."""
    days: dict[Path, float] = {}
    for path in folder.glob("*.parquet"):
        table = pd.read_parquet(path, columns=["symbol", "open_ms"])
        spacing = float(np.median(np.diff(table["open_ms"].to_numpy())))
        if not path.name.startswith("context-") and 0 < spacing <= LENGTH_MS:
            table["day"] = table["open_ms"] // DAY_MS
            days[path] = float(table.groupby("symbol")["day"].nunique().median())
    if not days:
        raise SystemExit(f"{folder}: expected Parquet files of 5-minute candles or shorter ones")
    path = max(days, key=lambda path: days[path])
    table = pd.read_parquet(path).sort_values(["symbol", "open_ms"])
    table["open_ms"] -= table["open_ms"] % LENGTH_MS
    whole = table.groupby(["symbol", "open_ms"], sort=True).agg(
        open=("open", "first"), high=("high", "max"), low=("low", "min"), close=("close", "last"),
        volume=("volume", "sum"),
    )  # fmt: skip
    return path.name, {
        str(symbol): SymbolCandles(
            rows.index.get_level_values("open_ms").to_numpy(np.int64),
            rows[panels.COLUMNS].to_numpy(np.float64),
        )
        for symbol, rows in whole.groupby("symbol")
    }


def adopted(given: Path, folder: Path) -> Path:
    """Return a copy of a bundle; of format 2, whose windows had one length, as one of today's."""
    shutil.copytree(given, folder)
    config = json.loads((folder / CONFIG_NAME).read_bytes())
    if config["format"] != bundle.FORMAT:
        inputs = {name: spec.model_dump() for name, spec in bundle.tensor_inputs().items()}
        lengths = {interval: [config["window_length"]] for interval in config["intervals"]}
        config |= {"format": bundle.FORMAT, "inputs": inputs, "window_lengths": lengths}
        (folder / CONFIG_NAME).write_text(json.dumps(config))
    return folder


def watched(
    bootstrap: str, name: str, series: Series, folder: Path, first: Path
) -> tuple[bundle.Bundle, str]:
    """Let a trainer look once at a topic of candles; return what serves then, and its last words.

    Args:
        bootstrap: of Kafka.
        name: of the run.
        series: candles of the topic.
        folder: for all that the run leaves.
        first: the bundle that serves before: the champion, but for the built-in one.
    """
    store = ModelStore(str(folder / f"{name}-models"))
    if first != bundle.default_path():
        digest = store.put(bundle.contents_of(first))
        store.promote(digest, INTERVAL, decision=Decision("to begin with", at_ms=1))
    flags = [
        "--bootstrap", bootstrap, "--candles-topic", f"{name}.candles",
        "--scores-topic", f"{name}.scores", "--models", store.url, "--tracking-uri", "",
        "--snapshots", str(folder / "snapshots"), "--metrics-port", "0",
    ]  # fmt: skip
    settings = WatchSettings.read(flags, "intraday")
    asyncio.run(_write(settings, series))
    ran = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-m", "trainer", "watch", *flags, "--once"],
        env=os.environ | {"CANDLECAST_TRAINER_FIT_ALONE": "true"},
        check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    sys.stderr.buffer.write(ran.stdout)
    said = [json.loads(line)["message"] for line in ran.stdout.splitlines() if line[:1] == b"{"]
    words = [line for line in said if line.startswith(f"{INTERVAL}: ")]
    entry = store.champions().at(INTERVAL)
    serves = bundle.load(first) if entry is None else store.load(entry.choice.bundle)
    return serves, words[-1] if words else ""


async def _write(settings: WatchSettings, series: Series) -> None:
    wanted = [settings.candles_topic, settings.scores_topic]
    made = [topic for topic in topics.market_topics(settings) if topic.name in wanted]
    await topics.ensure(settings, made)
    async with kafka.connected(kafka.producer(settings, max_batch_bytes=1 << 18)) as producer:
        for symbol, held in series.items():
            for open_ms, row in zip(held.open_ms.tolist(), held.candles.tolist(), strict=True):
                fields = dict(zip(panels.COLUMNS, row, strict=True))
                candle = Candle.trusted(
                    **fields, symbol=symbol, interval=INTERVAL, open_ms=open_ms,
                    close_ms=open_ms + LENGTH_MS, source="benchmark",
                )  # fmt: skip
                await producer.send(settings.candles_topic, candle.encode(), symbol.encode())
        await producer.flush()


def against_har(forecaster: OnnxForecaster, series: Series, start_ms: int) -> dict[int, float]:
    """Return by how much per cent pinball is lower than that of HAR with time of day, by step."""
    table = backtest.run(forecaster, series, start_ms, interval=INTERVAL)
    walk = Walk(forecaster.horizons, forecaster.quantile_levels, HISTORY, REFIT)
    har = HarTimeOfDay()
    rows: list[Any] = [
        forecast_symbol(har, symbol, held.open_ms, held.candles, walk)
        for symbol, held in series.items()
    ]
    both = pd.concat(rows)
    both = both[both["open_ms"] >= start_ms].reset_index(drop=True)
    compared = evaluation.evaluate({MODEL: table, har.name: both}, series)
    return {
        row.step: round(100 * row.skill, 2)
        for row in compared.comparisons
        if (row.loss, row.baseline) == ("pinball", har.name)
    }
