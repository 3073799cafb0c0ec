"""``python -m api keys``: make, list and revoke keys."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from limits import parse

from api.edge.keys import KeyFile, KeyFileError, Scope, create, load, revoke, save


def main(argv: Sequence[str]) -> int:
    """Run a command; return the exit code."""
    arguments = _parser().parse_args(argv)
    path: Path = arguments.file
    try:
        return _COMMANDS[arguments.command](path, arguments)
    except KeyFileError as error:
        print(f"python -m api keys: {error}", file=sys.stderr)
        return 1


def _create(path: Path, arguments: argparse.Namespace) -> int:
    file = load(path) if path.exists() else KeyFile()
    scopes = tuple(dict.fromkeys(Scope(one) for one in arguments.scopes.split(",")))
    file, key = create(file, arguments.name, scopes, arguments.rate, _now_ms())
    save(path, file)
    print(key)
    print("Keep it: it is shown this once, the file has its hash only.", file=sys.stderr)
    return 0


def _list(path: Path, _: argparse.Namespace) -> int:
    for entry in load(path).keys:
        state = "open" if entry.revoked_ms is None else f"revoked {_day(entry.revoked_ms)}"
        scopes = ",".join(entry.scopes)
        print(f"{entry.id}  {entry.name}  {scopes}  created {_day(entry.created_ms)}  {state}")
    return 0


def _revoke(path: Path, arguments: argparse.Namespace) -> int:
    save(path, revoke(load(path), arguments.key, _now_ms()))
    return 0


_COMMANDS = {"create": _create, "list": _list, "revoke": _revoke}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m api keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("create", help="make a key, write its hash and print it once")
    made.add_argument("name", help="whose it is, as logs will name it")
    made.add_argument("--scopes", type=_scopes, default="read,predict", help="read,predict,admin")
    made.add_argument("--rate", type=_rate, help="as in 100/second; by default the API's")
    listed = commands.add_parser("list", help="show names, scopes and states")
    revoked = commands.add_parser("revoke", help="close a key; a running API sees it in a second")
    revoked.add_argument("key", help="its name or id")
    for command in (made, listed, revoked):
        command.add_argument("--file", type=Path, required=True, help="the key file (--keys)")
    return parser


def _scopes(text: str) -> str:
    for one in text.split(","):
        if one not in set(Scope):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(Scope)}, got {one!r}")
    return text


def _rate(text: str) -> str:
    try:
        parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected as in 100/second, got {text!r}") from None
    return text


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
