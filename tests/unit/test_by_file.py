"""A process of ``pytest -n`` that dies costs one test, and no wait without an end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MANY = """
import os, pytest

@pytest.mark.parametrize("number", range(6))
def test_many(number):
    if number == {dies_at}:
        os._exit(1)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_dies_costs_one_test(tmp_path: Path, processes: int) -> None:
    hook = "from tests.conftest import pytest_xdist_make_scheduler\n"
    (tmp_path / "conftest.py").write_text(hook, encoding="utf-8")
    for name, number in (("a", -1), ("b", 0), ("c", 3), ("d", 5)):
        (tmp_path / f"test_{name}.py").write_text(MANY.format(dies_at=number), encoding="utf-8")
    for name in "bef":
        alone = "def test_alone():\n    pass\n"
        (tmp_path / f"test_{name}_alone.py").write_text(alone, encoding="utf-8")

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-n", str(processes), "--rootdir", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert re.search(r"\b3 failed, 24 passed\b", run.stdout), run.stdout + run.stderr
    assert set(re.findall(r"test_.\.py::test_many\[\d\]", run.stdout)) == {
        "test_b.py::test_many[0]",
        "test_c.py::test_many[3]",
        "test_d.py::test_many[5]",
    }
