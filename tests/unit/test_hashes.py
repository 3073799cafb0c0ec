"""What ``make`` installs has a hash, and is the tested set."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from docs import hashes
from docs.hashes import HASHED, PINNED, ROOT, canonical, entries, pins, requirements

TEXT = HASHED.read_text()
VERSIONS = pins(TEXT)


def test_the_hashed_set_is_the_tested_one() -> None:
    """``make hashes`` mends this after a change of constraints.txt."""
    tested = pins(PINNED.read_text())
    assert {name: VERSIONS.get(name) for name in tested} == tested


def test_every_requirement_has_a_hashed_version_that_fits() -> None:
    """``make hashes`` mends this after a change of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in requirements([*project["optional-dependencies"]]):
        required = Requirement(line)
        assert required.specifier.contains(VERSIONS[canonical(required.name)]), line


def test_every_package_has_hashes_and_the_file_names_no_index() -> None:
    lines = TEXT.splitlines()
    heads = [at for at, line in enumerate(lines) if "==" in line]
    assert len(heads) >= len(VERSIONS) > 200
    for at in heads:
        assert re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", lines[at + 1]), lines[at]
    assert "://" not in TEXT
    assert "--index" not in TEXT


def test_a_packages_lines_are_found() -> None:
    tools = entries(TEXT, ["pip", "setuptools"])
    assert pins(tools).keys() == {"pip", "setuptools"}
    assert tools.count("--hash=sha256:") >= 4


def test_an_upgrade_renews_what_resolves_and_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest = "# uv\nNum_Py==3.0 ; python_version < '4' \\\n    --hash=sha256:0\ntorch==9.1 \\\n"
    monkeypatch.setattr(hashes, "_compile", lambda *_, given: newest if given else "")
    pinned = "# head\nkserve==0.1\nnum-py==2.0\n"
    assert hashes.upgraded(pinned) == "# head\nkserve==0.1\nnum-py==3.0\ntorch==9.1\n"
