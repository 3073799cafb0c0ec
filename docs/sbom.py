#!/usr/bin/env python
"""Writes the bill of materials of Candlecast in CycloneDX: what it consists of, and from where.

``python docs/sbom.py --out FILE`` follows the requirements of the project, and of its extras
``local``, ``traces`` and ``train``, through what is installed here. Each package has its pinned
version, its licence and the SHA-256 of its files, each of Kafka's jars its SHA-512. What an extra
alone brings has the scope ``optional``. The same source on the same platform gives the same file.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of a script only its own folder is on the path

from docs import licences, release  # noqa: E402
from docs.hashes import HASHED, canonical, entries, pins, requirements  # noqa: E402

EXTRAS: Final = ("local", "traces", "train")
"""Extras that the file covers: all that runs, and nothing that only develops it."""


class SbomError(Exception):
    """A package that is required is not installed here."""


def version() -> str:
    """Return the project's version in pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def required(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the packages that requirements bring on this platform, each with what it needs.

    Args:
        names: requirement lines.

    Raises:
        SbomError: naming a package that is not installed.
    """
    needs: dict[str, list[str]] = {}
    waiting = [*names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        asked = Requirement(waiting.pop())
        name = canonical(asked.name)
        if not _applies(asked, frozenset()) or (name, frozenset(asked.extras)) in seen:
            continue
        seen.add((name, frozenset(asked.extras)))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            raise SbomError(f"{name}: required, but not installed: run make check first") from None
        below = [line for line in lines if _applies(Requirement(line), frozenset(asked.extras))]
        direct = {canonical(Requirement(line).name) for line in below}
        needs[name] = sorted(direct | {*needs.get(name, [])})
        waiting += [line.partition(";")[0] for line in below]
    return needs


def _applies(line: Requirement, extras: frozenset[str]) -> bool:
    if line.marker is None:
        return True
    return any(line.marker.evaluate({"extra": extra}) for extra in {"", *extras})


def bom() -> Bom:
    """Return the bill of materials of what is installed here.

    Raises:
        SbomError: naming a package that is required and not installed.
    """
    core = required(requirements([]))
    whole = required(requirements([*EXTRAS]))
    hashed = HASHED.read_text()
    versions, rows = pins(hashed), licences.listed(licences.PAGE.read_text())
    made = {
        name: _package(name, versions[name], rows[name], hashed, is_core=name in core)
        for name in whole
    }
    made |= {jar.name: jar for jar in _jars()}
    root = Component(
        name="candlecast", version=version(), bom_ref="candlecast",
        type=ComponentType.APPLICATION, licenses=[_licence("MIT")],
        purl=PackageURL("pypi", None, "candlecast", version()),
    )  # fmt: skip
    whole_bom = Bom(
        components=made.values(),
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, repr(sorted(map(_identity, made.values())))),
    )
    whole_bom.metadata.component = root
    whole_bom.metadata.timestamp = datetime.fromtimestamp(release.source_time_s(ROOT), UTC)
    first = {canonical(Requirement(line).name) for line in requirements([*EXTRAS])}
    jars = [component for name, component in made.items() if name not in whole]
    whole_bom.register_dependency(root, [*(made[name] for name in first & {*made}), *jars])
    for name, needs in whole.items():
        whole_bom.register_dependency(made[name], [made[need] for need in needs])
    return whole_bom


def _identity(component: Component) -> tuple[str, str | None]:
    return component.name, component.version


def _package(name: str, pin: str, licence: str, hashed: str, *, is_core: bool) -> Component:
    found = re.findall(r"--hash=(sha256:[0-9a-f]{64})", entries(hashed, [name]))
    source = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/project/{name}/{pin}/"),
        hashes=[HashTypeFactory().from_composite_str(value) for value in found],
    )
    purl = PackageURL("pypi", None, name, pin)
    return Component(
        name=name, version=pin, purl=purl, bom_ref=str(purl), external_references=[source],
        type=ComponentType.LIBRARY, licenses=[_licence(licence)],
        scope=ComponentScope.REQUIRED if is_core else ComponentScope.OPTIONAL,
    )  # fmt: skip


def _jars() -> Iterator[Component]:
    """Yield Kafka's jars, which the embedded broker fetches and compares with their hashes."""
    known = licences.jars()
    for line in licences.JAR_LIST.read_text().splitlines():
        digest, file = line.split()
        name, pin = re.fullmatch(r"(.+?)-(\d.*)\.jar", file).groups()  # type: ignore[union-attr]
        yield Component(
            name=name, version=pin, bom_ref=f"jar:{file}", type=ComponentType.LIBRARY,
            scope=ComponentScope.OPTIONAL, licenses=[_licence(known[file])],
            hashes=[HashTypeFactory().from_composite_str(f"sha512:{digest}")],
        )  # fmt: skip


def _licence(expression: str) -> License:
    return LicenseFactory().make_from_string(expression)


def write(path: Path) -> None:
    """Write the bill of materials.

    Raises:
        SbomError: naming a package that is required and not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(JsonV1Dot6(bom()).output_as_string(indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = ROOT / "dist" / f"candlecast-{version()}.cdx.json"
    parser.add_argument("--out", type=Path, default=default, help="by default in dist")
    path = parser.parse_args(argv).out
    try:
        write(path)
    except SbomError as error:
        print(error, file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
