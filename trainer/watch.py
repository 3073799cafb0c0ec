"""``trainer watch``: trains challengers on the stream, and promotes those that prove better."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
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
from shared.model_store import Decision, ModelStore, NotPromoted
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
from trainer.outbox import Outbox, Outcome
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
        self._outbox = Outbox(settings)
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
        for outcome in self._outbox.all():  # before anything else is trained
            try:
                self._settle(folder, outcome, tried)
            except HistoryError as error:
                self._say(outcome.interval, str(error))
        self._fault = ""  # a training may take long
        for interval in self._settings.intervals or snapshot.intervals(folder):
            try:
                made = self._look_at(folder, interval, tried)
            except HistoryError as error:
                self._say(interval, str(error))
                continue
            if made is not None:
                self._settle(folder, made, tried)

    def _look_at(self, folder: Path, interval: str, tried: Journal) -> Outcome | None:
        """Train for an interval, or look how far its shadow is; return what the gate may judge."""
        champions, attempts = self._store.champions(), tried.of(interval)
        own, waiting = champions.at(interval), tried.shadows.get(interval)
        version = self._version(champions, interval)
        if waiting is not None:
            self._notice(interval, version, waiting, tried)
            return self._look_at_shadow(folder, interval, waiting)
        drift = self._drift(interval, version, tried)
        began_ms = own.choice.at_ms if own else 0
        why_not = self._too_soon(attempts, began_ms, self._pause_h(own, drift, attempts))
        if why_not:  # before the candles are read, which a look each minute need not do
            self._say(interval, why_not)
            return None
        source = self._source(folder, interval)
        champion, _ = self._champion(champions, interval)
        why_not = self._why_not(source, champion, attempts)
        self._say(interval, why_not)
        if why_not:
            return None
        if drift:
            log.info("%s: the forecasts of %s drift: %s", interval, drift.version, drift.words)
        training = Training(
            at_ms=now_ms(), newest_ms=source.span_ms()[1],
            trigger=Trigger.of(has_own=own is not None, drifts=bool(drift)),
            drift=drift.figures if drift else {},
        )  # fmt: skip
        return self._train(source, champion, training)

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
        return self._store.load(chain[0].bundle) if chain else self._built_in, ""

    def _version(self, champions: Champions, interval: str) -> str:
        """Return the version of what serves an interval, without loading a champion."""
        entry, chain = champions.at(interval), champions.chain(interval, "")
        if entry is not None:
            return entry.choice.version
        return chain[0].version if chain else self._built_in.config.model_version

    @cached_property
    def _built_in(self) -> Bundle:
        return bundle.load(self._settings.model)

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

    def _train(self, source: Source, champion: Bundle, training: Training) -> Outcome:
        """Train a challenger; keep its outcome."""
        settings, interval = self._settings, source.interval
        cut_ms = 0 if settings.shadow else cut(source, champion, settings.test_share)
        until = datetime.fromtimestamp(cut_ms / 1000, UTC).date() if cut_ms else None
        self._training_since_ms = training.at_ms
        try:
            folder = self._outbox.begin(interval)
            with self._metrics.training_seconds.time():
                fault = challenger.train(settings, interval, until, folder, self._lease.check)
            version = "" if fault else bundle.load(folder).config.model_version
        except (BundleError, ValueError) as error:
            fault, version = in_words(error), ""
        finally:
            self._training_since_ms = None
        training = training.model_copy(update={"version": version})
        made = Outcome(interval=interval, training=training, start_ms=cut_ms)
        if fault:
            attempt = training.ended(champion, FAILED, Verdict((fault,)))
            made = made.model_copy(update={"attempt": attempt})
        return self._outbox.keep(made)

    def _settle(self, folder: Path, made: Outcome, tried: Journal) -> None:
        """Judge a challenger, and write its outcome to the store.

        What the store does not take is tried again at the next looks, and nothing is trained
        meanwhile.
        """
        waiting = self._metrics.waiting.labels(made.interval)
        self._training_since_ms = now_ms()
        try:
            if made.attempt is None:
                made = self._judged(folder, made)
            self._write(made, tried)
        except StoreError as error:
            waiting.set(1)
            raise StoreError(
                f"{made.interval}: the outcome of a training waits in "
                f"{self._outbox.folder(made.interval)} for the store: {error}"
            ) from error
        finally:
            self._training_since_ms = None
        self._outbox.drop(made.interval)
        waiting.set(0)

    def _write(self, made: Outcome, tried: Journal) -> None:
        """Write a judged challenger to the store: as champion, or as shadow; then the journal."""
        interval, training, attempt = made.interval, made.training, made.attempt
        if not training.bundle:
            tried.noticed.pop(interval, None)  # a challenger was trained since
        if attempt is None:
            training = training.model_copy(update={"bundle": self._put(made)})
            tried.shadows[interval] = training  # which outlives this process
            journal.write(self._objects, tried)
            log.info("%s: %s is a shadow for %d candles a series", interval, training.version,
                     self._settings.shadow)  # fmt: skip
            return
        if made.decision is not None:
            attempt = self._promoted(made, made.decision, attempt)
        tried.note(interval, attempt, self._settings.kept_attempts)
        journal.write(self._objects, tried)
        log.info("%s: %s %s (%s): %s", interval, attempt.version or "no model",
                 attempt.outcome, attempt.trigger, attempt.words)  # fmt: skip
        self._metrics.attempts.labels(interval, attempt.trigger, attempt.outcome).inc()
        if "skill" in attempt.figures:
            self._metrics.skill.labels(interval).set(attempt.figures["skill"])

    def _promoted(self, made: Outcome, decision: Decision, attempt: Attempt) -> Attempt:
        """Promote what passed the gate; return the attempt, of another outcome if that cannot be.

        The decision is the one that was kept, so that a promotion that a kill came after is there
        already.
        """
        self._lease.check()
        try:
            self._store.promote(
                self._put(made), made.interval, decision=decision, expected=made.champion
            )
        except (NotPromoted, BundleError) as error:
            outcome = REFUSED if isinstance(error, NotPromoted) else FAILED
            words = f"{attempt.words}; not promoted: {in_words(error)}"
            return attempt.model_copy(update={"outcome": outcome, "words": words})
        return attempt

    def _put(self, made: Outcome) -> str:
        """Write a challenger's bundle to the store unless it is there; return its digest."""
        path = self._outbox.bundle(made.interval)
        return made.training.bundle or self._store.put(bundle.contents_of(path))

    def _judged(self, folder: Path, made: Outcome) -> Outcome:
        """Return a challenger with the gate's verdict, or, as it is, one that may be a shadow."""
        champion, digest = self._champion(self._store.champions(), made.interval)
        made = made.model_copy(update={"champion": digest})
        try:
            if made.start_ms:
                return self._judge(folder, made, champion)
            why_not = self._why_no_shadow(made, champion)
        except (BundleError, ValueError) as error:
            return self._ended(made, champion, FAILED, Verdict((in_words(error),)))
        return self._ended(made, champion, REFUSED, Verdict((why_not,))) if why_not else made

    def _judge(self, folder: Path, made: Outcome, champion: Bundle) -> Outcome:
        """Let the gate decide over the candles from a time on."""
        settings, training = self._settings, made.training
        source, model = self._source(folder, made.interval), self._model(made)
        start_ms = max(made.start_ms, unseen_from(source, champion))
        verdict = compare(source, model, champion, start_ms, settings.rule, self._context)
        self._lease.check()
        run_id = verdicts.record(settings, source.interval, champion, training, verdict)
        if verdict.passed and not settings.dry_run:
            decision = Decision(f"{training.trigger}: {verdict.words}", run=run_id)
            made = made.model_copy(update={"decision": decision})
        return self._ended(made, champion, PROMOTED if verdict.passed else REFUSED, verdict)

    def _ended(self, made: Outcome, champion: Bundle, outcome: str, verdict: Verdict) -> Outcome:
        attempt = made.training.ended(champion, outcome, verdict)
        return self._outbox.keep(made.model_copy(update={"attempt": attempt}))

    def _model(self, made: Outcome) -> Bundle:
        """Return a challenger, a shadow's of the store."""
        if made.training.bundle:
            return self._store.load(made.training.bundle)
        return bundle.load(self._outbox.bundle(made.interval))

    def _why_no_shadow(self, made: Outcome, champion: Bundle) -> str:
        """Return why nothing could come of a shadow; "" if something can."""
        model = self._model(made)
        if model.config.model_version == champion.config.model_version:
            return "the training chose the champion itself"
        folder = snapshot.update(self._settings, self._settings.snapshots)
        source = self._source(folder, made.interval)
        begins_ms = unseen_from(source, model)
        if begins_ms > source.span_ms()[1] + 1:
            day = f"{datetime.fromtimestamp(begins_ms / 1000, UTC):%Y-%m-%d}"
            return f"it has seen these symbols until {day}, which the stream has yet to reach"
        return ""

    def _look_at_shadow(self, folder: Path, interval: str, training: Training) -> Outcome | None:
        """Look how far a shadow is; return it once the gate can decide."""
        source = self._source(folder, interval)
        champion, _ = self._champion(self._store.champions(), interval)
        made = Outcome(interval=interval, training=training)
        try:
            model = self._model(made)
        except BundleError as error:
            return self._ended(made, champion, FAILED, Verdict((in_words(error),)))
        far = shadow.progress(source, training.newest_ms, model, champion, self._settings.shadow)
        self._metrics.shadow_candles.labels(interval).set(far.candles)
        if far.is_over:
            return made.model_copy(update={"start_ms": far.start_ms})
        quarter = QUARTERS * far.candles // max(far.wanted, 1)
        words = f"{training.version} is a shadow: {far.words}"
        self._log_once(interval, f"shadow {min(quarter, QUARTERS)}", words)
        return None
