"""The whole chain with real processes: drift, training, gate, promotion, swap, under load."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from local.live_training import FEATURES
from local.ports import HOST, free_ports
from shared import bundle
from shared.candles import Candle
from shared.model_store import Decision, ModelStore
from shared.objects import open_objects
from shared.score_messages import Scores
from shared.topics import ensure, market_topics
from tests.candles import candle
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import count, read, read_forecasts, write_candles
from tests.integration.workers import WorkerTopics, start_worker
from tests.recipes import Recipe
from trainer.evaluate.losses import pinball
from trainer.journal import read as read_journal
from trainer.watch_settings import WatchSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
CALM = Recipe(name="calm", spread=0.02, window_length=20, horizons=(1, 5), levels=LEVELS)
SYMBOLS = "ABC"
CALM_DAYS, STORMY_DAYS, MOST_DAYS, DAYS_AFTER = 300, 250, 3000, 30
DONE_S = 90.0


def days(symbol: str, seed: int) -> list[Candle]:
    """Return days whose moves are just as ``CALM`` forecasts them, then two and a half times so."""
    chance = np.random.default_rng(seed)
    ends = CALM.spread * np.array([-1.3, *np.linspace(-1, 1, len(LEVELS)), 1.3])
    moves = np.interp(chance.uniform(size=MOST_DAYS), [0, *LEVELS, 1], ends)
    moves[CALM_DAYS:] *= 2.5
    made, close = [], 100.0
    for at, move in enumerate(moves - moves[CALM_DAYS:].mean()):
        opened, close = close, close * float(np.exp(move))
        high, low = max(opened, close) * (1 + abs(move) / 3), min(opened, close) / (1 + abs(move))
        made.append(
            candle(at, close, symbol=symbol).model_copy(
                update={"open": opened, "high": high, "low": low}
            )
        )
    return made


class Load:
    """Sends one more day of each symbol after the other, in a thread, while the context lasts."""

    def __init__(self, topics: WorkerTopics, series: list[list[Candle]], sent: int) -> None:
        self._topics = topics
        self._series = series
        self.sent = sent
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(30)

    def _send(self) -> None:
        while not self._ends.wait(0.1):
            one_day = [candles[self.sent] for candles in self._series]
            write_candles(self._topics.bootstrap, self._topics.candles, one_day)
            self.sent += 1


def test_a_drift_ends_in_another_champion_that_forecasts_better_and_no_candle_is_missed(
    kafka: str, unique_name: Callable[[str], str], processes: Processes, tmp_path: Path
) -> None:
    topics, store = WorkerTopics.make(kafka, unique_name), ModelStore(str(tmp_path / "models"))
    built_in = ("--model", str(CALM.write(tmp_path / "calm")), "--models", store.url)
    digest = store.put(bundle.contents_of(tmp_path / "calm"))
    store.promote(digest, "1d", decision=Decision("first"))
    first = bundle.load(tmp_path / "calm").config.model_version
    kafka_flags = topics.flags()
    asyncio.run(ensure(made := WatchSettings.read(kafka_flags, "x"), market_topics(made)))
    (port,) = free_ports(1)
    api = processes.start("api", *kafka_flags, "--port", str(port), *built_in)
    worker = start_worker(processes, topics, *built_in).process

    def forecast_days(number: int) -> bool:
        owed = (number - CALM.window_length + 1) * len(SYMBOLS)
        return count(kafka, topics.forecasts) >= owed

    def served_by_api() -> str:
        with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/") as answer:
            return str(json.load(answer)["model_version"])
        return ""

    series = [days(symbol, seed) for seed, symbol in enumerate(SYMBOLS)]
    sent = CALM_DAYS + STORMY_DAYS
    by_day = zip(*(candles[:sent] for candles in series), strict=True)
    write_candles(kafka, topics.candles, (candle for day in by_day for candle in day))
    # the schedule has hours to wait: only a drift begins a training
    watch = processes.start(
        "trainer", "watch", *kafka_flags, *built_in, "--metrics-port", "0",
        "--snapshots", str(tmp_path / "snapshots"), "--tracking-uri", "", "--poll-seconds", "1",
        "--min-windows", "500", "--test-share", "0.3", "--cooldown-hours", "1e-9",
        env={
            "CANDLECAST_TRAINER_FEATURES": FEATURES,
            "CANDLECAST_TRAINER_HIDDEN": "4", "CANDLECAST_TRAINER_MAX_EPOCHS": "1",
            "CANDLECAST_TRAINER_HORIZONS": "1,5", "OMP_NUM_THREADS": "1",
            "CANDLECAST_TRAINER_QUANTILES": ",".join(map(str, LEVELS)),
        },
    )  # fmt: skip
    wait_until(lambda: forecast_days(sent), DONE_S, "forecasts", process=worker)
    with Load(topics, series, sent) as load:

        def promoted() -> str:
            entry = store.champions().at("1d")
            version = entry.choice.version if entry else ""
            return "" if version == first else version

        version = wait_until(promoted, DONE_S, "a promotion", process=watch)
        wait_until(lambda: served_by_api() == version, DONE_S, "the API swaps", process=api)

        def newest() -> set[str]:
            made = read_forecasts(kafka, topics.forecasts)
            return {forecast.model_version for forecast in made[-len(SYMBOLS) :]}

        wait_until(lambda: version in newest(), DONE_S, "the worker swaps", process=worker)
        swapped = load.sent
        wait_until(lambda: load.sent >= swapped + DAYS_AFTER, DONE_S, "more days")
    watch.stop(15)
    wait_until(lambda: forecast_days(load.sent), DONE_S, "all forecasts", process=worker)
    assert worker.stop(15) == 0

    attempt = read_journal(open_objects(store.url)).of("1d")[-1]
    assert (attempt.trigger, attempt.outcome, attempt.version) == ("drift", "promoted", version)
    forecasts = read_forecasts(kafka, topics.forecasts)
    assert {(made.symbol, made.as_of_ms) for made in forecasts} == {
        (day.symbol, day.close_ms)
        for candles in series
        for day in candles[CALM.window_length - 1 : load.sent]
    }
    assert count(kafka, topics.dlq) == 0
    for symbol in SYMBOLS:
        own = [made for made in forecasts if made.symbol == symbol]
        served = [made.model_version for made in sorted(own, key=lambda made: made.as_of_ms)]
        assert [*dict.fromkeys(served)] == [first, version]
        assert served == sorted(served, key=[first, version].index)  # and never back

    mine, frozen = losses_of(topics, series, version)
    assert len(mine) >= DAYS_AFTER
    assert np.mean(mine) < 0.95 * np.mean(frozen)


def losses_of(
    topics: WorkerTopics, series: list[list[Candle]], version: str
) -> tuple[list[float], list[float]]:
    """Return a model's own losses one day ahead, and those of ``CALM`` on the same candles."""
    levels = np.array(LEVELS)
    forecast = CALM.spread * np.linspace(-1, 1, len(levels))[None]
    closes = {(day.symbol, day.close_ms): day.close for candles in series for day in candles}
    mine, frozen = [], []
    for record in read(topics.bootstrap, topics.scores):
        scores = Scores.decode(record.value)
        for made in scores.horizons:
            if (made.model_version, made.step) == (version, 1):
                before, after = (
                    closes[scores.symbol, at_ms] for at_ms in (made.as_of_ms, scores.close_ms)
                )
                mine.append(made.raw_pinball)
                outcome = np.array([np.log(after / before)])
                frozen.append(float(pinball(outcome, forecast, levels).mean()))
    return mine, frozen
