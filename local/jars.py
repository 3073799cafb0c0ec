"""Apache Kafka's jars: resolved from Maven Central once, then kept in a cache."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared import extras

if TYPE_CHECKING:
    from collections.abc import Callable

    from jgo.maven import Artifact

KAFKA_VERSION: Final = "4.4.0"
CACHE_VARIABLE: Final = "CANDLECAST_KAFKA_CACHE"

_COORDINATES: Final = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",  # Kafka's own dependencies bring no slf4j backend, so no log
)
_DOWNLOADS: Final = 8  # at once
_TIMEOUT_S: Final = 30
_MEGABYTES: Final = 43  # of the jars of this version
_SAY_S: Final = 5.0


class JarsError(Exception):
    """Kafka's jars cannot be had."""


def cache_dir() -> Path:
    """Return the user's cache: $CANDLECAST_KAFKA_CACHE, else ~/.cache/candlecast."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "candlecast"


def kafka_jars(cache: Path) -> Path:
    """Return the folder of Kafka's jars in the cache, filling it the first time.

    Any number of processes may do so at once, and be killed at any time: each fills a folder
    of its own and renames it when whole.

    Raises:
        JarsError: when the download fails, or the ``local`` extra is not installed.
    """
    jars = cache / f"kafka-{KAFKA_VERSION}"
    if jars.is_dir():
        return jars
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kafka-", dir=cache) as scratch:
            whole = _download(Path(scratch))
            try:
                whole.rename(jars)
            except OSError:
                if not jars.is_dir():  # else another process was first
                    raise
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors, jgo's the others
        raise JarsError(
            f"Apache Kafka {KAFKA_VERSION} could not be fetched from Maven Central "
            f"into {cache}: {error}"
        ) from error
    return jars


def _download(scratch: Path) -> Path:
    """Return a folder below ``scratch`` that holds every jar."""
    progress = _Progress()
    artifacts = _resolve(scratch / "maven", progress)
    progress.expect(len(artifacts))
    whole = scratch / "jars"
    whole.mkdir()
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        for path in pool.map(lambda artifact: artifact.resolve(), artifacts):
            shutil.move(path, whole / path.name)
    progress.finish()
    return whole


def _resolve(repository: Path, progress: _Progress) -> list[Artifact]:
    try:
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 - of the extra "local"
    except ImportError as error:
        raise JarsError(missing_extra("jgo")) from error
    resolver = PythonResolver(progress_callback=progress.file)
    context = MavenContext(resolver=resolver, repo_cache=repository, timeout=_TIMEOUT_S)
    wanted = [context.create_dependency(coordinate) for coordinate in _COORDINATES]
    inputs, others = resolver.resolve(wanted)
    needed = [other for other in others if other.scope in {"compile", "runtime"}]
    return [dependency.artifact for dependency in (*inputs, *needed)]


def missing_extra(package: str) -> str:
    """Return the message for a package that only the ``local`` extra brings."""
    return f"the embedded Kafka {extras.missing(package, 'local')}"


class _Progress:
    """Says on standard error how far the download is, every few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files = 0
        self._expected = 0
        self._bytes = 0
        self._next_s = time.monotonic() + _SAY_S
        say(
            f"fetching Apache Kafka {KAFKA_VERSION} from Maven Central, once: {_MEGABYTES} MB, "
            "which takes about a minute"
        )

    def expect(self, jars: int) -> None:
        self._files, self._expected, self._bytes = 0, jars, 0

    @contextmanager
    def file(self, _name: str, _size: int) -> Iterator[Callable[[int], None]]:
        """Follow one download, in jgo's own form of a callback."""
        yield self._add
        with self._lock:
            self._files += 1
            self._say_sometimes()

    def _add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._say_sometimes()

    def _say_sometimes(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _SAY_S
        if self._expected:
            say(f"{self._files} of {self._expected} jars, {self._bytes / 1e6:.0f} MB")
        else:
            say(f"finding out which jars it needs: {self._files} descriptions read")

    def finish(self) -> None:
        say(f"Apache Kafka is here: {self._files} jars, {self._bytes / 1e6:.0f} MB")


def say(text: str) -> None:
    """Print a line for people, apart from the output."""
    print(text, file=sys.stderr, flush=True)
