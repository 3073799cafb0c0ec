#!/usr/bin/env python
"""Measures what the serving image adds to its base, without an engine of containers.

It runs the very steps of ``deploy/Dockerfile`` that fill ``/opt/candlecast`` in an empty folder
instead, and prints the size as JSON. Takes some minutes and the network: pip installs everything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
STAGES: Final = ("sources", "build-serving")


def steps(dockerfile: str) -> list[str]:
    """Return the commands of the stages that fill the folder, in order."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE))
    found, stage = [], ""
    for line in text.splitlines():
        if named := re.match(r"FROM \S+ AS (\S+)", line):
            stage = named[1]
        elif line.startswith("RUN ") and stage in STAGES:
            found.append(re.sub(r"^RUN (--mount=\S+\s+)*", "", line))
    return found


def measure(folder: Path) -> int:
    """Run the steps in a folder; return the bytes of what they leave in ``/opt/candlecast``."""
    sources, root = folder / "src", folder / "opt"
    sources.mkdir()
    root.mkdir()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    for name in copied:
        for part in name.split():
            path = ROOT / part
            if path.is_dir():
                shutil.copytree(path, sources / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, sources)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PATH": f"{root / 'candlecast' / 'bin'}:{env['PATH']}", "PIP_NO_COMPILE": "1"}
    for step in steps(DOCKERFILE.read_text()):
        here = step.replace("/opt", str(root))
        print(here, file=sys.stderr)
        command = ["bash", "-ec", here]
        subprocess.run(command, cwd=sources, env=env, check=True, stdout=sys.stderr)  # noqa: S603
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def main() -> int:
    """Measure and print; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="candlecast-image-") as folder:
        size = measure(Path(folder))
    print(json.dumps({"opt_candlecast_mb": round(size / 1e6, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
