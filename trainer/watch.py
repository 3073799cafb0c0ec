"""``trainer watch``: trains challengers on the stream, and promotes those that prove better."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from shared import bundle
from shared.bundle import Bundle, BundleError
from shared.candles import DAY_MS, INTERVALS_MS
from shared.champions import Champions
from shared.files.series import HistoryError
from shared.forecaster import OnnxForecaster
from shared.forecasts import MEDIAN
from shared.kafka import KafkaError, KafkaSettings
from shared.leash import Leash
from shared.metrics import TrainerMetrics
from shared.model_store import Decision, ModelStore
from shared.objects import StoreError, open_objects
from shared.process import in_words, now_ms
from shared.status import Health, StatusServer, since
from trainer import dataset, snapshot, tracking
from trainer.dataset import Source, SymbolCandles
from trainer.evaluate import backtest, losses
from trainer.evaluate.forecast_table import KEYS, levels_of, quantile_column
from trainer.gate import NOMINAL, Rule, Verdict, judge
from trainer.lease import Lease
from trainer.settings import Tracked, WatchSettings

log = logging.getLogger("trainer")

JOURNAL: Final = "watch/journal.json"
MOST_BYTES: Final = 1 << 20

PROMOTED, REFUSED, FAILED = "promoted", "refused", "failed"

HOUR_MS: Final = 3_600_000
STOP_S: Final = 10.0  # for a training to end that is asked to

UNREACHABLE: Final = (KafkaError, HistoryError, StoreError, BundleError, OSError)
"""Errors of one look; the next one may go well."""


class Attempt(BaseModel):
    """One training and its outcome."""

    model_config = ConfigDict(frozen=True)

    at_ms: int
    newest_ms: int  # opening of the newest candle that was there
    outcome: str
    version: str  # of the challenger; empty when the training failed
    champion: str  # what it was measured against
    words: str
    figures: dict[str, float] = {}


class Journal(BaseModel):
    """What was tried, by interval, the newest last; kept in the store, so that it outlives all."""

    attempts: dict[str, list[Attempt]] = {}

    def of(self, interval: str) -> list[Attempt]:
        """Return an interval's attempts."""
        return self.attempts.setdefault(interval, [])


def watch(settings: WatchSettings) -> None:
    """Look at the stream until a signal comes; once with ``--once``."""
    registry = CollectorRegistry()
    watcher = Watcher(settings, TrainerMetrics(registry))
    status = StatusServer(
        settings.metrics_host, settings.metrics_port, registry,
        live=watcher.live, ready=watcher.ready,
    )  # fmt: skip
    with status as server:
        log.info("metrics at http://%s:%d/metrics", settings.metrics_host, server.port)
        watcher.run()


class Watcher:
    """Looks at the stream, and trains when that is due."""

    def __init__(self, settings: WatchSettings, metrics: TrainerMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._objects = open_objects(settings.models)
        self._store = ModelStore(settings.models)
        self._lease = Lease(self._objects)
        self._said: dict[str, str] = {}  # interval -> why nothing is trained
        self._began_ms = now_ms()
        self._looked_ms: int | None = None  # when the last look ended
        self._fault = "it has not looked yet"
        self._training_since_ms: int | None = None

    def live(self) -> Health:
        """Tell whether looks follow each other; a training may take ``max_hours``."""
        if self._training_since_ms is not None:
            hours = (now_ms() - self._training_since_ms) / HOUR_MS
            ok = hours <= self._settings.max_hours
            return Health(ok=ok, detail=f"training {since(self._training_since_ms)}")
        last_ms = self._looked_ms or self._began_ms
        ok = now_ms() - last_ms <= 1000 * (3 * self._settings.poll_seconds + 300)
        return Health(ok=ok, detail=f"waiting {since(last_ms)}")

    def ready(self) -> Health:
        """Tell whether the last look reached topic and store."""
        return Health(ok=not self._fault, detail=self._fault or "looking at the stream")

    def run(self) -> None:
        """Look, wait, and again; what is away is tried again at the next look."""
        while True:
            fault = self._try_to_look()
            if fault and fault != self._fault:
                log.warning("%s; trying again in %g s", fault, self._settings.poll_seconds)
            self._fault = fault
            self._looked_ms = now_ms()
            self._metrics.looked.set(self._looked_ms / 1000)
            if self._settings.once:
                if fault:
                    raise StoreError(fault)
                return
            time.sleep(self._settings.poll_seconds)

    def _try_to_look(self) -> str:
        """Look once; return what went wrong, "" if nothing."""
        try:
            with self._lease.held() as holder:
                if holder:
                    return f"{self._store.url}: {holder} holds the lease, and trains"
                self._look()
        except UNREACHABLE as error:
            return in_words(error)
        return ""

    def _look(self) -> None:
        folder = snapshot.update(self._settings, self._settings.snapshots)
        journal = self._journal()
        self._fault = ""  # a training may take long
        for interval in self._settings.intervals or snapshot.intervals(folder):
            champions = self._store.champions()
            why_not = self._too_soon(journal.of(interval), has_own=bool(champions.at(interval)))
            if why_not:  # before the candles are read, which a look each minute need not do
                self._say(interval, why_not)
                continue
            try:
                history = snapshot.history(folder, interval, self._settings.symbols)
            except HistoryError as error:
                self._say(interval, str(error))
                continue
            source = Source(history.name, interval, dataset.of_history(history).symbols)
            champion, digest = self._champion(champions, interval)
            why_not = self._why_not(source, champion, journal.of(interval))
            self._say(interval, why_not)
            if why_not:
                continue
            attempt = self._attempt(source, champion, digest)
            log.info("%s: %s %s: %s", interval, attempt.version or "no model", attempt.outcome,
                     attempt.words)  # fmt: skip
            self._metrics.attempts.labels(interval, attempt.outcome).inc()
            attempts = [*journal.of(interval), attempt]
            journal.attempts[interval] = attempts[-self._settings.kept_attempts :]
            self._objects.write(JOURNAL, journal.model_dump_json(indent=1).encode())

    def _journal(self) -> Journal:
        data = self._objects.read(JOURNAL, MOST_BYTES)
        try:
            return Journal.model_validate_json(data) if data else Journal()
        except ValidationError:
            log.warning("%s: the journal of former trainings is damaged; a new one is begun",
                        self._store.url)  # fmt: skip
            return Journal()

    def _say(self, interval: str, why_not: str) -> None:
        """Log why nothing is trained, once as long as it stays the same in kind."""
        kind = why_not.partition(":")[0]
        if why_not and kind != self._said.get(interval):
            log.info("%s: nothing is trained: %s", interval, why_not)
        self._said[interval] = kind

    def _champion(self, champions: Champions, interval: str) -> tuple[Bundle, str]:
        """Return what serves an interval, and the digest if that is a champion of its own."""
        entry = champions.at(interval)
        if entry is not None:
            return self._store.load(entry.choice.bundle), entry.choice.bundle
        chain = champions.chain(interval, "")
        serving = self._store.load(chain[0].bundle) if chain else bundle.load(self._settings.model)
        return serving, ""

    def _too_soon(self, attempts: Sequence[Attempt], *, has_own: bool) -> str:
        """Return why no challenger is trained yet; "" if it is time for one."""
        settings, now = self._settings, now_ms()
        if not attempts:
            return ""
        if sum(now - attempt.at_ms < DAY_MS for attempt in attempts) >= settings.max_runs:
            return f"enough for a day: {settings.max_runs} trainings"
        pause_h = settings.every_hours if has_own else settings.cooldown_hours
        last_ms = attempts[-1].at_ms
        if now - last_ms < pause_h * HOUR_MS:
            return f"it was tried {since(last_ms)}: next {pause_h:g} h after that"
        return ""

    def _why_not(self, source: Source, champion: Bundle, attempts: Sequence[Attempt]) -> str:
        """Return why no challenger is trained on the candles there are; "" if one is due."""
        settings = self._settings
        length = champion.config.window_length
        windows = sum(max(0, len(held.open_ms) - length) for held in source.symbols.values())
        if windows < settings.min_windows:
            return (
                f"too few windows: {windows:,} of {length} candles, fewer than "
                f"{settings.min_windows:,}; {champion.config.model_version} serves better than "
                "what could be trained on them"
            )
        if attempts and source.span_ms()[1] <= attempts[-1].newest_ms:
            tried = since(attempts[-1].at_ms)
            return f"no new candle: the newest is that of the last training, {tried}"
        return ""

    def _attempt(self, source: Source, champion: Bundle, digest: str) -> Attempt:
        """Train a challenger, hold it against the champion, and promote it if it is better."""
        settings, began_ms = self._settings, now_ms()
        newest_ms = source.span_ms()[1]
        cut_ms = cut(source, champion, settings.test_share)
        self._training_since_ms = began_ms
        folder = Path(tempfile.mkdtemp(prefix="challenger-"))
        version, run_id = "", ""
        try:
            with self._metrics.training_seconds.time():
                fault = self._fit(source.interval, cut_ms, folder)
            if fault:
                verdict = Verdict((fault,))
                outcome = FAILED
            else:
                challenger = bundle.load(folder)
                version = challenger.config.model_version
                verdict = compare(source, challenger, champion, cut_ms, settings.rule)
                outcome = PROMOTED if verdict.passed else REFUSED
                self._lease.check()
                run_id = self._record(source.interval, version, champion, verdict)
                if verdict.passed and not settings.dry_run:
                    self._promote(folder, source.interval, digest, verdict, run_id)
        except (BundleError, ValueError) as error:
            verdict, outcome = Verdict((in_words(error),)), FAILED
        finally:
            self._training_since_ms = None
            shutil.rmtree(folder, ignore_errors=True)
        if "skill" in verdict.figures:
            self._metrics.skill.labels(source.interval).set(verdict.figures["skill"])
        return Attempt(
            at_ms=began_ms, newest_ms=newest_ms, outcome=outcome, version=version,
            champion=champion.config.model_version, words=verdict.words,
            figures=dict(verdict.figures),
        )  # fmt: skip

    def _fit(self, interval: str, cut_ms: int, folder: Path) -> str:
        """Train in a process of its own, whose memory ends with it; return what went wrong."""
        until = datetime.fromtimestamp(cut_ms / 1000, UTC).date()
        command = [
            sys.executable,
            "-m",
            "trainer",
            *arguments(self._settings, interval, until, folder),
        ]
        log.info("%s: training on the candles before %s", interval, until)
        with (
            Leash() as leash,  # the training ends with this process, even a killed one
            subprocess.Popen(command, start_new_session=True) as child,  # noqa: S603 - our own
        ):
            leash.hold(child.pid)
            try:
                while child.poll() is None:
                    self._lease.check()
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(1)
            finally:
                if child.poll() is None:
                    child.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(STOP_S)
                    child.kill()
                leash.release(child.pid)
        return f"the training ended with exit code {child.returncode}" if child.returncode else ""

    def _record(self, interval: str, version: str, champion: Bundle, verdict: Verdict) -> str:
        """Keep the verdict as a run in MLflow; return the run's id, "" if it cannot be kept."""
        try:
            return self._run(interval, version, champion, verdict)
        except Exception as error:  # noqa: BLE001 - MLflow's are many, and none may cost the model
            log.warning("%s: the verdict is not in MLflow: %s", interval, in_words(error))
            return ""

    def _run(self, interval: str, version: str, champion: Bundle, verdict: Verdict) -> str:
        settings = self._settings
        with tracking.run(
            settings.tracking_uri, experiment_of(settings, interval), f"gate {interval}"
        ) as run:
            run.params({"challenger": version, "champion": champion.config.model_version,
                        **asdict(settings.rule)})  # fmt: skip
            run.metrics(verdict.figures)
            run.tags({"passed": str(verdict.passed), "why": verdict.words})
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "verdict.json"
                path.write_text(json.dumps(asdict(verdict), indent=2))
                run.artifact(path)
            alias = "champion" if verdict.passed and not settings.dry_run else "challenger"
            run.alias(experiment_of(settings, interval), version, alias)
            return run.id

    def _promote(
        self, folder: Path, interval: str, digest: str, verdict: Verdict, run_id: str
    ) -> None:
        made = self._store.put(bundle.contents_of(folder))
        self._store.promote(
            made, interval, decision=Decision(verdict.words, run=run_id), expected=digest
        )


def arguments(settings: WatchSettings, interval: str, until: date, folder: Path) -> list[str]:
    """Return the arguments of the ``fit`` that trains a challenger.

    How it trains is what ``[trainer.fit]`` of the settings file and its variables say.
    """
    shared = {*KafkaSettings.model_fields, *Tracked.model_fields, "snapshots"}
    own = {"experiment", "progress"}
    flags = [
        f"--{name.replace('_', '-')}={_as_flag(value)}"
        for name in sorted((shared - own) & settings.model_fields_set)
        if not isinstance(value := getattr(settings, name), SecretStr)
    ]
    return [
        "fit", "--data", "kafka", "--interval", interval, "--until", until.isoformat(),
        "--out", str(folder), "--no-progress", "--no-compare",
        "--experiment", experiment_of(settings, interval), *flags,
    ]  # fmt: skip


def experiment_of(settings: WatchSettings, interval: str) -> str:
    """Return the MLflow experiment, and registered model, of an interval."""
    return f"{settings.experiment}-{interval}"


def _as_flag(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def cut(source: Source, champion: Bundle, share: float) -> int:
    """Return the midnight from which on neither challenger nor champion has seen a candle.

    Args:
        source: the candles.
        champion: what serves now.
        share: newest part of the distinct opening times, for the gate.
    """
    times = np.unique(np.concatenate([held.open_ms for held in source.symbols.values()]))
    cut_ms = int(np.quantile(times, 1 - share))
    seen = champion.config.data
    if set(seen.symbols) & set(source.symbols):
        cut_ms = max(cut_ms, seen.last_ms + 1)
    return -(-cut_ms // DAY_MS) * DAY_MS


def compare(
    source: Source, challenger: Bundle, champion: Bundle, start_ms: int, rule: Rule
) -> Verdict:
    """Return the gate's verdict over the candles from a time on.

    Two models may have different levels; those that both have count.
    """
    levels = set(challenger.config.quantile_levels) & set(champion.config.quantile_levels)
    if challenger.config.model_version == champion.config.model_version:
        return Verdict(("the training chose the champion itself",))
    tail = min(levels - {MEDIAN}, key=lambda level: abs(level - (1 - NOMINAL) / 2), default=MEDIAN)
    if not (tail < MEDIAN and 1 - tail in {round(level, 6) for level in levels}):
        return Verdict(("it has no interval in common with the champion",))
    mine, other = (
        _losses(OnnxForecaster(model), source, start_ms, levels, tail)
        for model in (challenger, champion)
    )
    return judge(mine, other, INTERVALS_MS[source.interval], replace(rule, nominal=1 - 2 * tail))


def _losses(
    forecaster: OnnxForecaster, source: Source, start_ms: int, levels: set[float], tail: float
) -> pd.DataFrame:
    """Return the losses that the gate looks at, symbol by symbol, so that memory stays small."""
    parts = []
    for name, held in source.symbols.items():
        symbol: Mapping[str, SymbolCandles] = {name: held}
        table = losses.join_outcomes(
            backtest.run(forecaster, symbol, start_ms, interval=source.interval), symbol
        )
        others = [quantile_column(level) for level in levels_of(table) if level not in levels]
        table = table.drop(columns=others)
        inside = table["close"].between(
            table[quantile_column(tail)], table[quantile_column(round(1 - tail, 6))]
        )
        parts.append(
            losses.losses(table)[[*KEYS, "pinball", "qlike"]].assign(inside=inside.to_numpy())
        )
    return pd.concat(parts, ignore_index=True)
