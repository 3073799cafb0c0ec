"""Drift as ``trainer watch`` acts on it: kept in mind beside a shadow, retried ever more rarely."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shared.metrics import TrainerMetrics
from shared.objects import open_objects
from tests.streams import Stream
from tests.unit.stream_app.test_scoring import days
from trainer import journal, watch
from trainer.dataset import Source
from trainer.interval_drift import ALARM
from trainer.journal import PROMOTED, REFUSED, Attempt, Journal, Noticed, Training, Trigger
from trainer.watch import HOUR_MS, Watcher
from trainer.watch_settings import WatchSettings

CHAMPION = "persistence"
AT_MS = 1_900_000_000_000


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    flags = ["--models", str(tmp_path / "models"), "--cooldown-hours", "1", "--every-hours", "6"]
    return Watcher(WatchSettings.read(flags, "x"), TrainerMetrics(CollectorRegistry()))


def say(watcher: Watcher, evidence: float) -> None:
    """Let a series' newest score have this evidence."""
    stream = Stream()
    stream.take(*days(40, "AAPL"))
    newest = stream.scores[-1]
    assert newest.drift is not None
    drift = newest.drift.model_copy(update={"evidence": evidence})
    watcher._drifts.series.take(newest.model_copy(update={"drift": drift}).encode())


def shadow(trigger: Trigger) -> Training:
    return Training(at_ms=AT_MS, newest_ms=AT_MS, trigger=trigger, version="challenger")


def test_a_drift_that_begins_beside_a_shadow_is_kept_in_mind(
    watcher: Watcher, tmp_path: Path
) -> None:
    tried = Journal()
    say(watcher, ALARM - 1)
    watcher._notice("1d", CHAMPION, shadow(Trigger.SCHEDULE), tried)
    assert tried.noticed == {}
    say(watcher, ALARM)
    watcher._notice("1d", CHAMPION, shadow(Trigger.SCHEDULE), tried)
    say(watcher, 5.0)  # it is over once the shadow is judged
    again = journal.read(open_objects(str(tmp_path / "models")))
    drift = watcher._drift("1d", CHAMPION, again)
    assert drift is not None
    assert drift.figures["drift_evidence"] == ALARM
    assert watcher._drift("1d", "promoted since", again) is None


def test_a_challenger_of_a_drift_is_not_followed_by_one_for_the_same_drift(
    watcher: Watcher,
) -> None:
    tried = Journal()
    say(watcher, ALARM)
    watcher._notice("1d", CHAMPION, shadow(Trigger.DRIFT), tried)
    assert tried.noticed == {}
    say(watcher, 5.0)
    watcher._notice("1d", CHAMPION, shadow(Trigger.DRIFT), tried)
    say(watcher, ALARM)  # another one
    watcher._notice("1d", CHAMPION, shadow(Trigger.DRIFT), tried)
    assert tried.noticed["1d"].version == CHAMPION


def test_each_challenger_of_a_drift_in_vain_doubles_the_cool_down(watcher: Watcher) -> None:
    drift = Noticed(version=CHAMPION, words="", figures={})

    def attempt(trigger: Trigger, outcome: str = REFUSED, champion: str = CHAMPION) -> Attempt:
        return Attempt(
            at_ms=AT_MS, newest_ms=AT_MS, outcome=outcome, version="c", champion=champion, words="",
            trigger=trigger,
        )  # fmt: skip

    before = [attempt(Trigger.DRIFT, PROMOTED, "first"), attempt(Trigger.SCHEDULE)]
    vain = attempt(Trigger.DRIFT)
    pauses = [watcher._pause_h(None, drift, [*before, *[vain] * count]) for count in range(5)]
    assert pauses == [1, 2, 4, 6, 6]
    assert watcher._pause_h(None, drift, [*before, vain, attempt(Trigger.SCHEDULE)]) == 1
    assert watcher._pause_h(None, None, [vain] * 3) == 1  # without a champion of its own


def test_a_look_asks_once_whether_what_serves_drifts(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an interval without a champion of its own too: its challengers in vain wait longer."""
    built_in = watcher._built_in.config.model_version
    asked: list[str] = []

    def drift(_: Watcher, __: str, version: str) -> Noticed:
        asked.append(version)
        return Noticed(version=version, words="", figures={})

    monkeypatch.setattr(Watcher, "_drift_now", drift)
    monkeypatch.setattr(watch, "now_ms", lambda: AT_MS + 3 * HOUR_MS)
    vain = Attempt(
        at_ms=AT_MS, newest_ms=AT_MS, outcome=REFUSED, version="c", champion=built_in, words="",
        trigger=Trigger.DRIFT,
    )  # fmt: skip
    read: list[Path] = []

    def source(_: Watcher, folder: Path, __: str) -> Source:
        read.append(folder)
        return Source("topic", "1d", {})

    monkeypatch.setattr(Watcher, "_source", source)
    assert watcher._look_at(tmp_path, "1d", Journal(attempts={"1d": [vain] * 2})) is None
    assert read == []  # four hours have not gone by
    assert watcher._look_at(tmp_path, "1d", Journal(attempts={"1d": [vain]})) is None
    assert read == [tmp_path]  # two have
    assert asked == [built_in] * 2
