"""The store and its writers as real processes: at once, killed, and on a full disk."""

from __future__ import annotations

import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shared.bundle import BundleError
from shared.forecaster import OnnxForecaster
from shared.model_store import Decision, ModelStore, StoreError
from tests.recipes import Recipe

pytestmark = pytest.mark.integration

WRITERS = 6
PROMOTIONS = 10
KILLS = 5

PROMOTE = """
import sys
from shared.model_store import Decision, ModelStore
store = ModelStore(sys.argv[1])
for number in range(int(sys.argv[4])):
    store.promote(sys.argv[2], "5m", f"{sys.argv[3]}-{number}", decision=Decision("at once"))
    print(number, flush=True)
"""

CHURN = """
import sys
from pathlib import Path
from shared import bundle
from shared.model_store import Decision, ModelStore
store = ModelStore(sys.argv[1])
bundles = [bundle.contents_of(Path(folder)) for folder in sys.argv[2:4]]
name = sys.argv[4]
for number in range(10**6):
    digest = store.put(bundles[number % 2])
    store.promote(digest, "5m", f"{name}-{number}", decision=Decision("churn"))
    print(number, flush=True)
    store.collect(0, at_ms=10**13)
"""


def start(code: str, *args: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def patterns(store: ModelStore) -> set[str]:
    return {entry.symbols for entry in store.champions().champions}


def test_writers_at_once_lose_no_promotion(tmp_path: Path) -> None:
    store = ModelStore(str(tmp_path / "models"))
    digest = store.put(Recipe().contents())
    writers = [start(PROMOTE, store.url, digest, f"w{n}", PROMOTIONS) for n in range(WRITERS)]
    for writer in writers:
        _, complaint = writer.communicate(timeout=120)
        assert writer.returncode == 0, complaint
    assert store.champions().generation == WRITERS * PROMOTIONS
    assert len(patterns(store)) == WRITERS * PROMOTIONS


def test_a_writer_that_is_killed_anywhere_leaves_a_store_that_works(tmp_path: Path) -> None:
    store = ModelStore(str(tmp_path / "models"))
    folders = [Recipe(drift=drift).write(tmp_path / str(drift)) for drift in (0.0, 0.01)]
    moments = random.Random(18)
    promised: set[str] = set()
    for kill in range(KILLS):
        writer = start(CHURN, store.url, *folders, f"k{kill}")
        assert writer.stdout is not None
        said = [writer.stdout.readline()]  # its first promotion is acknowledged
        time.sleep(moments.uniform(0, 0.4))
        os.kill(writer.pid, signal.SIGKILL)
        said += writer.communicate(timeout=60)[0].split()
        promised |= {f"k{kill}-{int(number)}" for number in said if number.strip()}
        store.collect(0, at_ms=10**13)  # finishes what was begun
        champions = store.champions()
        assert promised <= patterns(store)
        for entry in champions.champions:
            store.load(entry.choice.bundle)
    assert len(promised) >= KILLS


def full_disk(_: int = 0) -> None:
    """Let writes of this process beyond 4 kB of a file fail, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


FULL = """
import sys
from pathlib import Path
from shared import bundle
from shared.model_store import Decision, ModelStore, StoreError
from tests.integration.shared.test_model_store import full_disk
store = ModelStore(sys.argv[1])
contents = bundle.contents_of(Path(sys.argv[2]))
full_disk()
try:
    store.put(contents)
except StoreError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_champions_as_they_are(tmp_path: Path) -> None:
    store = ModelStore(str(tmp_path / "models"))
    before = store.promote(store.put(Recipe().contents()), "5m", decision=Decision("first"))
    large = Recipe(drift=0.01, pickled=b"x" * 100_000).write(tmp_path / "large")
    writer = start(FULL, store.url, large)
    said, complaint = writer.communicate(timeout=60)
    assert "cannot be written: File too large" in said, complaint
    assert store.champions() == before
    assert not list((tmp_path / "models").rglob("*.tmp"))
    half = [held for held in store.bundles() if held.fault]
    assert all("half-written" in held.fault for held in half)
    store.collect(0, at_ms=10**13)
    assert [held.fault for held in store.bundles()] == [""]
    store.load(before.champions[0].choice.bundle)


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_a_bundle_runs_no_code(tmp_path: Path) -> None:
    trace = tmp_path / "code-ran"
    poison = pickle.dumps(Malice(trace))
    store = ModelStore(str(tmp_path / "models"))
    digest = store.put(Recipe(pickled=poison).contents())
    store.promote(digest, "*", decision=Decision("poisoned"))
    OnnxForecaster(store.load(digest))
    assert not trace.exists()
    pickle.loads(poison)  # noqa: S301 - that the poison is one
    assert trace.exists()


def test_a_store_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    store = ModelStore(str(tmp_path / "models"))
    assert not store.champions().champions  # nothing below it yet
    with pytest.raises(StoreError, match="cannot be written: "):
        store.put(Recipe().contents())
    (tmp_path / "models").unlink()
    digest = store.put(Recipe().contents())
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "models" / "bundles" / digest / "model.onnx").unlink()
    (tmp_path / "fifo").rename(tmp_path / "models" / "bundles" / digest / "model.onnx")
    with pytest.raises((BundleError, StoreError), match="expected a regular file"):
        store.load(digest)
