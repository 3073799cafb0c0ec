"""One table's rows into candles' columns: its symbols, times and numbers, and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS, INTERVALS_MS, RejectReason
from shared.files import columns, headless
from shared.files.arrow import (
    Array,
    Column,
    codes_of,
    is_text,
    mask,
    matches,
    pa,
    pc,
    valid,
    whole,
)  # fmt: skip
from shared.files.collector import DETAILED, Fault, Rows, faults_among
from shared.files.columns import Layout
from shared.files.numerals import Numerals
from shared.files.packed import symbol_in
from shared.files.series import HistoryError, Mask, Numbers, place_of
from shared.files.sheets import Notes, Part, Sheet
from shared.files.times import TimeOptions, Times
from shared.history import ReadOptions
from shared.messages import SYMBOL_PATTERN, short, shown

_NUMBERS: Final = ("open", "high", "low", "close", "volume", "adj_close", "adj_volume")
_LEAP: Final = 0.17
"""Change of the logarithm of adj_close / close at a split of at least 6:5."""

_WORD: Final = r"^[^0-9]*[A-Za-z\x{80}-\x{10FFFF}]{2}|^[A-Za-z]$"
_Why = Callable[[int], Fault]
"""Returns why the row in a position of its part cannot be read."""


class Table:
    """Reads the rows of one sheet, part by part."""

    def __init__(
        self, sheet: Sheet, number: int, interval: str, options: ReadOptions, notes: Notes
    ) -> None:
        """Find out which column is what.

        Args:
            sheet: the table in its file.
            number: of the sheet among all.
            interval: of the candles.
            options: what the user says.
            notes: takes what is to be said.

        Raises:
            HistoryError: with every fault of the header.
        """
        self._sheet = sheet
        self._number = number
        self._options = options
        self._notes = notes
        self._layout = _layout(sheet, options, is_daily=INTERVALS_MS[interval] >= DAY_MS)
        roles = self._layout.groups[0][1]
        self._time = "open_ms" if "open_ms" in roles else "time"
        zone = ZoneInfo(options.timezone) if options.timezone else None
        self._times = Times(
            sheet.name,
            self._name(roles[self._time]),
            interval,
            TimeOptions(options.date_format, zone),
            in_ms=self._time == "open_ms",
        )
        self._numerals = Numerals(sheet.name, options.decimal)
        self._own = None if self._has_symbols else self._own_symbol()
        self._seen: set[str] = set()
        self._say()

    @property
    def _has_symbols(self) -> bool:
        symbol, roles = self._layout.groups[0]
        return symbol is not None or "symbol" in roles

    def rows(self) -> Iterator[Rows]:
        """Yield the rows of each part, of a wide table those of each symbol.

        Raises:
            HistoryError: when a value may mean two things, or a header has another order.
        """
        for part in self._sheet.parts(self._layout.used):
            kept = self._without_blank(part)
            times = self._opening(kept)
            for symbol, roles in self._layout.groups:
                yield self._rows(kept, times, symbol, roles)
        for words in self._times.words:
            self._notes.times[words] = None
        comma = ", decimal comma" if self._numerals.decimal == "," else ""
        self._notes.forms[f"{self._sheet.form}{comma}"] = None

    def first_times(self) -> list[Numbers]:
        """Return the opening times of each symbol in the first part, rising, each once."""
        part = next(self._sheet.parts(self._layout.used), None)
        if part is None:
            return []
        part = self._without_blank(part)
        open_ms, bad = self._opening(part)
        symbol, roles = self._layout.groups[0]
        codes = self._symbols(part, symbol, roles)[1]
        return [np.unique(open_ms[(codes == code) & ~bad]) for code in np.unique(codes)]

    def _say(self) -> None:
        roles = self._layout.groups[0][1]
        told = [f"{role} ← {self._name(at)}" for role, at in roles.items()]
        if self._layout.groups[0][0] is not None:
            told.append(f"… of {len(self._layout.groups)} symbols side by side")
        self._notes.columns[", ".join(told)] = None
        self._notes.unused.update(dict.fromkeys(self._layout.unused))

    def _name(self, at: int) -> str:
        return self._sheet.names[at] if self._sheet.names else f"column {at + 1}"

    def _own_symbol(self) -> str:
        """Return the symbol of a table that has no column for it; raises ``HistoryError``."""
        options, sheet = self._options, self._sheet
        if options.symbol:
            return options.symbol
        if sheet.symbol:
            return self._renamed(sheet.symbol)
        if len(options.symbols) == 1:
            return options.symbols[0]
        name = symbol_in(sheet.stem)
        if name is None or not re.fullmatch(SYMBOL_PATTERN, self._renamed(name)):
            raise HistoryError(
                f"{sheet.name}: expected a column of symbols, got none, and the file is not named "
                "after one: --symbol NAME, or --columns symbol=COLUMN"
            )
        said = f"symbol {name}: by the name of {sheet.name}; --symbol says another"
        self._notes.symbols[said] = None
        return self._renamed(name)

    def _renamed(self, name: str) -> str:
        return self._options.rename.get(name, name)

    def _opening(self, part: Part) -> tuple[Numbers, Mask]:
        roles = self._layout.groups[0][1]
        clock = part.columns[roles["clock"]] if "clock" in roles else None
        return self._times.read(part.columns[roles[self._time]], clock)

    def _without_blank(self, part: Part) -> Part:
        """Return a part without the rows that hold nothing and those that repeat the header."""
        blank = np.ones(len(part.rows), np.bool_)
        for at in self._layout.used:
            blank &= _blank(part.columns[at])
            if not blank.any():
                break
        self._notes.blank += int(blank.sum())
        repeated = self._headers(part) if self._sheet.names is not None else blank
        self._notes.headers += int((repeated & ~blank).sum())
        return _filtered(part, ~(blank | repeated))

    def _headers(self, part: Part) -> Mask:
        """Return which rows (n,) repeat the header; raises ``HistoryError`` for another order."""
        roles = self._layout.groups[0][1]
        found = np.zeros(len(part.rows), np.bool_)
        named = [roles[role] for role in columns.PRICES if is_text(part.columns[roles[role]])]
        if not named or _are_numbers(part.columns[named[0]]):
            return found
        words = np.ones(len(part.rows), np.bool_)
        for at in named:
            words &= matches(part.columns[at], _WORD)
        for row in np.flatnonzero(words).tolist():
            cells = {at: str(part.columns[at][row].as_py()) for at in self._layout.used}
            if all(self._is_name(at, cells[at]) for at in named):
                found[row] = True
            elif columns.recognised(cells.values()) >= 3:
                raise HistoryError(
                    f"{self._sheet.name}: row {part.rows[row]}: expected the order of the header "
                    f"({', '.join(self._name(at) for at in cells)}), got another header "
                    f"({', '.join(cells.values())}), from which on the columns are others: split "
                    "the file there"
                )
        return found

    def _is_name(self, at: int, cell: str) -> bool:
        names = [self._sheet.names, self._sheet.below]
        return any(
            each is not None and columns.plain(each[at]) == columns.plain(cell) for each in names
        )

    def _rows(
        self,
        part: Part,
        times: tuple[Numbers, Mask],
        symbol: str | None,
        roles: Mapping[str, int],
    ) -> Rows:
        open_ms, bad_time = times
        if symbol is not None:  # a wide table has blank cells where a symbol has no candle
            blank = np.ones(len(part.rows), np.bool_)
            for role in columns.PRICES:
                blank &= _blank(part.columns[roles[role]])
            part, open_ms, bad_time = _filtered(part, ~blank), open_ms[~blank], bad_time[~blank]
        names, codes = self._symbols(part, symbol, roles)
        wanted = [(role, part.columns[roles[role]]) for role in _NUMBERS if role in roles]
        named = [(self._name(roles[role]), values) for role, values in wanted]
        found = self._numerals.read(named)
        numbers = {role: values for (role, _), (values, _) in zip(wanted, found, strict=True)}
        faults = dict(part.faults)
        nameless = np.array([not name for name in names], np.bool_)[codes]
        self._add(faults, nameless, lambda _: _NO_SYMBOL)
        self._add(faults, bad_time, self._why_time(part.columns[roles[self._time]]))
        for (role, column), (_, bad) in zip(wanted, found, strict=True):
            self._add(faults, bad, _why_number(role, column))
        close_ms = self._closes(part, roles, faults)
        return Rows(
            names, codes, open_ms, close_ms, self._scaled(numbers, codes),
            place_of(self._number, part.rows), faults,
        )  # fmt: skip

    def _symbols(
        self, part: Part, symbol: str | None, roles: Mapping[str, int]
    ) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Return names, each once, and the position (n,) of each row's; an empty one for none."""
        count = len(part.rows)
        if symbol is not None or "symbol" not in roles:
            own = self._renamed(symbol) if symbol is not None else str(self._own)
            return (own,), np.zeros(count, np.int32)
        encoded = whole(pc.cast(part.columns[roles["symbol"]], pa.string())).dictionary_encode()
        given = [str(name).strip() for name in encoded.dictionary.to_pylist()]
        renamed = [self._renamed(name) for name in given]
        if self._options.symbol:
            renamed = self._single(renamed)
        names = list(dict.fromkeys([*renamed, ""]))
        places = np.array([*map(names.index, renamed), names.index("")], np.int32)
        return tuple(names), places[codes_of(encoded)]

    def _single(self, names: Sequence[str]) -> list[str]:
        """Return ``--symbol`` for the one symbol of a column; raises ``HistoryError`` for more."""
        self._seen.update(filter(None, names))
        if len(self._seen) > 1:
            raise HistoryError(
                f"{self._sheet.name}: expected one symbol for --symbol {self._options.symbol}, got "
                f"a column with {', '.join(map(short, sorted(self._seen)[:5]))}: --symbols chooses"
            )
        return [str(self._options.symbol) if name else name for name in names]

    def _why_time(self, column: Column) -> _Why:
        name = self._name(self._layout.groups[0][1][self._time]).strip() or "time"
        said = self._time if self._time == "open_ms" else name

        def why(at: int) -> Fault:
            detail = self._times.why(column[at].as_py())
            reason = (
                RejectReason.OUT_OF_RANGE if self._time == "open_ms" else RejectReason.WRONG_TYPE
            )
            return f"{said}: {detail}", reason

        return why

    def _add(self, faults: dict[int, Fault], bad: Mask, why: _Why) -> None:
        """Add the faults of rows (n,) that have none yet, in words as far as they are kept."""
        new = [at for at in np.flatnonzero(bad).tolist() if at not in faults]
        kept = len(new) if self._options.allow_bad_rows else DETAILED
        faults.update((at, why(at)) for at in new[:kept])
        if new[kept:]:
            faults.update(dict.fromkeys(new[kept:], ("", faults[new[0]][1])))

    def _closes(
        self, part: Part, roles: Mapping[str, int], faults: dict[int, Fault]
    ) -> Numbers | None:
        if "close_ms" not in roles:
            return None
        column = part.columns[roles["close_ms"]]
        reader = Times(self._sheet.name, "close_ms", "1m", TimeOptions(), in_ms=True)
        close_ms, bad = reader.read(column)
        self._add(
            faults, bad,
            lambda at: (f"close_ms: {reader.why(column[at].as_py())}", RejectReason.OUT_OF_RANGE),
        )  # fmt: skip
        return close_ms

    def _scaled(self, numbers: Mapping[str, Array], codes: NDArray[np.int32]) -> tuple[Array, ...]:
        """Return open, high, low, close and volume, scaled where there is an adj_close."""
        prices = [numbers[role] for role in columns.PRICES]
        volume = numbers.get("volume", np.zeros(len(codes)))
        if "adj_close" not in numbers:
            return (*prices, volume)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            factor = np.where(prices[3] != 0, numbers["adj_close"] / prices[3], 0.0)
            # one factor for all four: products keep their order, so high stays the highest
            prices = [price * factor for price in prices]
            if "adj_volume" in numbers:
                return (*prices, numbers["adj_volume"])
            order = np.argsort(codes, kind="stable")
            leaps = np.abs(np.diff(np.log(factor[order]))) > _LEAP
        self._notes.raw_volume += int((leaps & (np.diff(codes[order]) == 0)).sum())
        return (*prices, volume)


_NO_SYMBOL: Final[Fault] = ("symbol: expected a name, got ''", RejectReason.WRONG_TYPE)


def _layout(sheet: Sheet, options: ReadOptions, *, is_daily: bool) -> Layout:
    if sheet.below is not None and sheet.names is not None:
        return columns.two_levels(sheet.name, sheet.names, sheet.below)
    if sheet.names is not None:
        return columns.layout(
            sheet.name, sheet.names, sheet.sample, options.columns, is_daily=is_daily
        )
    found = headless.layout(sheet.sample) if not options.columns else None
    if found is not None:
        return found
    numbers = tuple(str(at + 1) for at in range(sheet.width))
    if options.columns:
        return columns.layout(
            sheet.name, numbers, sheet.sample, options.columns, is_daily=is_daily, has_header=False
        )
    first = ", ".join(sheet.sample[0])[:80] if sheet.sample else "no row"
    raise HistoryError(
        f"{sheet.name}: expected a header, got numbers in the first row ({first}), which may be "
        "more than one thing: --columns time=1,open=2,high=3,low=4,close=5,volume=6 says what"
    )


def _why_number(role: str, column: Column) -> _Why:
    def why(at: int) -> Fault:
        value = column[at].as_py()
        said = repr(value) if isinstance(value, str) else shown(value)
        got = "nothing" if value is None else short(said)
        return f"{role}: expected a number, got {got}", RejectReason.WRONG_TYPE

    return why


def _are_numbers(values: Column) -> bool:
    try:
        pc.cast(values, pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _blank(values: Column) -> Mask:
    """Return which cells (n,) hold nothing."""
    if is_text(values):
        return ~valid(values) | mask(pc.equal(values, ""))
    if pa.types.is_floating(values.type):
        return ~valid(values) | mask(pc.is_nan(values))
    return ~valid(values)


def _filtered(part: Part, kept: Mask) -> Part:
    if kept.all():
        return part
    chosen = pa.array(kept)
    return Part(
        {at: values.filter(chosen) for at, values in part.columns.items()},
        part.rows[kept],
        faults_among(part.faults, kept),
    )
