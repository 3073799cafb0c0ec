"""A store that takes no writes as a training ends: what was trained is kept, and trained once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from shared import bundle
from shared.candles import DAY_MS
from shared.metrics import TrainerMetrics
from shared.model_store import Decision, ModelStore
from shared.objects import Folder, StoreError, open_objects
from tests.recipes import Recipe
from trainer import challenger, journal, snapshot, watch
from trainer.dataset import Source, SymbolCandles
from trainer.gate import Verdict
from trainer.journal import FAILED, JOURNAL, PROMOTED, REFUSED, Attempt, Journal
from trainer.outbox import RECORD, Outbox, Outcome
from trainer.watch import Watcher
from trainer.watch_settings import WatchSettings

START_MS = 14_000 * DAY_MS
DAYS = 400
OLD = Recipe(name="old", trained_until_ms=START_MS + 100 * DAY_MS)
NEW = Recipe(name="new", drift=0.01, trained_until_ms=START_MS + 200 * DAY_MS)
PASSES = Verdict(("better",), {"skill": 0.1}, passed=True)
FAILS = Verdict(("not better",), {"skill": -0.1})


@dataclass
class Stage:
    """A watch whose stream, training and gate are made, over a real store that may refuse."""

    tmp_path: Path
    flags: tuple[str, ...] = ()
    refused: Callable[[str], bool] | None = None  # which of the store's files cannot be written
    refused_later: Callable[[str], bool] | None = (
        None  # the same, from the next training or gate on
    )
    verdict: Verdict = PASSES
    days: int = DAYS
    trained: int = 0
    compared: int = 0
    is_full: bool = False  # this machine's disk

    @property
    def store(self) -> ModelStore:
        return ModelStore(str(self.tmp_path / "models"))

    @property
    def settings(self) -> WatchSettings:
        flags = [
            "--models", str(self.tmp_path / "models"), "--tracking-uri", "", "--drift-share", "0",
            "--snapshots", str(self.tmp_path / "snapshots"), "--once", "--intervals", "1d",
            "--min-windows", "100", *self.flags,
        ]  # fmt: skip
        return WatchSettings.read(flags, "x")

    def watcher(self, metrics: TrainerMetrics | None = None) -> Watcher:
        """Return another watch, as after a kill."""
        return Watcher(self.settings, metrics or TrainerMetrics(CollectorRegistry()))

    def source(self, *_: object) -> Source:
        times = START_MS + DAY_MS * np.arange(self.days)
        return Source("topic", "1d", {"A": SymbolCandles(times, np.ones((self.days, 5)))})

    def train(self, *args: Any) -> str:
        self.trained += 1
        NEW.write(args[3])
        if self.refused_later:
            self.refused, self.refused_later = self.refused_later, None
        return ""

    def compare(self, *_: object) -> Verdict:
        self.compared += 1
        if self.refused_later:  # at the end of a shadow
            self.refused, self.refused_later = self.refused_later, None
        return self.verdict

    @property
    def journal(self) -> Journal:
        return journal.read(open_objects(str(self.tmp_path / "models")))

    @property
    def attempts(self) -> list[Attempt]:
        return self.journal.of("1d")

    @property
    def kept(self) -> list[Outcome]:
        """What a watch of now would find on this machine."""
        return Outbox(self.settings).all()

    @property
    def champion(self) -> str:
        entry = self.store.champions().at("1d")
        return entry.choice.version.partition("-")[0] if entry else ""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(tmp_path)
    store = made.store
    contents = bundle.contents_of(OLD.write(tmp_path / "old"))
    store.promote(store.put(contents), "1d", decision=Decision("first", at_ms=1))
    put = Folder._put

    def put_or_refuse(folder: Folder, path: Path, data: bytes, place: Any) -> None:
        in_store = path.is_relative_to(tmp_path / "models")
        if (made.refused and made.refused(str(path))) if in_store else made.is_full:
            raise StoreError(f"{path}: cannot be written: No space left on device")
        put(folder, path, data, place)

    monkeypatch.setattr(Folder, "_put", put_or_refuse)
    monkeypatch.setattr(snapshot, "update", lambda *_: tmp_path)
    monkeypatch.setattr(Watcher, "_source", made.source)
    monkeypatch.setattr(challenger, "train", made.train)
    monkeypatch.setattr(watch, "compare", made.compare)
    return made


def everything(_: str) -> bool:
    return True


def bundles(path: str) -> bool:
    return "/bundles/" in path


def champions(path: str) -> bool:
    return "/champions/" in path


def the_journal(path: str) -> bool:
    return path.endswith(JOURNAL)


def look_in_vain(stage: Stage, killed: bool) -> None:
    """Look while the store refuses; each time as another watch after a kill."""
    watcher = stage.watcher()
    for _ in range(3):
        with pytest.raises(StoreError, match="No space left on device"):
            watcher.run()
        assert "No space left on device" in watcher.ready().detail
        watcher = stage.watcher() if killed else watcher
    assert stage.refused, "nothing was refused"
    stage.refused = None
    watcher.run()
    assert watcher.ready().ok


@pytest.mark.parametrize(
    ("refused", "killed"),
    [(everything, False), (bundles, True), (champions, True), (the_journal, False),
     (the_journal, True)],
)  # fmt: skip
def test_a_challenger_that_the_store_does_not_take_is_promoted_later_and_not_trained_again(
    stage: Stage, refused: Callable[[str], bool], killed: bool
) -> None:
    stage.refused_later = refused
    look_in_vain(stage, killed)
    assert stage.champion == "new"
    [attempt] = stage.attempts
    assert attempt.outcome == PROMOTED
    assert (stage.trained, stage.compared) == (1, 1)
    assert stage.kept == []
    stage.watcher().run()
    assert stage.trained == 1  # the next is due in a day


@pytest.mark.parametrize(
    ("refused", "killed"), [(everything, True), (bundles, False), (the_journal, True)]
)
def test_a_shadow_that_the_store_does_not_take_begins_later(
    stage: Stage, refused: Callable[[str], bool], killed: bool
) -> None:
    stage.flags = ("--shadow", "50")
    stage.refused_later = refused
    look_in_vain(stage, killed)
    begun = stage.journal.shadows["1d"]
    assert stage.store.load(begun.bundle).config.model_version == begun.version
    assert (stage.trained, stage.compared, stage.champion) == (1, 0, "old")
    assert stage.kept == []


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(
    ("refused", "verdict", "outcome"),
    [(everything, PASSES, PROMOTED), (champions, PASSES, PROMOTED), (the_journal, FAILS, REFUSED)],
)
def test_a_shadow_is_judged_once_though_the_store_does_not_take_its_end(
    stage: Stage, killed: bool, refused: Callable[[str], bool], verdict: Verdict, outcome: str
) -> None:
    stage.flags, stage.verdict = ("--shadow", "50"), verdict
    stage.watcher().run()
    stage.days += 150
    stage.refused_later = refused
    look_in_vain(stage, killed)
    [attempt] = stage.attempts
    assert attempt.outcome == outcome
    assert stage.champion == ("new" if outcome == PROMOTED else "old")
    assert (stage.trained, stage.compared) == (1, 1)
    assert stage.journal.shadows == {}


@pytest.mark.parametrize("killed", [False, True])
def test_a_training_that_failed_counts_though_the_journal_cannot_be_written(
    stage: Stage, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would be tried at each look, past ``--max-runs``."""

    def fail(*args: Any) -> str:
        stage.train(*args)
        return "the training ended with exit code 1"

    monkeypatch.setattr(challenger, "train", fail)
    stage.refused_later = the_journal
    look_in_vain(stage, killed)
    [attempt] = stage.attempts
    assert (attempt.outcome, attempt.words) == (FAILED, "the training ended with exit code 1")
    assert stage.trained == 1


def test_a_challenger_whose_watch_is_killed_while_it_is_judged_is_judged_by_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_killed(*_: object) -> Verdict:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(watch, "compare", be_killed)
        with pytest.raises(KeyboardInterrupt):
            stage.watcher().run()
    assert [made.attempt for made in stage.kept] == [None]
    stage.watcher().run()
    assert (stage.trained, stage.compared, stage.champion) == (1, 1, "new")


@pytest.mark.parametrize("written", [False, True])
def test_a_promotion_by_hand_meanwhile_stays(stage: Stage, written: bool) -> None:
    """``written``: the promotion was, and only the journal was not."""
    stage.refused_later = the_journal if written else champions
    watcher = stage.watcher()
    with pytest.raises(StoreError):
        watcher.run()
    stage.refused = None
    other = stage.store.put(Recipe(name="other").contents())
    stage.store.promote(other, "1d", decision=Decision("by hand"))
    watcher.run()
    assert stage.champion == "other"
    [attempt] = stage.attempts
    assert attempt.outcome == REFUSED
    assert "another promotion came first" in attempt.words
    assert stage.kept == []


def test_what_neither_store_nor_this_machine_takes_is_in_memory(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is often a folder on the same disk."""
    stage.is_full = True
    stage.refused_later = everything
    look_in_vain(stage, killed=False)
    assert "in memory alone" in caplog.text
    assert (stage.trained, stage.compared, stage.champion) == (1, 1, "new")


def test_a_challenger_that_waits_is_told_by_message_and_metric(stage: Stage) -> None:
    metrics = TrainerMetrics(CollectorRegistry())
    watcher = stage.watcher(metrics)
    waiting = metrics.waiting.labels("1d")
    stage.refused_later = bundles
    with pytest.raises(StoreError, match=r"1d: the outcome of a training waits in .+/1d for the "
                       r"store: .+/model\.onnx: cannot be written: No space left"):  # fmt: skip
        watcher.run()
    assert waiting._value.get() == 1
    stage.refused = None
    watcher.run()
    assert waiting._value.get() == 0


def test_a_damaged_record_is_removed_and_does_not_stop_the_watch(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.refused_later = bundles
    with pytest.raises(StoreError):
        stage.watcher().run()
    [record] = stage.tmp_path.rglob(RECORD)
    record.write_bytes(b"{half")
    stage.refused = None
    stage.watcher().run()
    assert "damaged, and removed" in caplog.text
    assert (stage.trained, stage.champion) == (2, "new")


def test_a_store_that_is_away_at_the_end_lets_a_signal_end_the_watch(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of giving the lease back replaced the interruption, and the watch went on."""

    def be_interrupted(*_: object) -> Verdict:
        stage.refused = everything
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "compare", be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage.watcher().run()
