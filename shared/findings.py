"""What is wrong or odd about a table of candles, told by rule and by row."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import INTERVALS_MS
from shared.history import RejectedRow

SHOWN: Final = 10
"""Bad rows, or symbols of a rule, that are told one by one; the others are counted."""

NEAR: Final = 0.5
"""Share of the interval below which two candles are too near: daylight saving takes an hour."""

COLUMNS: Final = ("row", "symbol", "open_ms", "left_out", "rule")
"""Of the file of all rows."""


@dataclass(frozen=True)
class Finding:
    """Something odd about a symbol's valid candles; they are used, but should be known of."""

    symbol: str
    rule: str
    rows: tuple[int, ...]  # of the table, as an editor numbers lines; 0 where they are not known
    open_ms: tuple[int, ...]  # of the same candles, UTC

    @property
    def count(self) -> int:
        """The number of candles."""
        return len(self.rows)

    @property
    def first_ms(self) -> int:
        """Opening time of the first one, UTC."""
        return self.open_ms[0]


@dataclass(frozen=True)
class SymbolRows:
    """One symbol's candles with their rows in the table, oldest first, n of them."""

    symbol: str
    rows: NDArray[np.int64]  # (n,)
    open_ms: NDArray[np.int64]  # (n,), UTC, rising
    candles: NDArray[np.float64]  # (n, 5): open, high, low, close, volume

    def finding(self, rule: str, broken: NDArray[np.bool_]) -> Finding:
        """Return what a rule finds, of the candles that break it (n,)."""
        rows, open_ms = self.rows[broken].tolist(), self.open_ms[broken].tolist()
        return Finding(self.symbol, rule, tuple(rows), tuple(open_ms))


def of_symbol(one: SymbolRows, interval: str) -> list[Finding]:
    """Return what is odd about a symbol's candles."""
    _, high, low, closed, volume = one.candles.T
    jumps = np.abs(np.diff(np.log(closed), prepend=np.log(closed[:1]))) > np.log(2)
    near = np.diff(one.open_ms, prepend=one.open_ms[0] - INTERVALS_MS[interval])
    rules = {
        "after a row of a later time: sorted": _late(one),
        "no volume": volume == 0,
        "halted: one price all along": high == low,
        "the close doubled or halved: a split that prices are not adjusted for?": jumps,
        f"less than half of {interval} after the one before: another interval, or times that are "
        "not milliseconds?": near < NEAR * INTERVALS_MS[interval],
    }
    return [one.finding(rule, broken) for rule, broken in rules.items() if broken.any()]


def _late(one: SymbolRows) -> NDArray[np.bool_]:
    """Return which candles (n,) stand below one of a later time in the table."""
    downwards = np.argsort(one.rows, kind="stable")
    times = one.open_ms[downwards]
    late = np.zeros(len(times), dtype=np.bool_)
    late[downwards] = times < np.maximum.accumulate(times)
    return late


def too_short(one: SymbolRows, window_length: int) -> list[Finding]:
    """Return a finding for a symbol that never fills one window."""
    if len(one.rows) >= window_length:
        return []
    rule = f"history too short: expected at least {window_length} candles"
    return [one.finding(rule, np.ones(len(one.rows), dtype=np.bool_))]


def lines(
    rejected: Sequence[RejectedRow], findings: Sequence[Finding], unused_columns: Sequence[str]
) -> Iterator[str]:
    """Yield what to tell, a line each: bad rows, their number by rule, odd candles, columns."""
    for bad in rejected[:SHOWN]:
        yield f"row {bad.row}: {bad.detail}: left out"
    if rejected:
        counts = sorted(Counter(str(one.reason) for one in rejected).items())
        by_rule = ", ".join(f"{count:,} {reason}" for reason, count in counts)
        yield f"{_rows(len(rejected))} left out: {by_rule}"
    ordered = sorted(findings, key=lambda one: one.rule)  # stable: symbols keep their order
    for rule, found in groupby(ordered, lambda one: one.rule):
        yield from _by_symbol(rule, list(found))
    if unused_columns:
        yield f"columns that are not used: {', '.join(map(repr, unused_columns))}"


def _by_symbol(rule: str, found: list[Finding]) -> Iterator[str]:
    for one in found[:SHOWN]:
        row = f", row {one.rows[0]}" if one.rows[0] else ""
        candles = f"{one.count:,} candle{'s' if one.count > 1 else ''}"
        yield f"{one.symbol}: {rule} ({candles}, the first of {_time(one.first_ms)}{row})"
    others = found[SHOWN:]
    if others:
        total = sum(one.count for one in others)
        yield f"{len(others):,} other symbols: {rule} ({total:,} candles)"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count > 1 else ''}"


def _time(millis: int) -> str:
    return f"{datetime.fromtimestamp(millis / 1000, UTC):%Y-%m-%d %H:%M}".removesuffix(" 00:00")


def write(path: Path, rejected: Sequence[RejectedRow], findings: Sequence[Finding]) -> None:
    """Write every bad or odd row to a CSV file, in order of the table.

    Raises:
        OSError: when it cannot be written.
    """
    told = [(one.row, "", "", "yes", one.detail) for one in rejected]
    for found in findings:
        told += [
            (row, found.symbol, str(open_ms), "no", found.rule)
            for row, open_ms in zip(found.rows, found.open_ms, strict=True)
        ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(told))


def of_all(tables: Mapping[str, SymbolRows], interval: str) -> tuple[Finding, ...]:
    """Return what is odd about every symbol's candles."""
    return tuple(found for one in tables.values() for found in of_symbol(one, interval))
