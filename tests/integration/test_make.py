"""What ``make demo`` and ``make install`` say before the minutes that they take."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NEEDED = (
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "constraints-hashed.txt",
    "docs/hashes.py",
)

FETCHES = "pip is called: "


@pytest.mark.parametrize(
    ("goal", "size"),
    [(".venv/.local", "200 MB to fetch"), ("install", "3 GB"), (".venv/.dev", "3 GB")],
)
def test_each_step_says_what_it_does_how_large_and_how_long(
    goal: str, size: str, tmp_path: Path
) -> None:
    """With a real environment; pip's own minutes are left out."""
    for name in NEEDED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        ["make", "--silent", goal, f"PIP=echo {FETCHES}"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    first, *lines = done.stdout.splitlines()
    assert first == "making the environment .venv: some seconds"
    [said] = [line for line in lines if line.startswith("installing ")]
    assert size in said
    assert said.endswith("minutes")
    [fetching] = [line for line in lines if line.startswith(FETCHES) and "requirements.txt" in line]
    assert "--quiet" not in fetching, "pip says what it fetches, on a terminal with bars"
    assert lines.index(said) < lines.index(fetching)
