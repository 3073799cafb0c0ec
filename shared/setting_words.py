"""Words for the types and defaults of settings, for ``--help`` and ``docs/settings.md``."""

from __future__ import annotations

import types
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

PLACEHOLDERS: Final[dict[object, str]] = {
    int: "NUMBER",
    float: "NUMBER",
    str: "TEXT",
    Path: "PATH",
    date: "DATE",
    datetime: "TIME",
}
"""Names of a flag's value in ``--help``, by type."""

WORDS: Final[dict[object, str]] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "on or off",
    SecretStr: "secret",
    Path: "path",
    date: "date",
    datetime: "date and time",
}
"""Names of the types in the page of settings."""

PLURALS: Final[dict[object, str]] = {int: "whole numbers", float: "numbers", str: "texts"}
"""Names of the types of which a setting takes several."""


def placeholder(annotation: object) -> str | None:
    """Return the name of a flag's value in ``--help``; None where its choices say it."""
    plain = bare(annotation)
    if get_origin(plain) is tuple:
        return "A,B,..." if get_args(plain)[0] is str else "N,N,..."
    if get_origin(plain) is Literal and "," in get_args(plain):
        return f"{{{' '.join(get_args(plain))}}}"
    return PLACEHOLDERS.get(plain)


def type_in_words(field: FieldInfo) -> str:
    """Return a field's type with its bounds, such as ``whole number from 1 to 64``."""
    plain = bare(field.annotation)
    if get_origin(plain) is tuple:
        return f"{PLURALS[get_args(plain)[0]]}, by comma"
    if get_origin(plain) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(plain))
    return f"{WORDS[plain]}{bounds_in_words(field)}"


def bounds_in_words(field: FieldInfo) -> str:
    """Return a field's bounds as what follows its type; nothing when it has none."""
    words = ""
    for bound in field.metadata:
        match bound:
            case Ge(ge):
                words += f" from {ge}"
            case Gt(gt):
                words += f" above {gt}"
            case Le(le):
                words += f" to {le}"
            case Lt(lt):
                words += f" below {lt}"
    return words


def default_in_words(field: FieldInfo) -> str:
    """Return a field's default; nothing where its description has to say it."""
    default = field.default
    if default is PydanticUndefined or default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def bare(annotation: Any) -> Any:
    """Return a type without ``Annotated`` and without ``None``."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        [kind] = [part for part in get_args(annotation) if part is not type(None)]
        return bare(kind)
    return annotation
