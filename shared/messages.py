"""The common form of every message, and the one account of what makes a value invalid."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, LiteralString, Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails, PydanticCustomError

_set = object.__setattr__  # a frozen message's own raises


class Message(BaseModel):
    """A frozen, strictly typed message, JSON in UTF-8; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="ignore")

    def encode(self) -> bytes:
        """Return the message as compact JSON in UTF-8."""
        return self.__pydantic_serializer__.to_json(self)

    @classmethod
    def trusted(cls, **fields: Any) -> Self:
        """Return the message of values that our own code has made, without validating them.

        All fields must be given. A tenth of the time of ``model_construct``, which looks for
        defaults and aliases at each call.
        """
        message = cls.__new__(cls)
        _set(message, "__dict__", fields)
        _set(message, "__pydantic_fields_set__", set(fields))
        _set(message, "__pydantic_extra__", None)
        _set(message, "__pydantic_private__", None)
        return message


class PartialValue(bytes):
    """The beginning of a message's value that could not be read, or was too large to keep.

    Readers of messages see it as any other value, which is too long or not JSON; those that put
    messages aside look at what it says of the whole.
    """

    about: dict[str, str]  # sizes and SHA-256 of what was cut
    fault: str  # why the message cannot be read; empty where it was only too large

    @classmethod
    def of(cls, whole: bytes, most: int, fault: str) -> Self:
        """Return the first ``most`` bytes of a value, and what the whole is."""
        part = cls(whole[:most])
        part.fault = fault
        part.about = measures("value", whole) if len(whole) > most else {}
        return part


def measures(name: str, whole: bytes) -> dict[str, str]:
    """Return size and SHA-256 of bytes of which only a part is kept."""
    digest = hashlib.sha256(whole).hexdigest()
    return {f"{name}-bytes": str(len(whole)), f"{name}-sha256": digest}


Place = tuple[int | str, ...]
"""A place in a JSON document: names of fields and numbers in arrays."""

MAX_DEPTH: Final = 8
"""Most parts of a place that are put in words; no message of ours is as deep."""


@dataclass(frozen=True)
class BrokenRule:
    """One rule that a value breaks."""

    place: Place
    rule: str  # by pydantic's name, as in greater_than, or our own
    message: str  # as in "expected more than 0, got -1"


FIRST_MS: Final = -2_208_988_800_000
"""Earliest time of any message: the start of 1900, UTC epoch milliseconds."""

END_MS: Final = 7_258_118_400_000
"""The time before which all others lie: the start of 2200, UTC epoch milliseconds."""

_CHARACTER: Final = r"A-Za-z0-9^=.\-_/&:!$+#@*'()"
SYMBOL_PATTERN: Final = rf"^[{_CHARACTER}](?:[{_CHARACTER} ]{{0,30}}[{_CHARACTER}])?$"
"""What a symbol may be; a comma it may not have, since that separates symbols in queries."""

_IN_WORDS: Final[dict[str, str]] = {
    SYMBOL_PATTERN: "1 to 32 letters of English, digits, spaces inside, or any of "
    ". - _ ^ = / & : ! $ + # @ * ' ( )",
}
"""What a pattern means."""

_EXPECTED: Final[dict[str, str]] = {
    "missing": "a value",
    "extra_forbidden": "no such field",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a string",
    "string_unicode": "text in UTF-8",
    "date_from_datetime_parsing": "a date such as 2026-01-31",
    "date_from_datetime_inexact": "a date without a time, such as 2026-01-31",
    "datetime_from_date_parsing": "a time such as 2026-01-31T12:00",
    "datetime_parsing": "a time such as 2026-01-31T12:00",
    "model_type": "an object",
    "tuple_type": "an array",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_pattern_mismatch": "{pattern}",
    "string_too_long": "text of at most {max_length} characters",
    "too_long": "an array of at most {max_length}",
    "too_short": "an array of at least {min_length}",
    "literal_error": "{expected}",
    "json_invalid": "JSON in UTF-8",
}
"""What a value should be, by the rule that pydantic names."""


def broken_rule(error: ErrorDetails) -> BrokenRule:
    """Return the rule that a validation error of pydantic's is about.

    An error of ``contradiction`` has its own message. The ``ValueError`` of a validator says what
    it expected; what it got is added.
    """
    place, rule, context = error["loc"], error["type"], error.get("ctx", {})
    if "field" in context:
        return BrokenRule((*place, context["field"]), rule, context["message"])
    got = _got(error)
    if FIRST_MS in context.values() or END_MS in context.values():
        expected = f"expected {TIME_EXPECTED}"
        got = shown(error["input"]) + unit_hint(error["input"])
    elif rule in _EXPECTED:
        limits = {
            name: _IN_WORDS.get(limit, limit) if isinstance(limit, str) else shown(limit)
            for name, limit in context.items()
        }
        expected = f"expected {_EXPECTED[rule].format_map(limits)}"
    elif rule == "value_error":
        expected = str(context["error"])
    else:
        expected = error["msg"].replace("Input should be", "expected", 1)
    return BrokenRule(place, rule, f"{expected}, got {got}" if got else expected)


TIME_EXPECTED: Final = "a time from 1900 to 2199 in UTC milliseconds"


def unit_hint(value: object) -> str:
    """Return the unit that a time may have instead of milliseconds, as a question; or nothing."""
    for unit, divisor in (("microseconds", 1000), ("nanoseconds", 1_000_000)):
        if isinstance(value, int) and FIRST_MS <= value // divisor < END_MS:
            return f": {unit}? divide by {divisor}"
    return ""


def contradiction(
    rule: LiteralString, field: str, expected: str, got: object
) -> PydanticCustomError:
    """Return the error for a validator of a whole model to raise about one of its fields."""
    message = f"expected {expected}, got {shown(got)}"
    return PydanticCustomError(rule, "{field}: {message}", {"field": field, "message": message})


def describe(error: ErrorDetails) -> str:
    """Return one validation error as ``field: expected this, got that``."""
    broken = broken_rule(error)
    if not broken.place and broken.rule not in _EXPECTED:
        return broken.message  # of a whole model, and names its fields itself
    return f"{field_name(broken.place) or 'value'}: {broken.message}"


def field_name(place: Place) -> str:
    """Return a place in words: ``("history", 17, "high")`` is ``history[17].high``.

    A name may be of a client's making and of any length, so it is shortened.
    """
    name = ""
    for part in place[:MAX_DEPTH]:
        name += f"[{part}]" if isinstance(part, int) else f".{printable(short(part))}"
    return name.removeprefix(".")


def short(text: str, most: int = 60) -> str:
    """Return text of at most ``most`` characters, the end left off where it is longer."""
    return text if len(text) <= most else text[: most - 3] + "..."


def printable(text: str) -> str:
    """Return text of others for a terminal: what would control it, or hide, is spelt out."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def shown(value: object) -> str:
    """Return a value for a message, as JSON and short; a whole number is without a point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"an array of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return printable(short(text))


def _got(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "nothing"
    if error["type"] == "json_invalid":
        return str(error["ctx"]["error"])
    if not error["loc"] and error["type"] not in _EXPECTED:
        return ""
    return shown(error["input"])
