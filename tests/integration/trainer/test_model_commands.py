"""The commands on the model store, from the command line to what the store then says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.catalogue import Catalogue
from shared.model_store import ModelStore
from tests.recipes import Recipe
from trainer.__main__ import main

pytestmark = pytest.mark.integration

Run = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(str(tmp_path / "models"))


@pytest.fixture
def run(
    store: ModelStore, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Run:
    def run(*argv: str, code: int = 0) -> Any:
        caplog.clear()
        assert main([*argv, "--models", store.url, "--json"]) == code
        printed = capsys.readouterr().out
        return json.loads(printed) if code == 0 else caplog.text

    return run


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return [
        str(Recipe(name=name, drift=drift, intervals=("5m",)).write(tmp_path / name))
        for name, drift in (("first", 0.0), ("second", 0.01))
    ]


def test_promote_and_roll_back(run: Run, store: ModelStore, folders: list[str]) -> None:
    planned = run("promote", folders[0], "--interval", "5m", "--dry-run")
    assert planned["promoted"].startswith("first-")
    assert store.champions().generation == 0
    first = run("promote", folders[0], "--interval", "5m", "--why", "a first one")
    second = run("promote", folders[1], "--interval", "5m")
    assert second["before"] == first["promoted"]
    entry = store.champions().at("5m")
    assert entry is not None
    assert entry.before[0].why == "a first one"
    assert "@" in entry.choice.by
    assert run("rollback", "--interval", "5m", "--dry-run")["champion"] == first["promoted"]
    assert store.champions().generation == 2
    assert run("rollback", "--interval", "5m")["champion"] == first["promoted"]
    assert run("rollback", "--interval", "5m")["champion"] is None
    assert "expected a champion, got none" in run("rollback", "--interval", "5m", code=1)


def test_the_list_leads_from_a_version_to_its_making(run: Run, folders: list[str]) -> None:
    made = run("promote", folders[0], "--interval", "5m", "--pattern", "BTC*")
    listed = Catalogue.model_validate_json(json.dumps(run("models")))
    built_in, stored = listed.versions
    assert built_in.champion_of == ("built in",)
    assert stored.champion_of == ("5m of BTC*",)
    assert listed.champions[0].champion.digest == stored.digest == made["digest"]
    [alone] = run("models", stored.version[:8])["versions"]
    assert alone["data_sha256"] == "0" * 64
    assert "expected a version" in run("models", "nothing", code=1)


def test_people_read_tables(
    store: ModelStore, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--models", store.url]
    assert main(["promote", folders[0], "--interval", "5m", *flags]) == 0
    assert "is the champion of 5m, after none" in capsys.readouterr().out
    assert main(["models", *flags]) == 0
    assert "promoted by hand" in capsys.readouterr().out
    assert main(["compare", *folders, *flags]) == 0
    assert main(["gc", *flags]) == 0
    assert "0 bundles removed, 1 kept" in capsys.readouterr().out


def test_the_collection_leaves_what_is_needed(
    run: Run, store: ModelStore, folders: list[str]
) -> None:
    first = run("promote", folders[0], "--interval", "5m")["digest"]
    second = run("promote", folders[1], "--interval", "5m")["digest"]
    planned = run("gc", "--keep", "0", "--dry-run")
    assert not planned["removed"]  # both are of today
    store.collect(0, at_ms=10**13)
    assert [one.digest for one in store.bundles()] == [second]
    assert "expected a version" in run("promote", first, code=1)


def test_two_models_are_compared(run: Run, folders: list[str]) -> None:
    differences = run("compare", "default", folders[0])["differences"]
    assert differences["window_length"][1] == 3
    run("promote", folders[0], "--interval", "5m")
    assert run("compare", "champion:5m", folders[0])["differences"] == {}
