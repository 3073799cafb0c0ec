"""Replays years of real candles through real processes, and shows a live model beside a frozen one.

``python -m benchmarks live --plot live.png`` trains a model on the bundled candles until 2006,
makes it the champion, and replays the candles to 2013 through Kafka, producer, worker, API and
trainer, the years from 2007 on in quarters, each of which waits while a challenger is trained.
The trainer begins when the scores drift, and by a schedule; a challenger is a shadow for 150 days.
Beside the scores that the worker published lie those that the frozen model would have had on the
same candles: its back-test, calibrated as the worker does. The last line printed is one JSON
object; the plot shows both, from 2007 on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import numpy as np
import pandas as pd

from local.accounting import Accounting
from local.follow import Follower
from local.ports import HOST, free_ports
from local.settings import LocalSettings
from local.system import System
from shared import bundle, kafka, topics
from shared.candles import DAY_MS, midnight_ms
from shared.forecaster import OnnxForecaster
from shared.kafka import KafkaSettings, Partition
from shared.model_store import Decision, ModelStore
from shared.score_messages import Scores
from trainer import dataset
from trainer.dataset import Source
from trainer.evaluate import backtest, losses
from trainer.evaluate.forecast_table import levels_of, quantile_column

UNTIL: Final = date(2007, 1, 1)
"""The first model knows the candles before it; the plot begins there."""

READY_S: Final = 90.0
STALL_S: Final = 60.0
DAYS: Final = 120
"""Candles over which the plot's lines are means."""

WATCH: Final = (
    "--every-hours", "0.04", "--cooldown-hours", "0.001", "--max-runs", "1000",
    "--min-windows", "3000", "--shadow", "150", "--poll-seconds", "1", "--intervals", "1d",
)  # fmt: skip
"""The trainer's pace: a schedule of a year or two; a drift begins a training at once."""

CHALLENGERS: Final = {
    "CANDLECAST_TRAINER_FIT_ALONE": "true", "CANDLECAST_TRAINER_MAX_EPOCHS": "5",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip

KEY: Final = ["symbol", "as_of_ms", "step"]


@dataclass(frozen=True)
class Run:
    """What a run left."""

    scores: pd.DataFrame  # symbol, as_of_ms, step, model_version, pinball, raw_pinball, baseline
    account: Accounting
    api: str  # version that the API serves in the end
    journal: dict[str, Any]
    champions: list[dict[str, Any]]


def first_model(folder: Path) -> Path:
    """Train the model that stays as it is, on the bundled candles until ``UNTIL``."""
    command = [
        sys.executable, "-m", "trainer", "fit", "--alone", "--until", UNTIL.isoformat(),
        "--out", str(folder / "first"), "--tracking-uri", "", "--no-progress", "--no-compare",
    ]  # fmt: skip
    with (folder / "first.log").open("wb") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)  # noqa: S603 - our own
    return folder / "first"


class Replay:
    """The candles through real processes, a quarter of a year after the other.

    A year would pass while a challenger is trained, so the next quarter waits for that.
    """

    def __init__(
        self, system: System, settings: LocalSettings, trainer_port: int, account: Accounting
    ) -> None:
        self._system = system
        self._settings = settings
        self._trainer_port = trainer_port
        self._account = account

    async def run(self, kafka_settings: KafkaSettings, parts: Sequence[Path]) -> None:
        """Replay files of candles: the first as fast as it goes, the others at the speed set."""
        deadline_s = time.monotonic() + READY_S
        while not await asyncio.to_thread(self._system.are_services_ready):
            self._system.check()
            if time.monotonic() > deadline_s:
                raise TimeoutError(self._system.logs())
            await asyncio.sleep(0.2)
        follower = Follower(kafka_settings, self._account)
        async with follower:
            reading = asyncio.create_task(follower.run())
            try:
                for number, path in enumerate(parts):
                    speed = None if number == 0 else self._settings.speed
                    source = {"path": path, "speed": speed, "exit_when_done": True}
                    self._system.start_producer(self._settings.model_copy(update=source))
                    await self._done(path.stem)
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading

    async def _done(self, name: str) -> None:
        """Wait until all is forecast and scored, and no challenger is being trained."""
        account, system = self._account, self._system
        seen, seen_s = -1, time.monotonic()
        while True:
            system.check()
            trains = await asyncio.to_thread(self._trains)
            owes = account.missing + account.missing_scores
            if system.is_published and not owes and not trains:
                break
            count = account.candles + account.forecasts + account.scores
            if count != seen or trains:
                seen, seen_s = count, time.monotonic()
            elif time.monotonic() - seen_s > STALL_S:
                raise TimeoutError(f"{name}: nothing happens after {account.candles} candles")
            await asyncio.sleep(0.2)
        print(f"until {name}: {account.candles} candles", file=sys.stderr, flush=True)

    def _trains(self) -> bool:
        address = f"http://{HOST}:{self._trainer_port}/livez"
        try:
            with urlopen(address, timeout=5) as said:
                return str(json.load(said)["detail"]).startswith("training")
        except OSError:  # it is starting, or busy; had it ended, the system would say so
            return True


def cut(folder: Path) -> list[Path]:
    """Write the bundled candles as files: those before ``UNTIL``, then a quarter of a year each."""
    rows = []
    for name, held in dataset.load(None).symbols.items():
        columns = ("open", "high", "low", "close", "volume")
        rows.append(pd.DataFrame(held.candles, columns=columns).assign(
            symbol=name, date=held.open_ms.astype("datetime64[ms]")
        ))  # fmt: skip
    table = pd.concat(rows)
    quarter = table["date"].dt.to_period("Q").where(table["date"] >= pd.Timestamp(UNTIL))
    paths = []
    for name, part in table.groupby(quarter.astype(str).replace("NaT", "2000 on"), sort=True):
        paths.append(folder / f"{name}.csv")
        part.sort_values(["date", "symbol"]).to_csv(paths[-1], index=False)
    return paths


async def published(settings: KafkaSettings) -> pd.DataFrame:
    """Return the published scores, a row a horizon."""
    rows: list[dict[str, Any]] = []
    parts = [Partition(settings.scores_topic, number) for number in range(settings.partitions)]
    reader = kafka.consumer(settings)
    async with kafka.connected(reader):
        starts, ends = await reader.beginning_offsets(parts), await reader.end_offsets(parts)
        async for records in kafka.read_to_end(reader, starts, ends):
            for record in records:
                scores = Scores.decode(record.value)
                rows += [
                    {
                        "symbol": scores.symbol, "as_of_ms": made.as_of_ms, "step": made.step,
                        "model_version": made.model_version, "pinball": made.pinball,
                        "raw_pinball": made.raw_pinball, "baseline": made.baseline_pinball,
                    }
                    for made in scores.horizons
                ]  # fmt: skip
    return pd.DataFrame(rows).drop_duplicates(KEY, keep="last")


def frozen(model: Path, source: Source) -> pd.DataFrame:
    """Return the losses of a model on all candles, calibrated as the worker does, and its own."""
    table = backtest.run_calibrated(OnnxForecaster(bundle.load(model)), source.symbols)
    table = losses.join_outcomes(table, source.symbols)
    levels = levels_of(table)
    raw = table.assign(
        **{quantile_column(level): table[f"raw_{quantile_column(level)}"] for level in levels}
    )
    return pd.DataFrame(
        {
            "symbol": table["symbol"],
            "as_of_ms": table["open_ms"] + DAY_MS,  # the close of a daily candle
            "step": table["step"],
            "frozen": losses.losses(table)["pinball"],
            "frozen_raw": losses.losses(raw)["pinball"],
        }
    )


def run(folder: Path, speed: float) -> Run:
    """Run everything; the first model is in the folder."""
    store = ModelStore(str(folder / "store"))
    first = store.put(bundle.contents_of(folder / "first"))
    settings = LocalSettings.read(
        ["--model", str(folder / "first"), "--models", store.url, "--speed", f"{speed:g}"], "live"
    )
    config = bundle.load(folder / "first").config
    account = Accounting(config.window_length, config.horizons)
    logs = folder / "run"
    logs.mkdir()
    (port,) = free_ports(1)
    with System(settings, logs) as system:
        clients = KafkaSettings.read(system.kafka_flags("local"), "live")
        asyncio.run(topics.ensure(clients, topics.market_topics(clients)))
        store.promote(first, "1d", decision=Decision(f"trained until {UNTIL}"))
        system.start_services()
        system.start_trainer(
            [*WATCH, "--models", store.url, "--model", str(folder / "first"),
             "--snapshots", str(logs / "snapshots"), "--tracking-uri", f"sqlite:///{logs}/ml.db",
             "--metrics-port", str(port)],
            CHALLENGERS,
        )  # fmt: skip
        replay = Replay(system, settings, port, account)
        asyncio.run(replay.run(clients, cut(folder)))
        scores = asyncio.run(published(clients))
        api = system.served_by_api()
    journal = json.loads((folder / "store" / "watch" / "journal.json").read_text())
    entry = store.champions().at("1d")
    chosen = [] if entry is None else [*reversed(entry.before), entry.choice]
    return Run(scores, account, api, journal, [choice.model_dump() for choice in chosen])


def answer(made: Run, both: pd.DataFrame) -> dict[str, Any]:
    """Return the figures, of the same candles for both."""
    first = made.champions[0]["version"]
    swapped = both[both["model_version"] != first]
    before = both[both["model_version"] == first]
    differs = float((before["pinball"] - before["frozen"]).abs().max())
    attempts = [
        {name: attempt[name] for name in ("trigger", "outcome", "version", "words")}
        | {"newest": _day(attempt["newest_ms"]),
           "drift_evidence": attempt["figures"].get("drift_evidence")}
        for attempt in made.journal["attempts"]["1d"]
    ]  # fmt: skip
    by_model = {
        str(version): {
            "from": _day(int(rows["as_of_ms"].min())), "horizons": len(rows), **_gain(rows),
        }
        for version, rows in swapped.groupby("model_version", sort=False)
    }  # fmt: skip
    return {
        "candles": made.account.candles,
        "missing_forecasts": made.account.missing,
        "missing_scores": made.account.missing_scores,
        "dead_letters": made.account.dead_letters,
        "largest_difference_before_the_swap": differs,
        "attempts": attempts,
        "models": by_model,
        "after_the_swap": _gain(swapped) if len(swapped) else None,
        "api_serves_the_champion": made.api == made.champions[-1]["version"],
    }


def _gain(rows: pd.DataFrame) -> dict[str, float]:
    """Return by how much per cent the live model's pinball is lower; each step counts alike."""

    def lower(live: str, still: str) -> float:
        means = rows.groupby("step")[[live, still]].mean()
        return round(100 * float((1 - means[live] / means[still]).mean()), 2)

    return {
        "pinball_lower_percent": lower("pinball", "frozen"),
        "raw_pinball_lower_percent": lower("raw_pinball", "frozen_raw"),
    }


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"


def plot(both: pd.DataFrame, made: Run, path: Path) -> None:
    """Draw the skill of both against no model, and by how much the live one is better."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - a second that others do without

    plt.rcParams.update({"svg.hashsalt": "candlecast", "font.size": 8, "svg.fonttype": "none"})
    scale = both.groupby("step")["baseline"].transform("mean")
    scaled = both[["pinball", "frozen", "baseline"]].div(scale, axis=0)
    daily = scaled.assign(day=both["as_of_ms"] // DAY_MS).groupby("day").sum()
    daily = daily[daily.index >= midnight_ms(UNTIL) // DAY_MS]
    rolled = daily.rolling(DAYS, min_periods=DAYS // 2).sum()
    days = (daily.index.to_numpy() * DAY_MS).astype("datetime64[ms]")
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7.2, 4.2), sharex=True, height_ratios=(3, 2)
    )
    for name, colour, label in (
        ("frozen", "#64748b", f"frozen: the model trained until {UNTIL:%Y}"),
        ("pinball", "#c2410c", "live: retrained, gated, swapped in"),
    ):
        skill = 100 * (1 - rolled[name] / rolled["baseline"])
        above.plot(days, skill, color=colour, linewidth=1.3, label=label)
    saved = (daily["frozen"] - daily["pinball"]).cumsum() / daily["frozen"].sum()
    below.plot(days, 100 * saved, color="#c2410c", linewidth=1.3)
    below.axhline(0, color="0.6", linewidth=0.8)
    versions = both.sort_values("as_of_ms").drop_duplicates("model_version")
    swaps = versions["as_of_ms"].to_numpy()[1:]
    noticed = [
        attempt["newest_ms"] for attempt in made.journal["attempts"]["1d"]
        if attempt["trigger"] == "drift"
    ]  # fmt: skip
    for axes in (above, below):
        for at, times, style, name in (
            (0, noticed, ":", "drift noticed, a challenger trained"),
            (1, swaps, "-", "promoted and swapped in"),
        ):
            for number, time_ms in enumerate(times):
                axes.axvline(
                    np.datetime64(int(time_ms), "ms"), color=("0.6", "#15803d")[at],
                    linestyle=style, linewidth=1, label=name if number == 0 else None,
                )  # fmt: skip
    above.set_ylabel(f"skill against no model,\n%, mean of {DAYS} days")
    below.set_ylabel("pinball saved by then,\n% of the frozen model's")
    above.legend(loc="upper left", fontsize=7, frameon=False, ncols=2)
    low, high = above.get_ylim()
    above.set_ylim(low, high + 0.25 * (high - low))
    above.set_title(
        "AAPL, GOOG, IBM, MSFT, daily; published forecasts, 1, 5 and 10 ahead",
        loc="left",
        fontsize=8,
    )
    figure.tight_layout(pad=0.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(
        path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else {"Date": None}
    )
    plt.close(figure)


def main(argv: Sequence[str]) -> int:
    """Run and print JSON; 1 when a candle was missed or the live model is not better."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks live", description=__doc__)
    parser.add_argument("--speed", type=float, default=30, help="candles a second (default: 30)")
    parser.add_argument("--plot", type=Path, help="PNG or SVG file to draw")
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="live-") as temporary:
        folder = Path(temporary)
        print(f"training the first model until {UNTIL}", file=sys.stderr, flush=True)
        first = first_model(folder)
        made = run(folder, options.speed)
        source = Source("bundled", "1d", dataset.load(None).symbols)
        both = made.scores.merge(frozen(first, source), on=KEY, validate="one_to_one")
    if options.plot:
        plot(both, made, options.plot)
    result = answer(made, both)
    print(json.dumps(result))
    gain = result["after_the_swap"]
    missed = result["missing_forecasts"] + result["missing_scores"] + result["dead_letters"]
    return int(bool(missed) or gain is None or gain["pinball_lower_percent"] <= 0)
