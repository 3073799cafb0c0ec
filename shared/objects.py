"""Files below a URL, written whole or not at all; the ground under the model store.

A folder is read and written by the operating system's own calls; any other URL by fsspec, which
the extras ``s3`` and ``gcs`` install. ``create`` is the compare-and-swap of all that is versioned:
of two writers of one name exactly one succeeds.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

EXCLUSIVE: Final = frozenset({"s3", "s3a", "gs", "gcs", "memory"})
"""Protocols of stores that refuse to create a file that exists (S3 and GCS by a condition)."""

LOCK_S: Final = 30.0
"""Age after which a lock counts as left behind by a writer that was killed."""

LOCK_WAIT_S: Final = 60.0
"""Longest wait for a lock."""

TEMPORARY_S: Final = 3600.0
"""Age after which a temporary file counts as left behind."""

NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of a file system without hard links."""


_NUMBERED: Final = re.compile(r"([0-9]{10})\.json")


class StoreError(Exception):
    """A store that cannot be reached, read or written, or that holds what it should not."""


class Objects(Protocol):
    """Port of storage: files by name, with ``/`` between folders.

    Every method raises ``StoreError`` when the storage fails, naming the URL and the file.
    """

    @property
    def url(self) -> str: ...

    def read(self, name: str, most: int) -> bytes | None:
        """Return a file's content, None where that is missing; at most ``most`` bytes."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file; a reader sees the former content or all of this one."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless one of the name exists; return whether it was written."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none where it is missing."""
        ...

    def written_ms(self, name: str) -> int | None:
        """Return when a file was written, UTC epoch milliseconds; None if it is not known."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it; what is gone already is fine."""
        ...


def numbered(folder: str, number: int) -> str:
    """Return the name of a file of a numbered sequence, whose creation is its compare-and-swap."""
    return f"{folder}/{number:010d}.json"


def numbers_in(objects: Objects, folder: str) -> list[int]:
    """Return the numbers of the files of a sequence, rising."""
    found = map(_NUMBERED.fullmatch, objects.names(folder))
    return sorted(int(match[1]) for match in found if match)


def open_objects(url: str) -> Objects:
    """Return the storage below a URL or in a folder; nothing is read or made yet.

    Raises:
        StoreError: when the package for the URL's protocol is not installed.
    """
    protocol, mark, rest = url.partition("://")
    if not mark:
        return Folder(Path(url))
    if protocol == "file":
        return Folder(Path(rest))
    return Remote(url, protocol)


class Folder:
    """A folder of this machine, or of a network file system."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def url(self) -> str:
        return str(self._path)

    def read(self, name: str, most: int) -> bytes | None:
        path = self._path / name
        try:
            # a FIFO would block at its opening, a device would never end
            if not stat.S_ISREG(path.stat().st_mode):
                raise StoreError(f"{path}: expected a regular file, got another kind")
            with path.open("rb") as stream:
                data = stream.read(most + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failed(str(path), "read", error) from error
        return _bounded(str(path), data, most)

    def write(self, name: str, data: bytes) -> None:
        self._put(self._path / name, data, os.replace)

    def create(self, name: str, data: bytes) -> bool:
        path = self._path / name
        if path.exists():
            return False
        try:
            self._put(path, data, os.link)
        except FileExistsError:
            return False
        except _NoLinksError:
            with _locked(lambda: path.with_name(f"{path.name}.lock").mkdir(), self._unlock(path)):
                if path.exists():
                    return False
                self._put(path, data, os.replace)
        return True

    @staticmethod
    def _unlock(path: Path) -> Callable[[float], None]:
        lock = path.with_name(f"{path.name}.lock")

        def unlock(older_s: float) -> None:
            with suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime >= older_s:
                    lock.rmdir()

        return unlock

    def _put(self, path: Path, data: bytes, place: Callable[[Path, Path], None]) -> None:
        """Write a temporary file to the disk, then give it its name."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            place(temporary, path)
            _sync(path.parent)
        except FileExistsError:
            raise
        except OSError as error:
            if place is os.link and error.errno in NO_LINKS:
                raise _NoLinksError from error
            raise _failed(str(path), "written", error) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        try:
            found = [path.name for path in (self._path / folder).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _failed(str(self._path / folder), "listed", error) from error
        return sorted(name for name in found if not name.startswith("."))

    def written_ms(self, name: str) -> int | None:
        try:
            return (self._path / name).stat().st_mtime_ns // 1_000_000
        except OSError:
            return None

    def remove(self, name: str) -> None:
        path = self._path / name
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _failed(str(path), "removed", error) from error

    def sweep(self) -> None:
        """Remove the temporary files of writers that were killed."""
        for path in self._path.rglob(".*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > TEMPORARY_S:
                    path.unlink()


class Remote:
    """A URL that fsspec opens: S3, GCS and others."""

    def __init__(self, url: str, protocol: str) -> None:
        try:
            import fsspec  # noqa: PLC0415 - an extra's, which a folder does without

            # another process's writes must show, and two stores share no state
            self._files, self._root = fsspec.core.url_to_fs(  # type: ignore[no-untyped-call]
                url, use_listings_cache=False, skip_instance_cache=True
            )
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"{url}: {error}; pip install 'candlecast[s3]' or 'candlecast[gcs]' brings these "
                "two, fsspec's documentation names the package of any other"
            ) from error
        except Exception as error:  # a file system's own, such as of credentials
            raise _failed(url, "opened", error) from error
        self._url = url.rstrip("/")
        self._is_exclusive = protocol in EXCLUSIVE

    @property
    def url(self) -> str:
        return self._url

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def read(self, name: str, most: int) -> bytes | None:
        try:
            data: bytes = self._files.cat_file(self._at(name), start=0, end=most + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # each file system has exceptions of its own
            raise _failed(f"{self._url}/{name}", "read", error) from error
        return _bounded(f"{self._url}/{name}", data, most)

    def write(self, name: str, data: bytes) -> None:
        self._do(name, "written", lambda: self._put(name, data, "overwrite"))

    def create(self, name: str, data: bytes) -> bool:
        if self._is_exclusive:
            return self._do(name, "written", lambda: self._created(name, data))
        return self._do(name, "written", lambda: self._created_under_lock(name, data))

    def _put(self, name: str, data: bytes, mode: str) -> None:
        if not self._is_exclusive:  # an object store has no folders
            self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(self._at(name), data, mode=mode)

    def _created(self, name: str, data: bytes) -> bool:
        try:
            self._put(name, data, "create")
        except FileExistsError:
            return False
        except Exception as error:
            if _is_refused(error):
                return False
            raise
        return True

    def _created_under_lock(self, name: str, data: bytes) -> bool:
        at = self._at(name)
        lock = f"{at}.lock"
        self._files.makedirs(at.rpartition("/")[0], exist_ok=True)

        def unlock(older_s: float) -> None:
            with suppress(FileNotFoundError):
                if not older_s or time.time() - self._files.modified(lock).timestamp() >= older_s:
                    self._files.rmdir(lock)

        with _locked(lambda: self._files.mkdir(lock, create_parents=False), unlock):
            if self._files.exists(at):
                return False
            part = f"{at}.{uuid.uuid4().hex}.part"
            self._files.pipe_file(part, data)
            self._files.mv(part, at)
            return True

    def names(self, folder: str) -> list[str]:
        return self._do(folder, "listed", lambda: self._names(folder))

    def _names(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._at(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if name and not name.startswith("."))

    def written_ms(self, name: str) -> int | None:
        try:
            return int(self._files.modified(self._at(name)).timestamp() * 1000)
        except Exception:  # noqa: BLE001 - not every file system knows; a bundle is then old
            return None

    def remove(self, name: str) -> None:
        self._do(name, "removed", lambda: self._remove(name))

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm(self._at(name), recursive=True)

    def _do(self, name: str, verb: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except StoreError:
            raise
        except Exception as error:
            raise _failed(f"{self._url}/{name}", verb, error) from error


class _NoLinksError(Exception):
    """A file system without hard links."""


@contextmanager
def _locked(lock: Callable[[], object], unlock: Callable[[float], None]) -> Iterator[None]:
    """Hold a lock that is made by ``lock``, which raises ``FileExistsError`` while it is held.

    Args:
        lock: makes it.
        unlock: removes it if it is at least so many seconds old.
    """
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            lock()
            break
        except FileExistsError:
            if time.monotonic() > deadline_s:
                raise
            unlock(LOCK_S)
            time.sleep(0.02)
    try:
        yield
    finally:
        unlock(0.0)


def _bounded(place: str, data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise StoreError(f"{place}: expected at most {most} bytes, got more")
    return data


def _failed(place: str, verb: str, error: Exception) -> StoreError:
    why = getattr(error, "strerror", None) or str(error) or repr(error)
    return StoreError(f"{place}: cannot be {verb}: {why}")


def _is_refused(error: Any) -> bool:
    """Tell whether a store refused a condition: HTTP 412, or 409 while another writer is at it."""
    response = getattr(error, "response", None)
    meta = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    codes = {meta.get("HTTPStatusCode"), getattr(error, "code", None), getattr(error, "errno", 0)}
    texts = ("PreconditionFailed", "ConditionalRequestConflict", "conditionNotMet")
    return bool(codes & {412, "412"}) or any(text in str(error) for text in texts)


def _sync(folder: Path) -> None:
    """Write a folder's names to the disk, where the system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
