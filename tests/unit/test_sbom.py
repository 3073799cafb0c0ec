"""The bill of materials is valid CycloneDX, and names all that is installed and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from docs import sbom
from docs.hashes import HASHED, pins
from docs.licences import jars


def test_the_file_is_valid_and_names_version_licence_and_hash_of_each_part(tmp_path: Path) -> None:
    path, again = tmp_path / "sbom.json", tmp_path / "again.json"
    assert sbom.main(["--out", str(path)]) == sbom.main(["--out", str(again)]) == 0
    text = path.read_text()
    assert text == again.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    content = json.loads(text)
    parts = {part["bom-ref"]: part for part in content["components"]}
    packages = {part["name"]: part for part in parts.values() if "purl" in part}
    versions = pins(HASHED.read_text())
    assert {name: part["version"] for name, part in packages.items()} == {
        name: versions[name] for name in packages
    }
    assert len(parts) - len(packages) == len(jars())
    for part in parts.values():
        assert part["licenses"], part["name"]
        assert part.get("hashes") or part["externalReferences"][0]["hashes"], part["name"]
    assert packages["aiokafka"]["scope"] == packages["yarl"]["scope"] == "required"
    assert packages["torch"]["scope"] == "optional"
    assert "pytest" not in packages
    needs = {line["ref"]: line.get("dependsOn", []) for line in content["dependencies"]}
    reached, waiting = set(), ["candlecast"]
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += needs.get(ref, [])
    assert reached == {"candlecast", *parts}


def test_extras_of_extras_are_followed() -> None:
    plain, whole = sbom.required(["tritonclient"]), sbom.required(["tritonclient[http]"])
    assert "geventhttpclient" not in plain["tritonclient"]
    assert "geventhttpclient" in whole["tritonclient"]
    assert whole["geventhttpclient"]


def test_what_is_required_and_not_installed_is_named() -> None:
    with pytest.raises(sbom.SbomError, match="no-such-package: required, but not installed"):
        sbom.required(["no-such-package>=1"])
