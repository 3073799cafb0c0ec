"""Fetches single jars that tests need beside Kafka's own, once, and checks what comes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from jgo.maven import MavenContext, PythonResolver

from local.jars import cache_dir

SHA512: Final = {
    "com.fasterxml.jackson.module:jackson-module-blackbird:2.21.7": (
        "6acbf4c17e4ffeb05c044b726955ac9c5ca180dc2037e5e27344871a26bf6861"
        "97732085b985f9e4176c6cc3a8740e6ea53c5e61322c0dd79275d79d7a2e6c5a"
    ),
    "org.apache.kafka:connect-api:4.4.0": (
        "a66cd06dff2f4fd2438aa676a0acc49a456231e37d46838ac3a0cc217d350a2e"
        "8efb94787adcf681f6d45945871e3cab6994b43ce9da0e8662c16858b00c1e22"
    ),
    "org.apache.kafka:connect-json:4.4.0": (
        "fc33867de6728affd57ab02941ba9cdc526f2e557daf009e95a35cb1fc44ad7f"
        "0261361a9d95a9ef9d90b3a333bc6c7c7ce301e32b421e0a770a5341cb5fdd87"
    ),
    "org.eclipse.jdt:ecj:3.46.0": (
        "0b2c799e20dbdd074272faf2aed454186f0ad25759c09963350bceea8e9bec0a"
        "d9a04693115401cab6a1c9122b94aba6d79d741eef2e003a4149b2fe00f6f158"
    ),
}
"""SHA-512 of each jar, by coordinate."""


def jar(coordinate: str) -> Path:
    """Return a jar in the cache, fetched from Maven Central the first time."""
    context = MavenContext(resolver=PythonResolver(), repo_cache=cache_dir() / "tests", timeout=30)
    path = Path(context.create_dependency(coordinate).artifact.resolve())
    digest = hashlib.sha512(path.read_bytes()).hexdigest()
    if digest != SHA512[coordinate]:
        path.unlink()
        raise AssertionError(f"{coordinate}: expected SHA-512 {SHA512[coordinate]}, got {digest}")
    return path
