"""Numbers as vendors write them: decimal comma, thousands, currency signs, K, M and B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shared.files.arrow import Array, Column, is_text, mask, pa, pc, whole
from shared.files.series import HistoryError, Mask

_SPACES: Final = " \t\u00a0\u202f\u2009"
_CURRENCY: Final = "$€£¥₹₩₽₺₿"
_SUFFIXES: Final = {"K": "e3", "M": "e6", "B": "e9", "T": "e12"}

_TAIL: Final = r"(?:[eE][+-]?[0-9]+|[KMBTkmbt])?$"
_GROUPS: Final = {
    ".": r"[0-9]{1,3}(?:[,' ][0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}",  # Indian: 1,23,456
    ",": r"[0-9]{1,3}(?:[.' ][0-9]{3})+",
}
"""Whole numbers in groups, by the decimal mark."""

_VALID: Final = {
    mark: rf"^[+-]?(?:(?:[0-9]+|{groups})(?:\{mark}[0-9]*)?|\{mark}[0-9]+){_TAIL}"
    for mark, groups in _GROUPS.items()
}
_PROOF: Final = {
    ".": r"^[+-]?(?:[0-9]*\.(?:[0-9]{0,2}|[0-9]{4,})|0*\.[0-9]+|[0-9]{4,}\.[0-9]+"
    r"|[0-9]{1,3}(?:[,' ][0-9]{2,3})+\.[0-9]*|[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{2,3},[0-9]{3})"
    + _TAIL,
    ",": r"^[+-]?(?:[0-9]*,(?:[0-9]{0,2}|[0-9]{4,})|0*,[0-9]+|[0-9]{4,},[0-9]+"
    r"|[0-9]{1,3}(?:[.' ][0-9]{3})+,[0-9]*|[0-9]{1,3}(?:\.[0-9]{3}){2,})" + _TAIL,
}
"""Numbers that can be read with one decimal mark alone."""


class Numerals:
    """Reads the number columns of one table, whose decimal mark it finds out once."""

    def __init__(self, name: str, decimal: str | None = None) -> None:
        """Begin with a known mark or with none.

        Args:
            name: of the table, for errors.
            decimal: the mark, ``.`` or ``,``; None to find out.
        """
        self._name = name
        self.decimal = decimal
        self._pointed: str | None = None  # a fraction by a point in the first part, "" for none

    def read(self, columns: Sequence[tuple[str, Column]]) -> list[tuple[Array, Mask]]:
        """Return of each named column the numbers (n,) and which cells are none; those are NaN.

        Raises:
            HistoryError: when numbers contradict each other or may mean two things.
        """
        if self.decimal is None:
            plain = [_plain(values) for _, values in columns]
            if None not in plain:
                self._note_points(columns)
                return [found for found in plain if found is not None]
            self._learn(columns)
        return [self._read(values) for _, values in columns]

    def _note_points(self, columns: Sequence[tuple[str, Column]]) -> None:
        if self._pointed is None:
            self._pointed = next((proof for proof in map(_point, columns) if proof), "")

    def _learn(self, columns: Sequence[tuple[str, Column]]) -> None:
        proofs: dict[str, str] = {".": self._pointed} if self._pointed else {}
        doubtful = ""
        for column, values in columns:
            if not is_text(values):
                continue
            is_simple = _with_commas(values) is not None  # nothing there is proof of a point
            text = whole(values) if is_simple else _stripped(values)
            for mark in [","] if is_simple else _PROOF:
                proof = _first(text, _PROOF[mark])
                if proof is not None:
                    proofs.setdefault(mark, f"{column} {proof!r}")
            doubt = None if proofs else _first(text, r"^[+-]?[0-9]{1,3},[0-9]{3}" + _TAIL)
            if doubt is not None:
                doubtful = doubtful or f"{column} {doubt!r}"
        if len(proofs) > 1:
            raise HistoryError(
                f"{self._name}: expected one decimal mark, got {proofs['.']} and {proofs[',']}: "
                "--decimal . or --decimal , says which it is"
            )
        if not proofs and doubtful:
            raise HistoryError(
                f"{self._name}: expected a number that can mean one thing, got {doubtful}: "
                "--decimal . for thousands, or --decimal , for a fraction"
            )
        self.decimal = next(iter(proofs), None)

    def _read(self, values: Column) -> tuple[Array, Mask]:
        is_comma = self.decimal == "," and is_text(values)
        found = _with_commas(values) if is_comma else _plain(values)
        if found is not None:
            return found
        mark = self.decimal or "."
        text = _stripped(values)
        good = pc.match_substring_regex(text, _VALID[mark])
        special = pc.is_in(pc.utf8_lower(text), _NOT_FINITE)
        plain = pc.replace_substring_regex(text, r"[,' ]" if mark == "." else r"[.' ]", "")
        plain = pc.replace_substring(plain, ",", ".")
        for suffix, exponent in _SUFFIXES.items():
            plain = pc.replace_substring_regex(plain, f"(?i){suffix}$", exponent)
        kept = pc.fill_null(pc.or_(good, special), fill_value=False)
        numbers = pc.cast(pc.if_else(kept, plain, None), pa.float64())
        return _floats(numbers), ~mask(kept)


_NOT_FINITE: Final = pa.array(["nan", "inf", "-inf", "infinity", "-infinity"])


def _plain(values: Column) -> tuple[Array, Mask] | None:
    """Return the numbers of a column that has nothing else, as programs write them; or None."""
    kind = values.type
    if pa.types.is_decimal(kind):  # by its digits, which rounds once
        values = pc.cast(values, pa.string())
    elif not is_text(values):
        return _typed(values)
    try:
        numbers = _floats(pc.cast(values, pa.float64()))
    except pa.ArrowInvalid:
        return None
    return numbers, mask(pc.is_null(values))


def _with_commas(values: Column) -> tuple[Array, Mask] | None:
    """Return the numbers of a column of texts with a comma each at most and no point; or None."""
    if pc.any(pc.match_substring(values, ".")).as_py():
        return None
    return _plain(pc.replace_substring(values, ",", "."))


def _point(named: tuple[str, Column]) -> str | None:
    column, values = named
    if not is_text(values):
        return None
    at = pc.index(pc.match_substring(values, "."), value=True).as_py()
    return None if at < 0 else f"{column} {values[at].as_py()!r}"


def _stripped(values: Column) -> Array:
    """Return cells without currency signs and outer spaces; minus signs are ASCII's."""
    text = pc.utf8_trim(whole(values), _SPACES + _CURRENCY)
    text = pc.replace_substring(text, "\u2212", "-")
    text = pc.replace_substring(text, "\u2019", "'")
    text = pc.replace_substring_regex(text, f"^([+-])[{_CURRENCY}]", r"\1")
    return pc.replace_substring_regex(text, "[\u00a0\u202f\u2009]", " ")


def _first(text: Array, pattern: str) -> str | None:
    for part in (text[:1000], text):  # most are found at once, and a pattern is slow
        at = pc.index(pc.match_substring_regex(part, pattern), value=True).as_py()
        if at >= 0:
            return str(part[at].as_py())
    return None


def _typed(values: Column) -> tuple[Array, Mask]:
    kind = values.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return np.full(len(values), np.nan), np.ones(len(values), np.bool_)
    return _floats(pc.cast(values, pa.float64(), safe=False)), mask(pc.is_null(values))


def _floats(values: Column) -> Array:
    return np.asarray(whole(values).to_numpy(zero_copy_only=False), np.float64)
