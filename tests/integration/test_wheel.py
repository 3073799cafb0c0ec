"""The wheel, installed into an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SERVICES = ("producer", "stream_app", "api", "local")
INSTALL_S = 400


def run(*argv: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    [wheel] = folder.glob("candlecast-*.whl")
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel, cwd=folder)
    return python


@pytest.mark.timeout(2 * INSTALL_S)
@pytest.mark.parametrize("service", SERVICES)
def test_each_service_explains_itself(python: Path, tmp_path: Path, service: str) -> None:
    shown = run(python, "-m", service, "--help", cwd=tmp_path)
    assert f"usage: python -m {service}" in shown
    assert "--log-level" in shown


def test_the_default_model_comes_along_and_nothing_of_training(
    python: Path, tmp_path: Path
) -> None:
    code = (
        "import importlib.util as u; from shared import bundle; "
        "print(bundle.load(bundle.default_path()).config.model_version, "
        "[name for name in ('torch', 'mlflow', 'sklearn') if u.find_spec(name)])"
    )
    version, missing = run(python, "-c", code, cwd=tmp_path).split(maxsplit=1)
    assert version == bundle_version()
    assert missing.strip() == "[]"


def bundle_version() -> str:
    from shared import bundle  # noqa: PLC0415 - not the wheel's, but the checkout's

    return bundle.load(bundle.default_path()).config.model_version
