"""The optional settings file: TOML, whose tables are named as the variables are."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from pydantic_settings import BaseSettings

_CONTENT: Final[ContextVar[dict[str, Any] | None]] = ContextVar("settings file", default=None)
_NAME: Final[ContextVar[Path | None]] = ContextVar("its path", default=None)


class FileError(Exception):
    """A settings file that cannot be read, or that names no setting."""


def of(argv: Sequence[str], flag: str, variable: str) -> Path | None:
    """Return the path of the file that flags or environment name."""
    given = os.environ.get(variable)
    for number, argument in enumerate(argv):
        if argument == flag and number + 1 < len(argv):
            given = argv[number + 1]
        elif argument.startswith(f"{flag}="):
            given = argument.partition("=")[2]
    return Path(given) if given else None


@contextmanager
def opened(path: Path | None) -> Iterator[None]:
    """Let settings that are read inside see a file; nothing where there is none.

    Raises:
        FileError: when it cannot be read as TOML.
    """
    content = _CONTENT.set(None if path is None else _read(path))
    name = _NAME.set(path)
    try:
        yield
    finally:
        _CONTENT.reset(content)
        _NAME.reset(name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: expected TOML: {error}") from error


def values(settings_cls: type[BaseSettings]) -> dict[str, Any]:
    """Return what the file has for settings, by field: of each class in its own table.

    Raises:
        FileError: for a name in a table of the process that is not a setting of it.
    """
    content = _CONTENT.get()
    if content is None:
        return {}
    read: dict[str, Any] = {}
    for base in reversed(settings_cls.__mro__):
        if not issubclass(base, BaseSettings) or base is BaseSettings:
            continue
        place = _place(base)
        table = _table(content, place)
        known = {name for name in settings_cls.model_fields if _is_of(base, settings_cls, name)}
        read |= {name: value for name, value in table.items() if name in known}
        _refuse_unknown(table, place, settings_cls)
    return read


def _place(settings_cls: type[BaseSettings]) -> tuple[str, ...]:
    """Return the table of a class: ``CANDLECAST_TRAINER_FIT_`` is ``[trainer.fit]``."""
    prefix = str(settings_cls.model_config.get("env_prefix", ""))
    return tuple(part.lower() for part in prefix.split("_")[1:] if part)


def _table(content: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    for name in place:
        inner = content.get(name, {})
        if not isinstance(inner, dict):
            raise FileError(f"{_NAME.get()}: {name}: expected a table, got {inner!r}")
        content = inner
    return {name.replace("-", "_"): value for name, value in content.items()}


def _is_of(base: type[BaseSettings], settings_cls: type[BaseSettings], name: str) -> bool:
    """Tell whether a field is declared by a class of the same table."""
    declarer = next(
        cls
        for cls in reversed(settings_cls.__mro__)
        if issubclass(cls, BaseSettings) and name in cls.model_fields
    )
    return _place(declarer) == _place(base)


def _refuse_unknown(
    table: dict[str, Any], place: tuple[str, ...], settings_cls: type[BaseSettings]
) -> None:
    """Refuse a name in a process's table; what is shared may be meant for another process."""
    if not place or place != _place(settings_cls):
        return
    unknown = [
        name
        for name, value in table.items()
        if name not in settings_cls.model_fields and not isinstance(value, dict)
    ]
    if unknown:
        raise FileError(
            f"{_NAME.get()}: [{'.'.join(place)}] {unknown[0]}: no such setting; "
            "docs/settings.md lists them"
        )
