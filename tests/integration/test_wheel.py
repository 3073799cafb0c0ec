"""The wheel, built from the sdist, in empty folders: the demo, the services and the trainer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path

import pytest

from docs import release
from shared import bundle

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SERVICES = ("producer", "stream_app", "api", "local")
INSTALL_S = 400


def run(*argv: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | dict(env or {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a release, whose archives are checked as they are built."""
    out = tmp_path_factory.mktemp("dist")
    archives = release.build(ROOT, out, "https://example.org/candlecast")
    assert [archive.name.rpartition(".")[2] for archive in archives] == ["whl", "gz"]
    return archives[0]


def test_the_same_source_gives_the_same_archives(wheel: Path, tmp_path: Path) -> None:
    again = release.build(ROOT, tmp_path, "https://example.org/candlecast")
    for archive in again:
        assert archive.read_bytes() == (wheel.parent / archive.name).read_bytes()


def test_the_metadata_says_what_an_index_shows(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [info] = {Path(name).parent for name in archive.namelist() if name.endswith("/METADATA")}
        said = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    for field in ("Author", "Summary", "Keywords", "Requires-Python"):
        assert said[field], field
    assert said["License-Expression"] == "MIT"
    assert any("Python :: 3.11" in name for name in said.get_all("Classifier", []))
    urls = [url.split(", ") for url in said.get_all("Project-URL", [])]
    assert all(url.startswith("https://example.org/candlecast") for _, url in urls)
    assert "https://example.org/candlecast/blob/main/docs/model.md" in said.get_payload()
    assert "candlecast = local.command:script" in scripts


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    install = (python, "-m", "pip", "install", "--quiet", "-c", constraints)
    run(*install, f"{wheel}[local]", cwd=folder)
    return python.parent


@pytest.mark.timeout(2 * INSTALL_S)
@pytest.mark.parametrize("service", SERVICES)
def test_each_service_explains_itself(scripts: Path, tmp_path: Path, service: str) -> None:
    shown = run(scripts / "python", "-m", service, "--help", cwd=tmp_path)
    assert f"usage: python -m {service}" in shown
    assert "--log-level" in shown


def test_the_default_model_comes_along_and_nothing_of_training(
    scripts: Path, tmp_path: Path
) -> None:
    code = (
        "import importlib.util as u; from shared import bundle; "
        "print(bundle.load(bundle.default_path()).config.model_version, "
        "[name for name in ('torch', 'mlflow', 'sklearn') if u.find_spec(name)])"
    )
    version, missing = run(scripts / "python", "-c", code, cwd=tmp_path).split(maxsplit=1)
    assert version == bundle.load(bundle.default_path()).config.model_version
    assert missing.strip() == "[]"


def test_the_demo_runs_from_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    argv = ("demo", "--symbols", "IBM", "--exit-when-done", "--json")
    summary = json.loads(run(scripts / "candlecast", *argv, cwd=tmp_path))
    assert summary["ok"] is True
    assert summary["forecasts_out"] > 3000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "fit --data candles.csv --out model",
        "backtest --out forecasts.csv",
        "evaluate",
        "search --trials 1",
        "scores --data scores.jsonl",
        "reference my-bundle",
        "watch",
    ],
)
def test_a_command_whose_extra_is_missing_says_what_to_install(
    command: str, scripts: Path, tmp_path: Path
) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "scores.jsonl").touch()
    shutil.copytree(bundle.default_path(), tmp_path / "my-bundle")
    done = subprocess.run(
        [scripts / "candlecast", "trainer", *command.split()], cwd=tmp_path, capture_output=True,
        text=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'candlecast[train]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked, to be used with what this environment has, since PyTorch is large."""
    folder = tmp_path_factory.mktemp("packages")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder)
    run(*pip, wheel, cwd=folder)
    return folder


def test_the_tests_of_the_commands_pass_with_the_wheel(packages: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "unit" / "local" / "test_command.py", tmp_path)
    (tmp_path / "conftest.py").write_text(
        f"import local\nassert local.__file__.startswith({str(packages)!r}), local.__file__\n"
    )
    argv = ("-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    said = run(sys.executable, *argv, tmp_path, cwd=tmp_path, env={"PYTHONPATH": str(packages)})
    assert re.search(r"^\d{2,} passed in", said, re.MULTILINE), said


def test_the_trainer_of_the_wheel_runs(packages: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    small = ("--hidden", "4", "--max-epochs", "1", "--no-progress")
    untracked = ("--tracking-uri", "")
    command = (sys.executable, "-P", "-m", "local.command", "trainer")
    env = {"PYTHONPATH": str(packages)}
    argv = ("fit", "--symbols", "IBM", "--until", "2012-01-01", "--out", "model")
    said = run(*command, *argv, *small, *untracked, cwd=empty, env=env)
    assert "Its volatility forecast, against HAR" in said
    argv = ("evaluate", "--symbols", "IBM", "--model", "model", "--baselines", "persistence")
    run(*command, *argv, "--no-progress", *untracked, cwd=empty, env=env)
    assert (empty / "report" / "report.html").stat().st_size > 20_000
