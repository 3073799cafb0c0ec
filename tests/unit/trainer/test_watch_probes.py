"""What the probes of ``trainer watch`` say while it looks, trains, waits and stands still."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shared.kafka import KafkaError
from shared.metrics import TrainerMetrics
from shared.objects import StoreError
from shared.status import StatusServer
from trainer import challenger, dataset, snapshot, watch
from trainer.watch import HOUR_MS, Watcher
from trainer.watch_settings import WatchSettings

START_MS = 1_900_000_000_000


class Clock:
    """The time, which a test sets."""

    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watch, "now_ms", made)
    return made


@pytest.fixture
def watcher(clock: Clock, tmp_path: Path) -> Watcher:  # noqa: ARG001 - it began at that time
    flags = ["--models", str(tmp_path), "--snapshots", str(tmp_path / "snapshots"), "--once"]
    settings = WatchSettings.read(
        [*flags, "--poll-seconds", "60", "--max-hours", "2", "--drift-share", "0"], "x"
    )
    return Watcher(settings, TrainerMetrics(CollectorRegistry()))


@pytest.fixture
def probe(watcher: Watcher) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Ask the real status port."""
    server = StatusServer(
        "127.0.0.1", 0, CollectorRegistry(), live=watcher.live, ready=watcher.ready
    )
    with server:

        def ask(path: str) -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        yield ask


def hanging(begun: threading.Event, ends: threading.Event) -> Callable[..., Any]:
    def hang(*_: object) -> None:
        begun.set()
        assert ends.wait(30)
        raise KafkaError

    return hang


@pytest.mark.parametrize(
    ("stands_still", "longest_ms", "said"),
    [("snapshot", (3 * 60 + 300) * 1000, "waiting since"), ("training", 2 * HOUR_MS, "training")],
)
def test_a_look_or_a_training_that_stands_still_fails_liveness(
    watcher: Watcher,
    clock: Clock,
    probe: Callable[[str], tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stands_still: str,
    longest_ms: int,
    said: str,
) -> None:
    """The status port has a thread of its own, and would answer well forever."""
    begun, ends = threading.Event(), threading.Event()
    if stands_still == "snapshot":
        monkeypatch.setattr(snapshot, "update", hanging(begun, ends))
    else:
        monkeypatch.setattr(snapshot, "update", lambda *_: tmp_path)
        monkeypatch.setattr(snapshot, "intervals", lambda _: ["1d"])
        monkeypatch.setattr(snapshot, "history", lambda *_: _History())
        monkeypatch.setattr(dataset, "of_history", lambda _: _History())
        monkeypatch.setattr(Watcher, "_why_not", lambda *_: "")
        monkeypatch.setattr(watch, "cut", lambda *_: START_MS)
        monkeypatch.setattr(dataset.Source, "span_ms", lambda _: (0, START_MS))
        monkeypatch.setattr(challenger, "train", hanging(begun, ends))
    looking = threading.Thread(target=watcher._try_to_look)
    looking.start()
    try:
        assert begun.wait(30)
        clock.ms += longest_ms
        assert probe("/livez")[0] == 200
        clock.ms += 1
        status, body = probe("/livez")
        assert status == 503
        assert said in body
    finally:
        ends.set()
        looking.join(30)


class _History:
    """Candles of nobody."""

    name = "topic"
    symbols: dict[str, Any] = {}  # noqa: RUF012 - as a history has it


def test_what_is_away_fails_readiness_and_not_liveness(
    watcher: Watcher, probe: Callable[[str], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*_: object) -> None:
        raise KafkaError("no broker")

    assert probe("/readyz")[0] == 503
    monkeypatch.setattr(snapshot, "update", is_away)
    with pytest.raises(StoreError, match="no broker"):
        watcher.run()
    assert probe("/readyz")[0] == 503
    assert "no broker" in probe("/readyz")[1]
    assert probe("/livez")[0] == 200
    monkeypatch.setattr(Watcher, "_look", lambda _: None)
    watcher.run()
    assert probe("/readyz")[0] == 200
