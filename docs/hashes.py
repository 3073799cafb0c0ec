"""Writes constraints-hashed.txt: the tested set, with the SHA-256 of every file of each package.

``make hashes`` runs it after a change of pyproject.toml or constraints.txt, with uv;
``make upgrade`` runs it with ``--upgrade`` first, which renews constraints.txt itself.
``--requirements EXTRA ...`` prints what the project requires with these extras, for pip, and
``--entries PACKAGE ...`` the lines of packages, for a pip that takes no hashes from constraints.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PINNED: Final = ROOT / "constraints.txt"
HASHED: Final = ROOT / "constraints-hashed.txt"

TOOLS: Final = "pip\nuv\n"
"""What ``make`` installs and the project does not require."""

OLDEST_PYTHON: Final = "3.11.2"
"""Packages that need no older one have a hash for each platform that they are built for."""

HEAD: Final = (
    "# constraints.txt with the SHA-256 of every file: make hashes writes it. For pip:\n"
    "#   pip install --require-hashes --constraint constraints-hashed.txt PACKAGE ...\n"
)


def requirements(extras: list[str]) -> list[str]:
    """Return what the project requires with some extras; needs the standard library only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = list(project["dependencies"])
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return found


def entries(text: str, names: list[str]) -> str:
    """Return the lines of some packages in a file with hashes."""
    found = re.findall(r"^[^#\s\\][^\\\n]*(?:\\\n[^\\\n]*)*", text, re.MULTILINE)
    return "\n".join(entry for entry in found if pins(entry).keys() & set(names))


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Return the versions in a file of constraints, by canonical name."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {canonical(name): version for name, version in found}


def hashed() -> str:
    """Return the tested set with hashes, asked of the index by uv."""
    whole = _compile(
        "--all-extras", "--universal", "--python-version", OLDEST_PYTHON,
        "--constraint", str(PINNED), str(ROOT / "pyproject.toml"), "-", given=TOOLS,
    )  # fmt: skip
    missing = pins(PINNED.read_text()).items() - pins(whole).items()
    # of kserve only the client is used; what its server needs excludes other pins
    rest = "".join(f"{name}=={version}\n" for name, version in sorted(missing))
    return HEAD + whole + (_compile("--no-deps", "-", given=rest) if rest else "")


def upgraded(pinned: str) -> str:
    """Return the pins of the newest versions that the project allows; asks the index by uv.

    What uv cannot resolve beside the rest, kserve and its like, stays as it is pinned.
    """
    newest = pins(
        _compile(
            "--all-extras", "--universal", "--python-version", OLDEST_PYTHON,
            str(ROOT / "pyproject.toml"), "-", given=TOOLS,
        )
    )  # fmt: skip
    found = {**pins(pinned), **newest}
    lines = (f"{name}=={version}\n" for name, version in sorted(found.items()))
    return pinned.partition("\n")[0] + "\n" + "".join(lines)


def _compile(*args: str, given: str) -> str:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", *args]
    done = subprocess.run(command, input=given, text=True, stdout=subprocess.PIPE, check=True)  # noqa: S603
    return done.stdout


def main() -> None:
    """Write the file, or print a part of it or requirements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requirements", nargs="*", metavar="EXTRA")
    parser.add_argument("--upgrade", action="store_true")
    parser.add_argument("--entries", nargs="+", metavar="PACKAGE")
    asked = parser.parse_args()
    if asked.requirements is not None:
        print("\n".join(requirements(asked.requirements)))
    elif asked.upgrade:
        PINNED.write_text(upgraded(PINNED.read_text()))
    elif asked.entries:
        print(entries(HASHED.read_text(), asked.entries))
    else:
        HASHED.write_text(hashed())


if __name__ == "__main__":
    main()
