"""Optional packages: how to install one that is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from typing import Final

PROJECT: Final = "candlecast"

_NAMES: Final[Mapping[str, str]] = {
    "sklearn": "scikit-learn",
    "opentelemetry": "opentelemetry-exporter-otlp-proto-http",
}
"""Projects whose modules have other names."""

_REQUIRED: Final = re.compile(r"([\w.-]+).*\bextra == [\"'](\w+)[\"']")


def how_to_install(module: str | None) -> str | None:
    """Return the sentence for a module that an extra of ours brings; None for any other."""
    if module is None:
        return None
    top = module.partition(".")[0]
    extra = extras().get(_NAMES.get(top, top).replace("_", "-"))
    return None if extra is None else missing(top, extra)


def missing(package: str, extra: str) -> str:
    """Return the sentence for a missing package of an extra."""
    return f"needs the package {package}, which is not installed: pip install '{PROJECT}[{extra}]'"


def extras() -> dict[str, str]:
    """Return the smallest extra that brings each optional package."""
    try:
        wanted = requires(PROJECT) or []
    except PackageNotFoundError:  # a checkout that is not installed
        return {}
    found = [match.groups() for line in wanted if (match := _REQUIRED.match(line))]
    sizes = {extra: sum(other == extra for _, other in found) for _, extra in found}
    by_size = sorted(found, key=lambda pair: -sizes[pair[1]])
    return {package.replace("_", "-"): extra for package, extra in by_size}
