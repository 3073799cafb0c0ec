"""The store against a model of it, and on every kind of storage."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared import objects
from shared.bundle import CONFIG_NAME, ONNX_NAME, BundleError
from shared.champions import ANY
from shared.forecaster import OnnxForecaster
from shared.model_store import CHAMPIONS, FRESH_MS, Decision, ModelStore, StoreError
from shared.objects import Objects, open_objects
from tests.recipes import Recipe

RECIPES = tuple(
    Recipe(name=f"m{number}", drift=number / 1000, window_length=3 + number % 3)
    for number in range(5)
)
BUNDLES = tuple(recipe.contents() for recipe in RECIPES)
LATER_MS = 10_000_000_000_000  # past every bundle's first day


class Plain(LocalFileSystem):
    """A file system of fsspec that cannot refuse to overwrite, as most cannot."""

    protocol = "plain"  # type: ignore[assignment]


@pytest.fixture(autouse=True, scope="module")
def plain() -> None:
    fsspec.register_implementation("plain", Plain, clobber=True)  # type: ignore[no-untyped-call]


def memory_url() -> str:
    return f"memory://{uuid.uuid4().hex}/models"


@pytest.fixture(params=["folder", "memory", "plain"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    urls: dict[str, Callable[[], str]] = {
        "folder": lambda: str(tmp_path / "models"),
        "memory": memory_url,
        "plain": lambda: f"plain://{tmp_path}/models",
    }
    return urls[request.param]()


@pytest.fixture
def store(url: str) -> ModelStore:
    return ModelStore(url)


@pytest.fixture
def storage(url: str) -> Objects:
    return open_objects(url)


# --- storage, the contract of all ---


def test_of_two_writers_of_a_name_one_succeeds(storage: Objects) -> None:
    assert storage.create("a/1", b"first")
    assert not storage.create("a/1", b"second")
    assert storage.read("a/1", 10) == b"first"
    assert storage.names("a") == ["1"]


def test_files_come_and_go(storage: Objects) -> None:
    assert storage.read("a/b", 9) is None
    assert storage.names("a") == []
    storage.write("a/b/c", b"one")
    storage.write("a/b/c", b"other")
    assert storage.read("a/b/c", 5) == b"other"
    assert storage.names("a") == ["b"]
    assert storage.written_ms("a/b/c")
    assert storage.written_ms("a/b/d") is None
    with pytest.raises(StoreError, match="at most 4 bytes"):
        storage.read("a/b/c", 4)
    storage.remove("a/b")
    storage.remove("a/b")
    assert storage.names("a") == []


def test_a_folder_without_hard_links_takes_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    storage = open_objects(str(tmp_path))
    assert storage.create("a/1", b"first")
    assert not storage.create("a/1", b"second")
    assert storage.names("a") == ["1"]


def test_a_lock_that_was_left_behind_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_objects(f"plain://{tmp_path}")
    (tmp_path / "a" / "1.lock").mkdir(parents=True)
    monkeypatch.setattr(objects, "LOCK_S", 0.1)
    assert storage.create("a/1", b"first")
    assert storage.names("a") == ["1"]


def test_a_protocol_without_its_package_says_what_to_install() -> None:
    with pytest.raises(StoreError, match=r"s4://x: .*pip install 'candlecast\[s3\]'"):
        ModelStore("s4://x")


# --- bundles ---


def test_a_bundle_comes_back_as_it_was_put(store: ModelStore) -> None:
    digest = store.put(BUNDLES[0])
    assert store.put(BUNDLES[0]) == digest
    loaded = store.load(digest)
    assert loaded.onnx == BUNDLES[0][ONNX_NAME]
    assert OnnxForecaster(loaded).model_version == loaded.config.model_version
    assert [entry.digest for entry in store.bundles()] == [digest]


def test_a_damaged_bundle_is_not_put(store: ModelStore) -> None:
    with pytest.raises(BundleError, match="expected SHA-256"):
        store.put(BUNDLES[0] | {ONNX_NAME: b"other"})
    assert store.bundles() == []


@pytest.mark.parametrize("name", [CONFIG_NAME, ONNX_NAME])
def test_what_was_changed_in_the_store_is_found_and_mended_by_another_put(
    store: ModelStore, storage: Objects, name: str
) -> None:
    digest = store.put(BUNDLES[0])
    storage.write(f"bundles/{digest}/{name}", BUNDLES[1][name])
    with pytest.raises(BundleError, match="expected SHA-256"):
        store.load(digest)
    with pytest.raises(BundleError, match="expected SHA-256"):
        store.promote(digest, "5m", decision=Decision("no"))
    storage.remove(f"bundles/{digest}/{name}")
    with pytest.raises(BundleError, match="expected a file, got none"):
        store.load(digest)
    assert store.put(BUNDLES[0]) == digest
    store.load(digest)


def test_versions_and_digests_are_found_by_their_beginnings(store: ModelStore) -> None:
    first, second = (store.put(entry) for entry in BUNDLES[:2])
    version = store.load(first).config.model_version
    for name in (version, version[:3], first, first[:12]):
        assert store.resolve(name) == first
    with pytest.raises(StoreError, match="expected one bundle, got m"):
        store.resolve("m")
    with pytest.raises(StoreError, match="models lists what there is"):
        store.resolve("x")
    with pytest.raises(StoreError, match="64 hexadecimal digits"):
        store.load(f"../{second}")


# --- champions ---


def test_a_promotion_measured_against_another_champion_is_refused(store: ModelStore) -> None:
    first, second = (store.put(entry) for entry in BUNDLES[:2])
    store.promote(first, "5m", decision=Decision("x"), expected="")
    with pytest.raises(StoreError, match="another promotion came first"):
        store.promote(second, "5m", decision=Decision("x"), expected="")
    store.promote(second, "5m", decision=Decision("x"), expected=first)


def test_a_model_of_other_horizons_is_refused_unless_asked_for(store: ModelStore) -> None:
    first = store.put(BUNDLES[0])
    other = store.put(replace(RECIPES[0], horizons=(1, 7)).contents())
    store.promote(first, "5m", decision=Decision("x"))
    with pytest.raises(StoreError, match=r"expected the horizons .*\(1, 5\), got \(1, 7\)"):
        store.promote(other, "5m", decision=Decision("x"))
    store.promote(other, "5m", decision=Decision("x"), any_horizons=True)


def test_a_damaged_champions_file_says_how_to_go_on(store: ModelStore, storage: Objects) -> None:
    digest = store.put(BUNDLES[0])
    before = store.promote(digest, "5m", decision=Decision("x"))
    storage.write(f"{CHAMPIONS}/0000000002.json", b'{"generation": 2, "champions": 1}')
    with pytest.raises(StoreError, match="Remove it to go back to the generation before it"):
        store.champions()
    storage.write(f"{CHAMPIONS}/0000000002.json", before.model_dump_json().encode())
    with pytest.raises(StoreError, match="expected generation 2, got 1"):
        store.champions()
    storage.remove(f"{CHAMPIONS}/0000000002.json")
    assert store.champions() == before


def test_a_writer_that_slept_for_generations_does_not_write_behind_the_others(
    store: ModelStore, storage: Objects
) -> None:
    digest = store.put(BUNDLES[0])
    old = store.promote(digest, "5m", decision=Decision("x"))

    def change(now: Any) -> Any:
        if now == old:  # meanwhile others go on, and what was before them is pruned
            for number in range(3):
                store.promote(digest, "1d", f"S{number}", decision=Decision("x"))
            for name in storage.names(CHAMPIONS)[:3]:
                storage.remove(f"{CHAMPIONS}/{name}")
        return now.with_promoted("1h", ANY, now.champions[0].choice)

    made = store.change(change)
    assert made.generation == 5
    assert {entry.interval for entry in store.champions().champions} == {"5m", "1d", "1h"}


def test_a_killed_collection_is_finished_by_the_next(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put(BUNDLES[0])

    def die(_: object, __: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(store._objects), "remove", die)
        with pytest.raises(KeyboardInterrupt):
            store.collect(0, at_ms=LATER_MS)
    with pytest.raises(StoreError, match="removed meanwhile"):
        store.promote(digest, "5m", decision=Decision("x"))
    with pytest.raises(StoreError, match="python -m trainer gc"):
        store.put(BUNDLES[0])
    assert [entry.digest for entry in store.collect(0, at_ms=LATER_MS).removed] == [digest]
    assert store.put(BUNDLES[0]) == digest


def test_a_bundle_of_today_is_left(store: ModelStore) -> None:
    digest = store.put(BUNDLES[0])
    written_ms = store._objects.written_ms(f"bundles/{digest}/{ONNX_NAME}") or 0
    assert not store.collect(0, at_ms=written_ms + FRESH_MS - 1).removed
    assert store.collect(0, dry_run=True, at_ms=written_ms + FRESH_MS).removed
    assert store.collect(0, at_ms=written_ms + FRESH_MS).removed


KEYS = st.tuples(st.sampled_from([ANY, "1d", "5m"]), st.sampled_from([ANY, "A*"]))
NUMBERS = st.integers(0, len(BUNDLES) - 1)


@dataclass
class Entry:
    """The champions of a key, the newest last."""

    digests: list[str] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Two clients of one store, in any order, beside a dictionary."""

    @initialize()
    def begin(self) -> None:
        url = memory_url()
        self.clients = (ModelStore(url), ModelStore(url))
        self.held: set[str] = set()
        self.entries: dict[tuple[str, str], Entry] = {}
        self.at_ms = LATER_MS

    @rule(number=NUMBERS, client=st.integers(0, 1))
    def put(self, number: int, client: int) -> None:
        self.held.add(self.clients[client].put(BUNDLES[number]))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), key=KEYS, client=st.integers(0, 1))
    def promote(self, data: st.DataObject, key: tuple[str, str], client: int) -> None:
        digest = data.draw(st.sampled_from(sorted(self.held)))
        self.at_ms += 1
        self.clients[client].promote(digest, *key, decision=Decision("better", at_ms=self.at_ms))
        digests = self.entries.setdefault(key, Entry()).digests
        if not digests or digests[-1] != digest:
            digests.append(digest)

    @rule(key=KEYS, client=st.integers(0, 1))
    def rollback(self, key: tuple[str, str], client: int) -> None:
        if key not in self.entries:
            with pytest.raises(StoreError, match="expected a champion, got none"):
                self.clients[client].rollback(*key)
            return
        self.clients[client].rollback(*key)
        self.entries[key].digests.pop()
        if not self.entries[key].digests:
            del self.entries[key]

    @rule(keep=st.integers(0, 3), client=st.integers(0, 1))
    def collect(self, keep: int, client: int) -> None:
        store = self.clients[client]
        needed = store.champions().kept(keep)
        held = store.bundles()
        newest = {entry.digest for entry in held[len(held) - keep :]} if keep else set()
        removal = store.collect(keep, at_ms=LATER_MS)
        removed = {entry.digest for entry in removal.removed}
        assert removed == self.held - needed - newest
        self.held -= removed
        for entry in self.entries.values():
            entry.digests = [digest for digest in entry.digests if digest in self.held]

    @invariant()
    def every_client_sees_the_same(self) -> None:
        for store in self.clients:
            champions = store.champions()
            assert {entry.key: entry.choice.bundle for entry in champions.champions} == {
                key: entry.digests[-1] for key, entry in self.entries.items()
            }
            assert not champions.removing

    @invariant()
    def all_that_may_serve_loads(self) -> None:
        store = self.clients[0]
        assert {entry.digest for entry in store.bundles()} == self.held
        for digest in store.champions().kept(20):
            store.load(digest)


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestStore = StoreMachine.TestCase
