"""``trainer watch``: trains challengers on the stream, and promotes those that prove better."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry

from shared import bundle, context_topic
from shared.bundle import Bundle, BundleError
from shared.candles import DAY_MS
from shared.champions import Champion, Champions
from shared.context import Contexts, ContextSpec
from shared.files.series import HistoryError
from shared.kafka import TRANSIENT
from shared.metrics import TrainerMetrics
from shared.model_store import Decision, ModelStore
from shared.objects import StoreError, open_objects
from shared.process import in_words, now_ms
from shared.status import Health, StatusServer, since
from trainer import challenger, dataset, journal, shadow, snapshot, verdicts
from trainer.contest import compare, cut, unseen_from
from trainer.dataset import Source
from trainer.gate import Verdict
from trainer.interval_drift import DriftReader
from trainer.journal import (
    FAILED,
    PROMOTED,
    REFUSED,
    Attempt,
    Journal,
    Noticed,
    Training,
    Trigger,
)
from trainer.lease import Lease
from trainer.watch_settings import WatchSettings

log = logging.getLogger("trainer")

HOUR_MS: Final = 3_600_000

QUARTERS: Final = 4
"""Times that a shadow's progress is logged."""

UNREACHABLE: Final = (*TRANSIENT, HistoryError, StoreError, BundleError)
"""Errors of one look; the next one may go well."""


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
        self._drifts = DriftReader(settings)
        self._said: dict[str, str] = {}  # interval -> why nothing is trained
        self._calm: dict[str, str] = {}  # interval -> shadow during which there was no drift
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
        if self._settings.drift_share:
            self._drifts.update()
        tried = journal.read(self._objects)
        self._fault = ""  # a training may take long
        for interval in self._settings.intervals or snapshot.intervals(folder):
            try:
                attempt = self._look_at(folder, interval, tried)
            except HistoryError as error:
                self._say(interval, str(error))
                continue
            if attempt is None:
                continue
            log.info("%s: %s %s (%s): %s", interval, attempt.version or "no model",
                     attempt.outcome, attempt.trigger, attempt.words)  # fmt: skip
            self._metrics.attempts.labels(interval, attempt.trigger, attempt.outcome).inc()
            if "skill" in attempt.figures:
                self._metrics.skill.labels(interval).set(attempt.figures["skill"])
            tried.note(interval, attempt, self._settings.kept_attempts)
            journal.write(self._objects, tried)

    def _look_at(self, folder: Path, interval: str, tried: Journal) -> Attempt | None:
        """Train for an interval, or look how far its shadow is; return what has ended."""
        champions, attempts = self._store.champions(), tried.of(interval)
        own, waiting = champions.at(interval), tried.shadows.get(interval)
        if waiting is None:
            drift = self._drift(interval, own.choice.version, tried) if own else None
            began_ms = own.choice.at_ms if own else 0
            why_not = self._too_soon(attempts, began_ms, self._pause_h(own, drift, attempts))
            if why_not:  # before the candles are read, which a look each minute need not do
                self._say(interval, why_not)
                return None
        source = self._source(folder, interval)
        champion, digest = self._champion(champions, interval)
        if waiting is not None:
            self._notice(interval, champion.config.model_version, waiting, tried)
            return self._look_at_shadow(source, champion, digest, waiting)
        why_not = self._why_not(source, champion, attempts)
        self._say(interval, why_not)
        if why_not:
            return None
        drift = self._drift(interval, champion.config.model_version, tried)
        if drift:
            log.info("%s: the forecasts of %s drift: %s", interval, drift.version, drift.words)
        training = Training(
            at_ms=now_ms(), newest_ms=source.span_ms()[1],
            trigger=Trigger.of(has_own=own is not None, drifts=bool(drift)),
            drift=drift.figures if drift else {},
        )  # fmt: skip
        made = self._train(source, champion, digest, training)
        tried.noticed.pop(interval, None)
        if isinstance(made, Attempt):
            return made
        tried.shadows[interval] = made  # which outlives this process
        journal.write(self._objects, tried)
        return None

    def _source(self, folder: Path, interval: str) -> Source:
        history = snapshot.history(folder, interval, self._settings.symbols)
        return Source(history.name, interval, dataset.of_history(history).symbols)

    def _context(self, spec: ContextSpec) -> Contexts:
        """Return what the context topic holds now for a model that reads a context."""
        return uvloop.run(context_topic.read(self._settings)).contexts(spec)

    def _say(self, interval: str, why_not: str) -> None:
        """Log why nothing is trained, once as long as it stays the same in kind."""
        words = f"nothing is trained: {why_not}" if why_not else ""
        self._log_once(interval, why_not.partition(":")[0], words)

    def _log_once(self, interval: str, kind: str, words: str) -> None:
        if words and kind != self._said.get(interval):
            log.info("%s: %s", interval, words)
        self._said[interval] = kind

    def _champion(self, champions: Champions, interval: str) -> tuple[Bundle, str]:
        """Return what serves an interval, and the digest if that is a champion of its own."""
        entry = champions.at(interval)
        if entry is not None:
            return self._store.load(entry.choice.bundle), entry.choice.bundle
        chain = champions.chain(interval, "")
        serving = self._store.load(chain[0].bundle) if chain else bundle.load(self._settings.model)
        return serving, ""

    def _drift(self, interval: str, version: str, tried: Journal) -> Noticed | None:
        """Return the drift of a model, that of now or one noticed beside a shadow; None if none."""
        noticed = tried.noticed.get(interval)
        earlier = noticed if noticed and noticed.version == version else None
        return self._drift_now(interval, version) or earlier

    def _drift_now(self, interval: str, version: str) -> Noticed | None:
        """Return the drift of a model that the newest scores say; None if none."""
        share = self._settings.drift_share
        scored = self._drifts.series.of(interval, version, share) if share else None
        if scored is None or not scored.is_drift:
            return None
        return Noticed(version=version, words=scored.words, figures=scored.figures)

    def _notice(self, interval: str, version: str, shadow: Training, tried: Journal) -> None:
        """Keep a drift in mind that began after a shadow was trained, which knows nothing of it.

        The shadow is judged first: it may be what is better now.
        """
        known = tried.noticed.get(interval)
        if known and known.version == version:
            return
        drift = self._drift_now(interval, version)
        if not drift:
            self._calm[interval] = shadow.version
        elif shadow.trigger is not Trigger.DRIFT or self._calm.get(interval) == shadow.version:
            log.info("%s: the forecasts of %s drift: %s; a challenger is trained once the shadow "
                     "is judged", interval, version, drift.words)  # fmt: skip
            tried.noticed[interval] = drift
            journal.write(self._objects, tried)

    def _pause_h(
        self, own: Champion | None, drift: Noticed | None, attempts: Sequence[Attempt]
    ) -> float:
        """Return the hours between two trainings: the schedule's, or the cool-down.

        Each challenger of a drift that is not promoted doubles the cool-down: the next one would
        see hardly more.
        """
        settings = self._settings
        if own and not drift:
            return settings.every_hours
        vain = 0
        if drift:
            for attempt in reversed(attempts):
                if (attempt.trigger, attempt.champion) != (Trigger.DRIFT, drift.version):
                    break
                vain += 1
        return min(settings.cooldown_hours * 2.0**vain, settings.every_hours)

    def _too_soon(self, attempts: Sequence[Attempt], began_ms: int, pause_h: float) -> str:
        """Return why no challenger is trained yet; "" if it is time for one.

        Args:
            attempts: of the interval so far.
            began_ms: when its champion began to serve, 0 without one.
            pause_h: hours after that, and after the last attempt.
        """
        settings, now = self._settings, now_ms()
        if sum(now - attempt.at_ms < DAY_MS for attempt in attempts) >= settings.max_runs:
            return f"enough for a day: {settings.max_runs} trainings"
        tried_ms = attempts[-1].at_ms if attempts else 0
        for what, at_ms in (("it was tried", tried_ms), ("the champion serves", began_ms)):
            if now - at_ms < pause_h * HOUR_MS:
                return f"{what} {since(at_ms)}: next {pause_h:g} h after that"
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

    def _train(
        self, source: Source, champion: Bundle, digest: str, training: Training
    ) -> Attempt | Training:
        """Train a challenger; hold it against the champion, or let it be a shadow first."""
        settings = self._settings
        cut_ms = 0 if settings.shadow else cut(source, champion, settings.test_share)
        until = datetime.fromtimestamp(cut_ms / 1000, UTC).date() if cut_ms else None
        self._training_since_ms = training.at_ms
        folder = Path(tempfile.mkdtemp(prefix="challenger-"))
        try:
            with self._metrics.training_seconds.time():
                fault = challenger.train(
                    settings, source.interval, until, folder, self._lease.check
                )
            if fault:
                return training.ended(champion, FAILED, Verdict((fault,)))
            made = bundle.load(folder)
            training = training.model_copy(update={"version": made.config.model_version})

            def put() -> str:
                return self._store.put(bundle.contents_of(folder))

            if settings.shadow:
                return self._begin_shadow(source.interval, made, champion, training, put)
            return self._judge(source, made, champion, digest, training, cut_ms, put)
        except (BundleError, ValueError) as error:
            return training.ended(champion, FAILED, Verdict((in_words(error),)))
        finally:
            self._training_since_ms = None
            shutil.rmtree(folder, ignore_errors=True)

    def _judge(
        self, source: Source, made: Bundle, champion: Bundle, digest: str, training: Training,
        start_ms: int, put: Callable[[], str],
    ) -> Attempt:  # fmt: skip
        """Let the gate decide over the candles from a time on, and promote what passes."""
        settings = self._settings
        verdict = compare(source, made, champion, start_ms, settings.rule, self._context)
        self._lease.check()
        run_id = verdicts.record(settings, source.interval, champion, training, verdict)
        if verdict.passed and not settings.dry_run:
            decision = Decision(f"{training.trigger}: {verdict.words}", run=run_id)
            self._store.promote(put(), source.interval, decision=decision, expected=digest)
        outcome = PROMOTED if verdict.passed else REFUSED
        return training.ended(champion, outcome, verdict)

    def _begin_shadow(
        self, interval: str, made: Bundle, champion: Bundle, training: Training,
        put: Callable[[], str],
    ) -> Attempt | Training:  # fmt: skip
        """Let a challenger be a shadow, unless nothing could come of it."""
        why_not = ""
        if made.config.model_version == champion.config.model_version:
            why_not = "the training chose the champion itself"
        else:
            folder = snapshot.update(self._settings, self._settings.snapshots)
            source = self._source(folder, interval)
            begins_ms = unseen_from(source, made)
            if begins_ms > source.span_ms()[1] + 1:
                day = f"{datetime.fromtimestamp(begins_ms / 1000, UTC):%Y-%m-%d}"
                why_not = (
                    f"it has seen these symbols until {day}, which the stream has yet to reach"
                )
        if why_not:
            return training.ended(champion, REFUSED, Verdict((why_not,)))
        log.info("%s: %s is a shadow for %d candles a series", interval, training.version,
                 self._settings.shadow)  # fmt: skip
        return training.model_copy(update={"bundle": put()})

    def _look_at_shadow(
        self, source: Source, champion: Bundle, digest: str, training: Training
    ) -> Attempt | None:
        """Look how far a shadow is; return its end once the gate has decided."""
        try:
            made = self._store.load(training.bundle)
        except BundleError as error:
            return training.ended(champion, FAILED, Verdict((in_words(error),)))
        wanted = self._settings.shadow
        far = shadow.progress(source, training.newest_ms, made, champion, wanted)
        self._metrics.shadow_candles.labels(source.interval).set(far.candles)
        if not far.is_over:
            quarter = QUARTERS * far.candles // max(far.wanted, 1)
            words = f"{training.version} is a shadow: {far.words}"
            self._log_once(source.interval, f"shadow {min(quarter, QUARTERS)}", words)
            return None
        try:
            return self._judge(
                source, made, champion, digest, training, far.start_ms, lambda: training.bundle
            )
        except ValueError as error:
            return training.ended(champion, FAILED, Verdict((in_words(error),)))
