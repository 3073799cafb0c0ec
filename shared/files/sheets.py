"""A table as it is in its file: names of columns and rows part by part, whatever the form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.files.arrow import Column
from shared.files.collector import Fault
from shared.files.series import Numbers

SAMPLE: Final = 200
"""Rows that tell what a table's columns hold."""

SHOWN: Final = 3
"""Most files of which it is said one by one that they are named after a symbol."""


@dataclass(frozen=True)
class Part:
    """Some rows of a table, n of them."""

    columns: Mapping[int, Column]  # (n,) each, by position
    rows: Numbers  # (n,), as an editor numbers lines
    faults: Mapping[int, Fault] = field(default_factory=dict)  # of rows with too many values


@dataclass(frozen=True)
class Sheet:
    """One table of a file."""

    name: str  # for people
    stem: str  # the file's name without endings
    form: str  # in words
    names: tuple[str, ...] | None  # of its columns; None: it has no header
    sample: Sequence[Sequence[str]]  # some of its rows
    parts: Callable[[Sequence[int]], Iterator[Part]]  # of the columns in some positions
    width: int = 0  # number of columns
    below: tuple[str, ...] | None = None  # a second row of names, of a table for many symbols
    symbol: str | None = None  # as the file says it beside its rows


@dataclass
class Notes:
    """What is to be said of the tables, each once, in order."""

    forms: dict[str, None] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    times: dict[str, None] = field(default_factory=dict)
    symbols: dict[str, None] = field(default_factory=dict)
    unused: dict[str, None] = field(default_factory=dict)
    headers: int = 0  # repeated among the rows
    blank: int = 0  # rows without a value
    raw_volume: int = 0  # leaps of adj_close / close beside a volume as traded

    def lines(self) -> Iterator[str]:
        """Yield how the tables were understood."""
        yield f"form: {'; '.join(self.forms)}"
        yield f"columns: {'; '.join(self.columns)}"
        yield f"times: {', '.join(self.times) or 'none'}"
        if len(self.symbols) > SHOWN:
            yield f"symbols: {len(self.symbols):,} by the names of their files"
        else:
            yield from self.symbols

    def warnings(self) -> Iterator[str]:
        """Yield what may be wrong with the tables as a whole."""
        if self.headers:
            yield f"header repeated among the rows: {self.headers:,} left out"
        if self.blank:
            yield f"rows without any value: {self.blank:,} left out"
        if self.raw_volume:
            yield (
                f"prices are scaled by adj_close over {self.raw_volume:,} splits, the volume is as "
                "traded and leaps there: --columns adj_volume=NAME if the file has one"
            )
