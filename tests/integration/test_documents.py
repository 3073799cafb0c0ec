"""What the documents show runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def block(page: str, mark: str) -> str:
    """Return the Python code between two marks of a page."""
    text = (ROOT / page).read_text()
    found = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"{page}: no block {mark}"
    return found[1]


def test_the_graph_is_used_by_onnxruntime_alone() -> None:
    code = block("docs/model.md", "onnx-alone")
    assert "candlecast" not in code
    assert "import shared" not in code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    numbers = re.findall(r"\d+\.\d+", done.stdout)
    assert len(numbers) >= 3 * 7 + 3
