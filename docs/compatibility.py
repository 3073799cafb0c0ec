#!/usr/bin/env python
"""Compares topics and messages with those of the last release, for who reads them.

``python docs/compatibility.py`` ends with 1 where a program that read the last release's messages
could not read those of now, or where a reader of now could not read the messages that topics still
hold. ``make check`` runs it. ``docs/released/VERSION`` has the last release's AsyncAPI document and
JSON Schemas; ``make release`` writes it.

Fields, topics and messages may be added. Lists of values, patterns and bounds may become wider:
docs/consumers.md has readers skip a value that they do not know. ``accepted.yaml`` beside the
release's schemas names other changes since then that harm nobody, by place and rule, and why.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]

Schema = Mapping[str, Any]
"""A JSON Schema, or a part of one."""

MEND: Final = (
    "give it back, or publish a topic of the next version (as market.forecasts.v2) beside this one"
)


@dataclass(frozen=True)
class Change:
    """A change that a reader of one release or the other could not bear."""

    place: str  # a field, as in forecast.horizons[].volatility; of headers and topics likewise
    rule: str  # JSON Schema's keyword, or the part of AsyncAPI
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}: expected {self.expected}, got {self.got}; {MEND}"


class Contract(NamedTuple):
    """What a release says of its topics and messages."""

    asyncapi: Schema
    schemas: Mapping[str, Schema]  # by file name

    @classmethod
    def read(cls, folder: Path) -> Contract:
        """Read ``asyncapi.yaml`` and all of ``schemas`` below a folder."""
        paths = sorted((folder / "schemas").glob("*.json"))
        return cls(
            yaml.safe_load((folder / "asyncapi.yaml").read_text()),
            {path.name: json.loads(path.read_text()) for path in paths},
        )


def released(docs: Path) -> Path:
    """Return the folder of the last release's contract."""
    [folder] = (docs / "released").iterdir()
    return folder


def keep(docs: Path, version: str) -> None:
    """Make the contract of now the last release's."""
    shutil.rmtree(docs / "released", ignore_errors=True)
    folder = docs / "released" / version
    shutil.copytree(docs / "schemas", folder / "schemas")
    shutil.copy(docs / "asyncapi.yaml", folder / "asyncapi.yaml")


def changes(then: Contract, now: Contract) -> Iterator[Change]:
    """Yield what readers of either could not bear of the other."""
    for name, channel in then.asyncapi["channels"].items():
        other = now.asyncapi["channels"].get(name, {})
        if other.get("address") != channel["address"]:
            yield Change(
                channel["address"], "topic", "that it stays", str(other.get("address", "none"))
            )
        for message in channel["messages"].keys() - other.get("messages", {}).keys():
            yield Change(f"{channel['address']}: {message}", "message", "that it stays", "none")
    messages = now.asyncapi["components"]["messages"]
    for name, message in then.asyncapi["components"]["messages"].items():
        if name in messages:
            yield from _message_changes(name, message, messages[name], then, now)


def _message_changes(
    name: str, old: Schema, new: Schema, then: Contract, now: Contract
) -> Iterator[Change]:
    for part in ("contentType", "payload"):
        reference = [side.get(part, {}) for side in (old, new)]
        plain = [side.get("$ref") if isinstance(side, dict) else side for side in reference]
        if plain[0] != plain[1]:
            yield Change(name, part, str(plain[0]), str(plain[1]))
    yield from schema_changes(f"{name} headers", old["headers"], new["headers"])
    keys = [side["bindings"]["kafka"]["key"] for side in (old, new)]
    yield from schema_changes(f"{name} key", *keys)
    file = f"{name}.v1.json"
    if file in then.schemas:
        yield from schema_changes(name, then.schemas[file], now.schemas.get(file, {}))


def schema_changes(place: str, then: Schema, now: Schema) -> Iterator[Change]:
    """Yield the changes between two whole schemas of one message, by place in the message."""
    yield from _Comparison(then, now).changes(place, then, now)


RISING: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
FALLING: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
FILLED: Final = ("minItems", "minProperties")
"""Readers take the first of what is never empty."""

EQUAL: Final = ("$id", "const", "format")


@dataclass(frozen=True)
class _Comparison:
    """Compares two schemas, of which each resolves its own references."""

    then_root: Schema
    now_root: Schema

    def changes(self, place: str, then: Schema, now: Schema) -> Iterator[Change]:
        old_kinds, then = _plain(self.then_root, then)
        new_kinds, now = _plain(self.now_root, now)
        if old_kinds != new_kinds:
            yield Change(place, "type", _words(old_kinds), _words(new_kinds))
            return
        yield from self._values(place, then, now)
        yield from self._fields(place, then, now)
        for keyword, sign in (("items", "[]"), ("additionalProperties", "{}")):
            old, new = then.get(keyword, True), now.get(keyword, True)
            if isinstance(old, dict) and isinstance(new, dict):
                yield from self.changes(place + sign, old, new)
            elif old != new and new is not True:
                yield Change(place, keyword, "what was there", _shown(new))

    def _values(self, place: str, then: Schema, now: Schema) -> Iterator[Change]:
        for keyword in EQUAL:
            if then.get(keyword) != now.get(keyword):
                yield Change(place, keyword, _shown(then.get(keyword)), _shown(now.get(keyword)))
        gone = set(then.get("enum", [])) - set(now.get("enum", then.get("enum", [])))
        if gone or ("enum" in now and "enum" not in then):
            yield Change(place, "enum", _words(gone) if gone else "any value", _shown(now["enum"]))
        if "pattern" in now and now["pattern"] != then.get("pattern"):
            yield Change(place, "pattern", then.get("pattern", "none"), now["pattern"])
        for keyword in (*RISING, *FALLING):
            old, new = then.get(keyword), now.get(keyword)
            is_narrow = new is not None and (
                old is None or (new > old if keyword in RISING else new < old)
            )
            is_empty = keyword in FILLED and old is not None and (new is None or new < old)
            if is_narrow or is_empty:
                yield Change(place, keyword, _shown(old), _shown(new))

    def _fields(self, place: str, then: Schema, now: Schema) -> Iterator[Change]:
        old, new = then.get("properties", {}), now.get("properties", {})
        for name in old:
            inner = f"{place}.{name}"
            if name not in new:
                yield Change(inner, "properties", "the field", "none")
            elif name in then.get("required", []) and name not in now.get("required", []):
                yield Change(inner, "required", "a field that is always there", "an optional one")
            else:
                yield from self.changes(inner, old[name], new[name])
        for name in now.get("required", []):
            if name not in then.get("required", []):
                yield Change(
                    f"{place}.{name}", "required",
                    "a field with a default, since messages of before lack it", "a required one",
                )  # fmt: skip


def _plain(root: Schema, node: Schema) -> tuple[frozenset[str], Schema]:
    """Return the types of a node, and its one part that is not null, references resolved."""
    while "$ref" in node:
        target: Any = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    if "anyOf" not in node:
        kind = node.get("type", "any")
        return frozenset([kind] if isinstance(kind, str) else kind), node
    parts = [_plain(root, part) for part in node["anyOf"]]
    kinds = frozenset[str]().union(*(kinds for kinds, _ in parts))
    rest = [part for kinds, part in parts if kinds != {"null"}]
    return kinds, rest[0] if len(rest) == 1 else node


def _words(values: frozenset[str] | set[str]) -> str:
    return " or ".join(sorted(values))


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value)


def faults(docs: Path) -> list[str]:
    """Return a line for each change that is not accepted, and for what is accepted in vain."""
    folder = released(docs)
    found = [*changes(Contract.read(folder), Contract.read(docs))]
    path = folder / "accepted.yaml"
    reasons: dict[str, dict[str, str]] = yaml.safe_load(path.read_text()) if path.exists() else {}
    accepted = {(place, rule) for place, rules in reasons.items() for rule in rules}
    keys = {(change.place, change.rule) for change in found}
    return [
        *(
            f"readers of {folder.name}: {change}"
            for change in found
            if (change.place, change.rule) not in accepted
        ),
        *(
            f"{place}: {rule}: {path.name} accepts a change that is not there: take it out"
            for place, rule in sorted(accepted - keys)
        ),
    ]


def main() -> int:
    """Print the faults; return the exit code."""
    lines = faults(ROOT / "docs")
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
