"""API keys: named, scoped, revocable; a file holds their hashes, never the keys.

A key is ``cc_<id>_<secret>``. The secret is 256 random bits, which nobody can guess or try
through, so a fast hash is enough (a slow one is for passwords that people think up), and it has
to be fast: it is computed for every request.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from limits import RateLimitItem, parse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

_KEY: Final = re.compile(r"cc_([0-9a-f]{8})_([A-Za-z0-9_-]{43})", re.ASCII)
_PERSON: Final = b"candlecast-key"
"""BLAKE2's personalisation, which makes these hashes differ from any other use's."""

_NOBODY: Final = "0" * 64
"""A hash that no secret has."""


class Scope(StrEnum):
    """A right that a key may have."""

    READ = "read"  # forecasts, scores and status of the stream, the model's card
    PREDICT = "predict"  # forecasts on demand
    ADMIN = "admin"  # metrics


class KeyFileError(Exception):
    """A key file that is missing or damaged, or an entry that it lacks."""


def known_rate(value: str) -> str:
    """Return a rate such as ``100/second``; a validator that refuses others."""
    try:
        parse(value)
    except ValueError:
        raise ValueError("expected a rate as in 100/second") from None
    return value


class KeyEntry(BaseModel):
    """One key in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    scopes: tuple[Scope, ...]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rate: Annotated[str, AfterValidator(known_rate)] | None = None  # as in 100/second
    created_ms: int  # UTC
    revoked_ms: int | None = None  # UTC


class KeyFile(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...] = ()


@dataclass(frozen=True)
class Client:
    """The owner of a key."""

    id: str
    name: str
    scopes: frozenset[Scope]
    rate: RateLimitItem | None


ANYONE: Final = Client("", "anyone", frozenset(Scope), None)
"""The client where no keys are in use."""


class KeyRing:
    """The valid keys."""

    def __init__(self, entries: tuple[KeyEntry, ...], rate: RateLimitItem | None) -> None:
        """Take the entries that are not revoked; ``rate`` is for those without their own."""
        self._by_id: Mapping[str, tuple[str, Client]] = MappingProxyType(
            {
                entry.id: (entry.hash, _client(entry, rate))
                for entry in entries
                if entry.revoked_ms is None
            }
        )

    def client(self, key: str) -> Client | None:
        """Return the owner of a key; None for a key that is not valid.

        The id is public and looked up; the secret's hash is compared in constant time, an
        unknown id against a hash that nothing has.
        """
        matched = _KEY.fullmatch(key)
        identity, secret = matched.groups() if matched else ("", "")
        expected, client = self._by_id.get(identity, (_NOBODY, None))
        return client if hmac.compare_digest(hash_of(secret), expected) else None

    def holds(self, identity: str, scope: Scope | None) -> bool:
        """True when the key of an id is valid and has a scope, if one is given."""
        _, client = self._by_id.get(identity, (_NOBODY, None))
        return client is not None and (scope is None or scope in client.scopes)


def _client(entry: KeyEntry, rate: RateLimitItem | None) -> Client:
    own = parse(entry.rate) if entry.rate else rate
    return Client(entry.id, entry.name, frozenset(entry.scopes), own)


def hash_of(secret: str) -> str:
    """Return the hash of a key's secret: BLAKE2b, 256 bits, for this purpose alone."""
    return hashlib.blake2b(secret.encode(), digest_size=32, person=_PERSON).hexdigest()


def load(path: Path) -> KeyFile:
    """Return the content of a key file.

    Raises:
        KeyFileError: naming the file and what is wrong, without its content.
    """
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise KeyFileError(f"{path}: anybody may write to it: run chmod 600 {path}")
        return KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False)
        where = ".".join(map(str, first["loc"])) or "file"
        raise KeyFileError(f"{path}: not a key file: {where}: {first['msg']}") from None


def create(
    file: KeyFile, name: str, scopes: tuple[Scope, ...], rate: str | None, now_ms: int
) -> tuple[KeyFile, str]:
    """Return the file with a new key, and the key itself, which nothing else keeps."""
    if any(entry.name == name and entry.revoked_ms is None for entry in file.keys):
        raise KeyFileError(f"{name}: there is such a key already; revoke it first")
    identity, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    entry = KeyEntry(
        id=identity,
        name=name,
        scopes=scopes,
        hash=hash_of(secret),
        rate=rate,
        created_ms=now_ms,
    )
    return KeyFile(keys=(*file.keys, entry)), f"cc_{identity}_{secret}"


def revoke(file: KeyFile, name_or_id: str, now_ms: int) -> KeyFile:
    """Return the file with a key revoked; raises ``KeyFileError`` when there is none."""
    ids = {
        entry.id
        for entry in file.keys
        if name_or_id in {entry.id, entry.name} and entry.revoked_ms is None
    }
    if not ids:
        raise KeyFileError(f"{name_or_id}: no such key that is not revoked already")
    return KeyFile(
        keys=tuple(
            entry.model_copy(update={"revoked_ms": now_ms}) if entry.id in ids else entry
            for entry in file.keys
        )
    )


def save(path: Path, file: KeyFile) -> None:
    """Write a key file atomically, readable by its owner alone."""
    text = json.dumps(file.model_dump(mode="json"), indent=2) + "\n"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class _Stamp:
    mtime_ns: int = -1
    size: int = -1
    inode: int = -1
    mode: int = -1


@dataclass
class WatchedKeys:
    """The key ring of a file, read again when the file changes."""

    path: Path
    rate: RateLimitItem | None
    ring: KeyRing
    stamp: _Stamp = _Stamp()

    @classmethod
    def open(cls, path: Path, rate: RateLimitItem | None) -> WatchedKeys:
        """Read the file; raises ``KeyFileError``."""
        watched = cls(path, rate, KeyRing((), rate))
        watched.refresh()
        return watched

    def refresh(self) -> bool:
        """Read the file if it has changed; return whether it has. Raises ``KeyFileError``."""
        stamp = _stamp(self.path)
        if stamp == self.stamp:
            return False
        self.ring = KeyRing(load(self.path).keys, self.rate)
        self.stamp = replace(stamp)
        return True


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    return _Stamp(status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)
