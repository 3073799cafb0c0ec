"""Releases: links for PyPI, the changelog's version, and what an archive must hold."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from docs import compatibility, release
from tests.documents import ROOT

CHANGELOG = "# Changelog\n\n## Unreleased\n\n- new\n\n## 0.2.0 \N{EN DASH} 2026-11-26\n\n- old\n"


def test_the_readme_s_links_lead_into_the_repository() -> None:
    text = release.absolute_links((ROOT / "README.md").read_text(), "https://x.org/c")
    relative = re.findall(r'(?:\]\(|(?:src|srcset|href)=")(?!https?://|#)([^)"]+)', text)
    assert relative == []
    assert "https://x.org/c/blob/main/docs/model.md" in text
    assert "https://x.org/c/raw/main/docs/images/dashboard-light.png" in text
    assert "http://127.0.0.1:8000" in text


def test_what_is_unreleased_gets_the_version() -> None:
    text = release.released(CHANGELOG, "0.3.0", "2026-12-01")
    assert "## Unreleased\n\n## 0.3.0 \N{EN DASH} 2026-12-01\n\n- new\n\n## 0.2.0" in text


@pytest.mark.parametrize(
    ("changelog", "version", "words"),
    [
        (CHANGELOG.replace("- new\n", ""), "0.3.0", "expected entries under Unreleased"),
        (CHANGELOG, "0.2.0", "0.2.0 is there already"),
    ],
)
def test_an_empty_or_repeated_release_is_refused(changelog: str, version: str, words: str) -> None:
    with pytest.raises(release.ReleaseError, match=words):
        release.released(changelog, version, "2026-12-01")


def test_the_version_is_written_everywhere(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CITATION.cff"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs" / "schemas", docs / "schemas")
    shutil.copytree(ROOT / "docs" / "released", docs / "released")
    shutil.copy(ROOT / "docs" / "asyncapi.yaml", docs)
    release.write_version(tmp_path, "9.9.9", "2027-01-02")
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((tmp_path / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == "9.9.9"
    assert citation["date-released"] == "2027-01-02"
    kept = docs / "released" / "9.9.9"
    assert [*(docs / "released").iterdir()] == [kept]
    assert sorted(path.name for path in kept.iterdir()) == ["asyncapi.yaml", "schemas"]
    assert compatibility.faults(docs) == []


def test_the_citation_has_the_project_s_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project["version"]


def test_an_sdist_that_is_not_whole_is_named(tmp_path: Path) -> None:
    path = tmp_path / "candlecast-1.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        sdist.addfile(tarfile.TarInfo("candlecast-1/README.md"), io.BytesIO())
    with pytest.raises(release.ReleaseError, match=r"expected CHANGELOG\.md, .*got none"):
        release.check(path)
