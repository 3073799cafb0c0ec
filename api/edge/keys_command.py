"""``python -m api keys``: make, list and revoke API keys."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg, CliSubCommand

from api import PROCESS
from api.edge.keys import KeyFile, KeyFileError, Scope, create, known_rate, load, revoke, save
from shared import process
from shared.process import Exit, now_ms
from shared.settings import CommandGroup, CommaSeparated, ServiceSettings, own

PROG = "python -m api keys"


def _known_scopes(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = set(names) - set(Scope)
    if unknown:
        raise ValueError(f"expected some of {','.join(Scope)}")
    return names


class KeySettings(ServiceSettings):
    """Where the keys are."""

    help_title: ClassVar[str] = "keys"

    model_config = own(PROCESS, "keys")

    file: Path = Field(description="the key file, which the API is given as --keys")


class CreateSettings(KeySettings):
    """Make a key, write its hash to the file and print it once.

    Example:
      python -m api keys create shop --scopes read,predict --rate 20/second --file keys.json
    """

    name: CliPositionalArg[str] = Field(description="whose it is, as logs will name it")
    scopes: Annotated[CommaSeparated, AfterValidator(_known_scopes)] = Field(
        ("read", "predict"), description=f"what it may do, by comma: {', '.join(Scope)}"
    )
    rate: Annotated[str, AfterValidator(known_rate)] | None = Field(
        None, description="its requests, as in 100/second; by default the API's --rate"
    )


class ListSettings(KeySettings):
    """Show the names, scopes and states of all keys.

    Example:
      python -m api keys list --file keys.json
    """


class RevokeSettings(KeySettings):
    """Close a key; a running API sees it within a second.

    Example:
      python -m api keys revoke shop --file keys.json
    """

    key: CliPositionalArg[str] = Field(description="its name or id")


class KeysCommand(CommandGroup, ServiceSettings):
    """Make, list and revoke API keys; the file holds only their hashes.

    Examples:
      python -m api keys create shop --file keys.json
      python -m api keys list --file keys.json
      python -m api keys revoke shop --file keys.json
    """

    model_config = own(PROCESS, "keys")

    create: CliSubCommand[CreateSettings] = Field(description="make a key and print it once")
    list: CliSubCommand[ListSettings] = Field(description="show names, scopes and states")
    revoke: CliSubCommand[RevokeSettings] = Field(description="close a key")


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Run a command; return the exit code."""
    command = KeysCommand.read(argv, prog)
    return process.live(
        "keys",
        command.log_level,
        lambda: _run(command),
        expected=(KeyFileError,),
        stopped=Exit.INTERRUPTED,
    )


def _run(command: KeysCommand) -> int:
    if command.create is not None:
        _create(command.create)
    elif command.revoke is not None:
        path = command.revoke.file
        save(path, revoke(load(path), command.revoke.key, now_ms()))
    elif command.list is not None:
        _list(command.list.file)
    return Exit.DONE


def _create(settings: CreateSettings) -> None:
    path = settings.file
    file = load(path) if path.exists() else KeyFile()
    scopes = tuple(dict.fromkeys(Scope(name) for name in settings.scopes))
    file, key = create(file, settings.name, scopes, settings.rate, now_ms())
    save(path, file)
    print(key)
    print("Keep it: it is shown this once, the file has its hash only.", file=sys.stderr)


def _list(path: Path) -> None:
    for entry in load(path).keys:
        state = "open" if entry.revoked_ms is None else f"revoked {_day(entry.revoked_ms)}"
        scopes = ",".join(entry.scopes)
        print(f"{entry.id}  {entry.name}  {scopes}  created {_day(entry.created_ms)}  {state}")


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
