#!/usr/bin/env python
"""Builds a release: version and changelog, sdist and wheel, with links that lead to a repository.

``python docs/release.py --version 0.3.0 --repository https://example.org/candlecast`` writes the
version into the project, builds both archives in a copy, checks their metadata, and says what is
left to do. Without ``--version`` it builds what is there.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from packaging.metadata import Metadata
from packaging.version import InvalidVersion, Version

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of a script only its own folder is on the path

from docs import compatibility  # noqa: E402

UNRELEASED: Final = "## Unreleased"

ZIP_BEGINS_S: Final = 315_532_800

_LINK: Final = re.compile(r'(\]\(|(?:src|srcset|href)=")(?![a-z]+://|#)([^)"\s]+)')
_VERSION: Final = re.compile(r'^version = "[^"]+"$', re.MULTILINE)


class ReleaseError(Exception):
    """A release that cannot be made."""


def absolute_links(text: str, repository: str) -> str:
    """Return a document whose links to files lead into a repository, as PyPI shows it."""

    def lead(link: re.Match[str]) -> str:
        kind = "raw" if link[2].endswith((".png", ".svg")) else "blob"
        return f"{link[1]}{repository}/{kind}/main/{link[2]}"

    return _LINK.sub(lead, text)


def released(changelog: str, version: str, date: str) -> str:
    """Return the changelog with what is unreleased under a version.

    Raises:
        ReleaseError: when nothing is unreleased, or the version is there already.
    """
    head, found, rest = changelog.partition(f"{UNRELEASED}\n")
    news = rest.partition("\n## ")[0].strip()
    if not (found and news):
        raise ReleaseError("CHANGELOG.md: expected entries under Unreleased, got none")
    if f"\n## {version} " in changelog:
        raise ReleaseError(f"CHANGELOG.md: {version} is there already")
    return f"{head}{UNRELEASED}\n\n## {version} \N{EN DASH} {date}\n{rest}"


def write_version(root: Path, version: str, date: str) -> None:
    """Write a version and its date into the project, the changelog and the citation.

    The schemas of now become those that the next version is compared with.
    """
    files = {name: root / name for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")}
    texts = {name: path.read_text() for name, path in files.items()}
    texts["CHANGELOG.md"] = released(texts["CHANGELOG.md"], version, date)
    texts["pyproject.toml"] = _VERSION.sub(f'version = "{version}"', texts["pyproject.toml"], 1)
    citation = re.sub(
        r"^version: .*$", f"version: {version}", texts["CITATION.cff"], flags=re.MULTILINE
    )
    texts["CITATION.cff"] = re.sub(
        r"^date-released: .*$", f'date-released: "{date}"', citation, flags=re.MULTILINE
    )
    for name, text in texts.items():
        files[name].write_text(text)
    compatibility.keep(root / "docs", version)


def build(root: Path, out: Path, repository: str | None) -> list[Path]:
    """Build sdist and wheel in a copy; return both, checked.

    Args:
        root: the project.
        out: folder of the archives, made if it is missing.
        repository: where links lead; None leaves them as they are.

    Raises:
        ReleaseError: when the build fails, or an archive lacks something.
    """
    with tempfile.TemporaryDirectory(prefix="candlecast-release-") as scratch:
        copy = Path(scratch) / "candlecast"
        copy_of_sources(root, copy)
        if repository is not None:
            readme = copy / "README.md"
            readme.write_text(absolute_links(readme.read_text(), repository))
            project = copy / "pyproject.toml"
            project.write_text(_with_urls(project.read_text(), repository))
        # the wheel is built from the sdist, so that this has all that it needs
        command = [sys.executable, "-m", "build", "--outdir", str(out), str(copy)]
        made_s = source_time_s(root)
        done = subprocess.run(  # noqa: S603 - this interpreter
            command, capture_output=True, text=True, check=False,
            env=os.environ | {"SOURCE_DATE_EPOCH": str(made_s)}, umask=0o022,
        )  # fmt: skip
        if done.returncode:
            raise ReleaseError(f"the build failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    archives = sorted([*out.glob("candlecast-*.tar.gz"), *out.glob("candlecast-*.whl")])
    for archive in archives:
        if archive.suffix == ".gz":
            repack(archive, made_s)
        check(archive)
    return archives


def source_time_s(root: Path) -> int:
    """Return when the source was made, in UTC epoch seconds: the time that the archives show.

    It is ``SOURCE_DATE_EPOCH`` if that is set (reproducible-builds.org), else the last commit's,
    else 1980, where the times of ZIP archives begin.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        given = subprocess.run(  # noqa: S603 - git, on our own folder
            ["git", "-C", str(root), "log", "-1", "--format=%ct"],  # noqa: S607 - the user's git
            capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
    return int(given) if given.isdigit() else ZIP_BEGINS_S


def repack(sdist: Path, made_s: int) -> None:
    """Write an sdist again, so that the same source gives the same bytes.

    Setuptools writes the build's time, user and the file system's order into it.
    """
    with tarfile.open(sdist) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = [archive.extractfile(member) for member in members]
        with (
            sdist.with_suffix(".new").open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=made_s) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as again,
        ):
            for member, content in zip(members, contents, strict=True):
                member.mtime, member.uid, member.gid = made_s, 0, 0
                member.uname = member.gname = ""
                member.pax_headers = {}
                again.addfile(member, content)
    sdist.with_suffix(".new").replace(sdist)


def copy_of_sources(root: Path, copy: Path) -> None:
    """Copy what git has of a project, or all of an unpacked sdist."""
    listed = subprocess.run(  # noqa: S603 - git, on our own folder
        ["git",  # noqa: S607 - the user's git
          "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        shutil.copytree(root, copy)
        return
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, copy / name)


def _with_urls(project: str, repository: str) -> str:
    urls = {
        "Repository": repository,
        "Documentation": f"{repository}/tree/main/docs",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return project.replace("[project.scripts]", f"[project.urls]\n{lines}\n[project.scripts]", 1)


NEEDED: Final = (
    "CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md", "LICENSE", "Makefile", "README.md",
    "constraints.txt", "docs/architecture.md", "docs/images/dashboard-light.png",
    "tests/unit/test_window.py", "api/static/dashboard.js", "shared/models/default/model.onnx",
    "trainer/evaluate/report.html.j2",
)  # fmt: skip
"""Files that an sdist must have, of each kind one."""


def check(archive: Path) -> None:
    """Look at an archive's metadata, and whether an sdist is whole.

    Raises:
        ReleaseError: naming what is wrong.
    """
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            metadata = wheel.read(name)
    else:
        with tarfile.open(archive) as sdist:
            names = {name.partition("/")[2] for name in sdist.getnames()}
            missing = [name for name in NEEDED if name not in names]
            if missing:
                raise ReleaseError(f"{archive.name}: expected {', '.join(missing)}, got none")
            top = archive.name.removesuffix(".tar.gz")
            stream = sdist.extractfile(f"{top}/PKG-INFO")
            metadata = stream.read() if stream else b""
    try:
        Metadata.from_email(metadata, validate=True)
    except ExceptionGroup as error:
        faults = "; ".join(map(str, error.exceptions))
        raise ReleaseError(f"{archive.name}: its metadata is wrong: {faults}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Make a release; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--version", help="write this version first, as in 0.3.0")
    parser.add_argument("--repository", help="URL that links lead to; by default they stay")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the archives")
    given = parser.parse_args(argv)
    try:
        if given.version is not None:
            version = str(Version(given.version))
            write_version(ROOT, version, f"{datetime.now(UTC):%Y-%m-%d}")
        archives = build(ROOT, given.out, given.repository and given.repository.rstrip("/"))
    except (ReleaseError, InvalidVersion) as error:
        print(error, file=sys.stderr)
        return 1
    print(*archives, sep="\n")
    print("next: commit and tag the version, then upload: python -m twine upload dist/*")
    return 0


if __name__ == "__main__":
    sys.exit(main())
