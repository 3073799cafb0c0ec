"""Model store: content-addressed bundles and the champions file, in a folder or below a URL.

    bundles/<SHA-256 of config.json>/    a bundle; its config has the hashes of its other files
    champions/0000000017.json            the 17th generation of the champions, the newest counts

A change of the champions writes the next generation by ``Objects.create``, which succeeds for one
writer alone; the others read again and try again, so no promotion is lost. A bundle's files are
written before its config: what lacks its config is not a bundle.
"""

from __future__ import annotations

import getpass
import hashlib
import random
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field, ValidationError

from shared import bundle
from shared.bundle import (
    CONFIG_NAME,
    FILE_NAMES,
    Bundle,
    BundleConfig,
    BundleError,
    ServingSettings,
    most_bytes,
)
from shared.champions import ANY, Champions, Change, Choice
from shared.forecaster import OnnxForecaster
from shared.objects import Folder, StoreError, numbered, numbers_in, open_objects
from shared.process import now_ms
from shared.settings import ServiceSettings

__all__ = [
    "Decision",
    "ModelSettings",
    "ModelStore",
    "NotPromoted",
    "Removal",
    "StoreError",
    "StoreSettings",
    "Stored",
    "who",
]

BUNDLES: Final = "bundles"
CHAMPIONS: Final = "champions"

MAX_CHAMPIONS_BYTES: Final = 16 << 20
"""Largest champions file; an entry with twenty former champions has 6 kB."""

ATTEMPTS: Final = 200
"""Most times that a change is tried while others change the champions."""

KEEP: Final = 5
"""Former champions of each series, and newest bundles, that a collection leaves by default."""

FRESH_MS: Final = 24 * 3600 * 1000
"""Age up to which a bundle that nobody names is left: its trainer may be about to promote it."""

KEPT_GENERATIONS: Final = 500
"""Newest generations of the champions file that a collection leaves, as a record."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class NotPromoted(StoreError):
    """A promotion that the store's state forbids, however often it is tried."""


class StoreSettings(ServiceSettings):
    """Where the models are."""

    help_title: ClassVar[str] = "model"

    models: str = Field(
        "models",
        description="model store: a folder, or a URL such as s3://bucket/models; where it names no "
        "champion the bundle of --model serves",
    )


class ModelSettings(StoreSettings, ServingSettings):
    """Which models a process serves."""


@dataclass(frozen=True)
class Stored:
    """A bundle in the store, as a list shows it."""

    digest: str
    config: BundleConfig | None  # None for one that cannot be read
    fault: str = ""


@dataclass(frozen=True)
class Removal:
    """What a garbage collection removes, and what it leaves and why."""

    removed: tuple[Stored, ...]
    kept: Mapping[str, str]  # digest -> reason


def who() -> str:
    """Return who runs this process: the user and the machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class Decision:
    """Who promotes a model, when and why."""

    why: str
    by: str = field(default_factory=who)
    run: str = ""  # MLflow run that led to it
    at_ms: int = field(default_factory=now_ms)  # UTC


class ModelStore:
    """Bundles and champions; every method but the constructor reads or writes the storage.

    All methods raise ``StoreError`` when the storage fails, and ``BundleError`` for a bundle that
    is damaged, incomplete or of another format.
    """

    def __init__(self, url: str) -> None:
        self._objects = open_objects(url)

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._objects.url

    def champions(self) -> Champions:
        """Return the newest generation; of an empty store the one without a champion."""
        while True:
            generations = self._generations()
            if not generations:
                return Champions()
            name = numbered(CHAMPIONS, generations[-1])
            data = self._objects.read(name, MAX_CHAMPIONS_BYTES)
            if data is None:
                continue  # removed since, so that there is a newer one
            try:
                found = Champions.model_validate_json(data)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                raise StoreError(
                    f"{self.url}/{name}: not a champions file: {first['msg']} at "
                    f"{'.'.join(map(str, first['loc'])) or 'its top'}. Remove it to go back to the "
                    "generation before it"
                ) from error
            if found.generation != generations[-1]:
                raise StoreError(
                    f"{self.url}/{name}: expected generation {generations[-1]}, got "
                    f"{found.generation}: the file was copied or renamed"
                )
            return found

    def _generations(self) -> list[int]:
        return numbers_in(self._objects, CHAMPIONS)

    def put(self, contents: Mapping[str, bytes]) -> str:
        """Write a bundle after verifying it, unless it is there; return its digest.

        Args:
            contents: files by name, ``config.json`` among them.
        """
        digest = hashlib.sha256(contents[CONFIG_NAME]).hexdigest()
        config = bundle.assemble(Path(digest[:12]), contents.__getitem__).config
        if digest in self.champions().removing:
            raise StoreError(
                f"{self.url}: bundle {digest[:12]} is being removed; finish that first: "
                "python -m trainer gc"
            )
        try:
            self.load(digest)
        except BundleError:
            for name in config.file_names:
                self._objects.write(self._file(digest, name), contents[name])
            self._objects.write(self._file(digest, CONFIG_NAME), contents[CONFIG_NAME])
        return digest

    def load(self, digest: str) -> Bundle:
        """Return a bundle after checking that it is what the digest says, down to every byte."""
        place = Path(f"{BUNDLES}/{digest[:12]}")

        def read(name: str) -> bytes:
            data = self._objects.read(self._file(digest, name), most_bytes(name))
            if data is None:
                raise BundleError(f"{place / name} of {self.url}: expected a file, got none")
            if name == CONFIG_NAME:
                got = hashlib.sha256(data).hexdigest()
                if got != digest:
                    raise BundleError(
                        f"{place / name} of {self.url}: expected SHA-256 {digest}, got {got}: "
                        "the file is damaged"
                    )
            return data

        return bundle.assemble(place, read)

    def _file(self, digest: str, name: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"bundle: expected 64 hexadecimal digits, got {digest[:80]!r}")
        return f"{BUNDLES}/{digest}/{name}"

    def bundles(self) -> list[Stored]:
        """Return all bundles, the one trained on the newest data last."""
        digests = filter(_DIGEST.fullmatch, self._objects.names(BUNDLES))
        found = [self.config(digest) for digest in digests]
        return sorted(found, key=lambda stored: stored.config.data.last_ms if stored.config else -1)

    def config(self, digest: str) -> Stored:
        """Return a bundle's config without reading its other files."""
        name = self._file(digest, CONFIG_NAME)
        data = self._objects.read(name, most_bytes(CONFIG_NAME))
        if data is None:
            return Stored(digest, None, "it has no config.json: half-written, or being removed")
        if hashlib.sha256(data).hexdigest() != digest:
            return Stored(digest, None, "config.json is damaged: its SHA-256 is not the digest")
        try:
            return Stored(digest, bundle.read_config(Path(name), data))
        except BundleError as error:
            return Stored(digest, None, str(error))

    def resolve(self, version: str) -> str:
        """Return the digest of a bundle by its version, its digest or the beginning of either.

        Raises:
            StoreError: when there is none, or more than one.
        """
        if not version:
            raise StoreError("version: expected a model's version or digest, got nothing")
        found = {
            stored.digest: stored.config.model_version if stored.config else "?"
            for stored in self.bundles()
            if stored.digest.startswith(version)
            or (stored.config and stored.config.model_version.startswith(version))
        }
        exact = [digest for digest, name in found.items() if version in {digest, name}]
        digests = exact or list(found)
        if len(digests) == 1:
            return digests[0]
        if not digests:
            raise StoreError(
                f"{version}: expected a version in {self.url}, or a bundle's folder, got neither; "
                "python -m trainer models lists what there is"
            )
        names = ", ".join(f"{found[digest]} {digest[:12]}" for digest in digests)
        raise StoreError(f"{version}: expected one bundle, got {names}; give its digest")

    def change(self, change: Change) -> Champions:
        """Write the next generation; return it, or the present one if it stays.

        Args:
            change: called again, with what is then the newest, when another writer was first.
        """
        for _ in range(ATTEMPTS):
            now = self.champions()
            following = change(now)
            if following is now:
                return now
            name = numbered(CHAMPIONS, following.generation)
            data = following.model_dump_json(indent=2).encode() + b"\n"
            if self._objects.create(name, data):
                if not self._is_stale(now.generation):
                    return following
                self._objects.remove(name)
            time.sleep(random.uniform(0, 0.05))  # noqa: S311 - to part writers, not for secrets
        raise StoreError(f"{self.url}: the champions changed {ATTEMPTS} times meanwhile; try again")

    def _is_stale(self, base: int) -> bool:
        """Tell whether the generation that a new one was made from was pruned before.

        Pruning removes the oldest first, so while the base is there, its successor was never
        written by anybody else.
        """
        generations = self._generations()
        if base:
            return generations[0] > base
        return len(generations) > 1 and generations[1] != 2

    def promote(
        self,
        digest: str,
        interval: str,
        symbols: str = ANY,
        *,
        decision: Decision,
        expected: str | None = None,
        any_horizons: bool = False,
    ) -> Champions:
        """Make a bundle the champion of an interval, ``*`` for all, once it is verified.

        Args:
            digest: of the bundle.
            interval: of the candles.
            symbols: pattern of the symbols, as of file names.
            decision: who, when and why.
            expected: digest of the champion that it was measured against, empty for none; by
                default any.
            any_horizons: accept other horizons than those of the champion.

        Raises:
            NotPromoted: when another champion is there than expected, or of other horizons.
        """
        config = OnnxForecaster(self.load(digest)).config
        choice = Choice(
            version=config.model_version,
            bundle=digest,
            window_length=config.window_length,
            by=decision.by,
            at_ms=decision.at_ms,
            why=decision.why,
            run=decision.run,
        )

        def change(now: Champions) -> Champions:
            if digest in now.removing:
                raise NotPromoted(f"{self.url}: bundle {digest[:12]} was removed meanwhile")
            old = now.at(interval, symbols)
            got = old.choice.bundle if old else ""
            if old is not None and old.choice == choice:
                return now  # written, though the storage said otherwise
            if expected is not None and got != expected:
                raise NotPromoted(
                    f"{interval}: expected {expected[:12] or 'no'} champion, which the new one was "
                    f"measured against, got {got[:12] or 'none'}: another promotion came first"
                )
            if old is not None and not any_horizons:
                self._require_horizons(config, old.choice)
            return now.with_promoted(interval, symbols, choice)

        return self.change(change)

    def _require_horizons(self, config: BundleConfig, champion: Choice) -> None:
        old = self.config(champion.bundle).config
        if old is not None and old.horizons != config.horizons:
            raise NotPromoted(
                f"{config.model_version}: expected the horizons of {champion.version}, "
                f"{old.horizons}, got {config.horizons}; consumers would miss some. "
                "--any-horizons promotes it nevertheless"
            )

    def rollback(
        self, interval: str, symbols: str = ANY, *, by: str | None = None, at_ms: int | None = None
    ) -> Champions:
        """Let the model before the champion serve again.

        Raises:
            StoreError: when the champion is missing, or the one before it is damaged.
        """
        at = now_ms() if at_ms is None else at_ms

        def change(now: Champions) -> Champions:
            entry = now.at(interval, symbols)
            if entry is None:
                names = ", ".join(champion.name for champion in now.champions) or "none"
                raise StoreError(f"{interval}: expected a champion, got none; there are: {names}")
            if entry.before:
                self.load(entry.before[0].bundle)
            return now.with_rolled_back(interval, symbols, by or who(), at)

        return self.change(change)

    def collect(
        self,
        keep: int = KEEP,
        *,
        needed: Mapping[str, str] | None = None,
        dry_run: bool = False,
        at_ms: int | None = None,
    ) -> Removal:
        """Remove the bundles that no champion needs, and none of the last ``keep``.

        A generation of the champions names what is being removed before anything is, so that no
        promotion can come between; a collection that was killed is finished by the next.

        Args:
            keep: former champions of each series, and newest bundles, to leave.
            needed: digests of others to leave, with the reason.
            dry_run: only return what would be removed.
            at_ms: the time, UTC; by default now.
        """
        at = now_ms() if at_ms is None else at_ms
        stored = {held.digest: held for held in self.bundles()}
        plan: dict[str, str] = {}
        gone: set[str] = set()

        def change(now: Champions) -> Champions:
            nonlocal plan
            plan = self._plan(now, list(stored.values()), keep, at) | dict(needed or {})
            gone.clear()
            gone.update(stored.keys() - plan.keys(), now.removing)
            if not gone:
                return now
            words = f"removing {len(gone)} bundles"
            return now.with_removing(gone, who(), at, words)

        if dry_run:
            change(self.champions())
        elif self.change(change).removing:
            for digest in sorted(gone):
                self._objects.remove(self._file(digest, CONFIG_NAME))  # then it is none
                self._objects.remove(f"{BUNDLES}/{digest}")
            self.change(
                lambda now: now.with_removing((), who(), at, f"removed {len(gone)} bundles")
            )
            self._prune()
        removed = tuple(stored.get(digest) or Stored(digest, None) for digest in sorted(gone))
        return Removal(removed, plan)

    def _plan(self, now: Champions, stored: list[Stored], keep: int, at_ms: int) -> dict[str, str]:
        """Return the digests to keep, with the reason."""
        plan = dict.fromkeys(now.kept(keep), "a champion, or one of the last before it")
        for newest in stored[len(stored) - keep :] if keep else ():
            plan.setdefault(newest.digest, f"one of the {keep} of the newest data")
        for held in stored:
            age = self._age_ms(held.digest, at_ms)
            if age is not None and age < FRESH_MS:
                plan.setdefault(held.digest, "younger than a day: it may be about to be promoted")
        return plan

    def _age_ms(self, digest: str, at_ms: int) -> int | None:
        """Return how long ago a bundle was written; None where the storage does not say."""
        written_ms = self._objects.written_ms(f"{BUNDLES}/{digest}/{FILE_NAMES[0]}")
        return None if written_ms is None else at_ms - written_ms

    def _prune(self) -> None:
        """Remove the oldest generations, and what killed writers left."""
        for generation in self._generations()[:-KEPT_GENERATIONS]:
            self._objects.remove(numbered(CHAMPIONS, generation))
        if isinstance(self._objects, Folder):
            self._objects.sweep()
