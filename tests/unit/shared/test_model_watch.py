"""Hot reload without processes: what is served after each thing that can happen to a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from shared.bundle import ONNX_NAME, load
from shared.champions import ANY, Choice
from shared.forecaster import longest
from shared.metrics import ModelMetrics
from shared.model_store import Decision, ModelStore
from shared.model_watch import RETRY_LOOKS, ModelWatch
from tests.recipes import Recipe

BUILT_IN = Recipe(name="builtin", window_length=5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def store(folder: Path) -> ModelStore:
    return ModelStore(str(folder))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def watch(folder: Path, tmp_path: Path, registry: CollectorRegistry) -> ModelWatch:
    built_in = load(BUILT_IN.write(tmp_path / "builtin"))
    watch = ModelWatch(str(folder), built_in, ModelMetrics(registry))
    watch.begin()
    return watch


@pytest.fixture
def promote(store: ModelStore) -> Callable[..., str]:
    def promote(recipe: Recipe, interval: str = "5m", symbols: str = ANY) -> str:
        digest = store.put(recipe.contents())
        store.promote(digest, interval, symbols, decision=Decision("test"))
        return digest

    return promote


def force(store: ModelStore, recipe: Recipe, interval: str = "5m") -> str:
    """Make a bundle the champion without the checks of ``promote``."""
    digest = store.put(recipe.contents())
    choice = Choice(
        version=recipe.name, bundle=digest, window_length=recipe.window_length, by="", at_ms=0,
        why="",
    )  # fmt: skip
    store.change(lambda now: now.with_promoted(interval, ANY, choice))
    return digest


def name(watch: ModelWatch, interval: str = "5m", symbol: str = "A", held: int = 99) -> str:
    return watch.served.of(interval, symbol, held).model_version.partition("-")[0]


def metric(registry: CollectorRegistry, sample: str) -> float:
    value = registry.get_sample_value(sample)
    assert value is not None
    return value


def test_without_a_store_the_built_in_model_serves(
    watch: ModelWatch, registry: CollectorRegistry
) -> None:
    assert name(watch) == "builtin"
    assert watch.catalogue.versions[0].champion_of == ("built in",)
    assert metric(registry, "candlecast_model_store_fault") == 0


def test_champions_come_and_go(
    watch: ModelWatch,
    promote: Callable[..., str],
    store: ModelStore,
    registry: CollectorRegistry,
) -> None:
    promote(Recipe(name="a"))
    promote(Recipe(name="b"), "5m", "BTC*")
    watch.begin()
    assert [name(watch), name(watch, symbol="BTC-USD"), name(watch, "1d")] == ["a", "b", "builtin"]
    text = generate_latest(registry).decode()
    assert 'candlecast_champion{interval="5m",symbols="BTC*"' in text
    of = {"interval": "5m", "symbols": "BTC*"}
    since_s = registry.get_sample_value("candlecast_champion_promoted_timestamp_seconds", of)
    champion = store.champions().at("5m", "BTC*")
    assert champion is not None
    assert since_s == champion.choice.at_ms / 1000
    assert metric(registry, "candlecast_champions_generation") == 2
    assert {entry.version[0] for entry in watch.catalogue.versions} == {"b", "a"}
    store.rollback("5m")
    watch.begin()
    assert name(watch) == "builtin"
    assert metric(registry, "candlecast_model_swaps_total") == 2


def test_a_model_that_is_kept_is_not_loaded_again(
    watch: ModelWatch, promote: Callable[..., str]
) -> None:
    promote(Recipe(name="a"))
    watch.begin()
    before = watch.served.of("5m")
    promote(Recipe(name="b"), "1d")
    watch.begin()
    assert watch.served.of("5m") is before


def test_series_wait_for_a_longer_window_one_by_one(
    watch: ModelWatch, promote: Callable[..., str]
) -> None:
    promote(Recipe(name="short", window_length=4))
    promote(Recipe(name="long", window_length=9))
    watch.begin()
    assert longest(watch.served.all()) == 9
    assert [name(watch, held=held) for held in (9, 8, 5, 4, 3)] == [
        "long", "short", "short", "short", "short",
    ]  # fmt: skip
    assert watch.served.of("5m").window_length == 9


FAULTS = {
    "half-written": "expected a file, got none",
    "corrupt": "expected SHA-256",
    "nan": "got nan apart",
    "removed": "expected a file, got none",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_champion_that_is_not_sound_leaves_the_one_before_in_service(
    fault: str,
    watch: ModelWatch,
    folder: Path,
    store: ModelStore,
    promote: Callable[..., str],
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    promote(Recipe(name="sound"))
    watch.begin()
    digest = force(store, Recipe(name="bad", drift=float("nan") if fault == "nan" else 0.0))
    promote(Recipe(name="other"), "1d")
    bundle = folder / "bundles" / digest
    kept = (bundle / ONNX_NAME).read_bytes()
    if fault == "half-written":
        (bundle / ONNX_NAME).unlink()
    elif fault == "corrupt":
        (bundle / ONNX_NAME).write_bytes(kept[:-1])
    elif fault == "removed":
        shutil.rmtree(bundle)
    watch.begin()
    assert [name(watch), name(watch, "1d")] == ["sound", "other"]
    assert FAULTS[fault] in watch.state
    assert "models of generation 3 serve on" in watch.state
    assert metric(registry, "candlecast_model_store_fault") == 1
    assert f"{FAULTS[fault]}" in caplog.text
    said = caplog.text.count(FAULTS[fault])
    watch.begin()
    assert caplog.text.count(FAULTS[fault]) == said  # once
    if fault in {"half-written", "corrupt"}:  # mended, it is taken
        (bundle / ONNX_NAME).write_bytes(kept)
        for _ in range(RETRY_LOOKS):
            watch.begin()
        assert name(watch) == "bad"
        assert metric(registry, "candlecast_model_store_fault") == 0


def test_a_store_that_is_away_or_emptied_changes_nothing(
    watch: ModelWatch,
    folder: Path,
    tmp_path: Path,
    promote: Callable[..., str],
    registry: CollectorRegistry,
) -> None:
    promote(Recipe(name="a"))
    watch.begin()
    folder.rename(tmp_path / "away")
    watch.begin()
    assert name(watch) == "a"
    assert "the file was removed" in watch.state
    folder.write_text("no folder")
    (tmp_path / "away" / "champions" / "0000000002.json").write_text("{")
    folder.unlink()
    (tmp_path / "away").rename(folder)
    watch.begin()
    assert name(watch) == "a"
    assert "not a champions file" in watch.state
    assert metric(registry, "candlecast_model_store_fault") == 1
    (folder / "champions" / "0000000002.json").unlink()
    watch.begin()
    assert watch.state == "models of generation 1"
    assert name(watch) == "a"
    assert metric(registry, "candlecast_model_swaps_total") == 1


def test_a_promotion_after_the_champions_were_removed_serves(
    watch: ModelWatch, folder: Path, promote: Callable[..., str]
) -> None:
    """Its generation is not higher than the one that was served; its decision is later."""
    promote(Recipe(name="a"))
    promote(Recipe(name="b"))
    watch.begin()
    shutil.rmtree(folder / "champions")
    watch.begin()
    assert name(watch) == "b"
    assert "got 0: the file was removed" in watch.state
    promote(Recipe(name="c"))
    watch.begin()
    assert name(watch) == "c"
    assert watch.state == "models of generation 1"
