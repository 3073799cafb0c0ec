"""Judges the rows of tables part by part, all at once in columns, and assembles the history."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.candles import INTERVALS_MS, MAX_NUMBER, MIN_PRICE, RejectReason, refusal
from shared.files.series import (
    DUPLICATE,
    HAIR,
    SOURCE,
    Array,
    History,
    HistoryError,
    Mask,
    Numbers,
    RejectedRow,
    SymbolRows,
    make_candle,
    row_of,
)
from shared.intervals import NEAR, Steps, closes_of, length_in_words
from shared.messages import END_MS, FIRST_MS, SYMBOL_PATTERN, short
from shared.window import obey_rules

TOLERATED: Final = 0.05
"""Share of the rows that one rule may reject before the table is refused."""

DETAILED: Final = 100_000
"""Most rejected rows kept one by one, unless bad rows are allowed; the others are counted."""

_TIME_BITS: Final = 44  # 300 years of milliseconds
_LEAST: Final = 5e-324  # number above 0
_SYMBOL: Final = re.compile(SYMBOL_PATTERN)

Fault = tuple[str, RejectReason]
"""Why a row cannot be read: the detail and the reason."""


@dataclass
class Rows:
    """Rows of one part of a table, read but not judged, n of them."""

    symbols: Sequence[str]  # names, each at most once
    codes: NDArray[np.int32]  # (n,), positions in symbols
    open_ms: Numbers  # (n,), UTC
    close_ms: Numbers | None  # (n,), UTC
    ohlcv: tuple[Array, ...]  # open, high, low, close, volume, each (n,)
    places: Numbers  # (n,)
    faults: Mapping[int, Fault] = field(default_factory=dict)  # of rows that could not be read


class Collector:
    """Takes the rows of tables part by part; in memory, no I/O."""

    def __init__(
        self, interval: str, symbols: Sequence[str] = (), *, allow_bad_rows: bool = False
    ) -> None:
        """Begin without a row.

        Args:
            interval: of all candles.
            symbols: the ones to keep, all if empty.
            allow_bad_rows: whether a rule may reject more than ``TOLERATED``.
        """
        self._interval = interval
        self._wanted = frozenset(symbols)
        self._allow = allow_bad_rows
        self._codes: dict[str, int] = {}
        self._kept: list[Rows] = []
        self._rejected: list[tuple[int, str, str]] = []  # place, detail, rule
        self._left_out: Counter[str] = Counter()
        self._total = 0

    def add(self, rows: Rows) -> None:
        """Judge some rows and keep the valid ones."""
        if self._wanted:
            # the others are out of question, whatever they hold
            wanted = np.array([name in self._wanted for name in rows.symbols] or [False], np.bool_)
            rows = _where(rows, wanted[rows.codes])
        self._total += len(rows.places)
        rows.ohlcv = _widened(rows.ohlcv)
        bad = self._broken(rows)
        if bad.any():
            self._reject(rows, np.flatnonzero(bad))
        rows.codes = self._renumbered(rows)
        self._kept.append(_where(rows, ~bad))

    def _broken(self, rows: Rows) -> Mask:
        """Return which rows (n,) break a rule of ``shared.candles.Candle``."""
        good = obey_rules(*rows.ohlcv)
        ends = closes_of(rows.open_ms, rows.close_ms, self._interval)
        good &= (rows.open_ms >= FIRST_MS) & (ends < END_MS)
        if rows.close_ms is not None:
            good &= (ends > rows.open_ms) & (ends <= rows.open_ms + INTERVALS_MS[self._interval])
        named = np.array([bool(_SYMBOL.fullmatch(name)) for name in rows.symbols], np.bool_)
        if not named.all():
            good &= named[rows.codes]
        bad = ~good
        bad[list(rows.faults)] = True
        return bad

    def _reject(self, rows: Rows, bad: Numbers) -> None:
        """Count the rows in some positions (k,) by their rule, and keep why of the first ones."""
        kept = len(bad) if self._allow else max(DETAILED - len(self._rejected), 0)
        for at in bad[:kept].tolist():
            detail, reason = rows.faults.get(at) or self._why(rows, at)
            self._rejected.append((int(rows.places[at]), detail, reason.value))
            self._left_out[reason.value] += 1
        if kept >= len(bad):
            return
        others = bad[kept:]
        faults = [rows.faults.get(at) for at in others.tolist()]
        self._left_out.update(fault[1].value for fault in faults if fault)
        unread = np.array([fault is not None for fault in faults], np.bool_)
        for reason, count in _reasons(rows, others[~unread]).items():
            self._left_out[reason.value] += count

    def _why(self, rows: Rows, at: int) -> Fault:
        open_ms = int(rows.open_ms[at])
        ends = closes_of(rows.open_ms, rows.close_ms, self._interval, slice(at, at + 1))
        opened, high, low, close, volume = (float(column[at]) for column in rows.ohlcv)
        symbol = rows.symbols[int(rows.codes[at])]
        try:
            make_candle(
                symbol,
                self._interval,
                (open_ms, int(ends[0])),
                (opened, high, low, close, volume),
                SOURCE,
            )
        except ValidationError as error:
            refused = refusal(error)
            mending = "" if _SYMBOL.fullmatch(symbol) else f"; --rename '{symbol}=NAME'"
            return refused.detail + mending, refused.reason
        raise AssertionError(f"expected a broken rule of {symbol} at {open_ms}")

    def _renumbered(self, rows: Rows) -> NDArray[np.int32]:
        """Return the codes of all parts together."""
        numbers = [self._codes.setdefault(name, len(self._codes)) for name in rows.symbols]
        if numbers == list(range(len(numbers))):
            return rows.codes
        return np.array(numbers or [0], np.int32)[rows.codes]

    def history(
        self, name: str, files: Sequence[str] = (), unused_columns: Sequence[str] = ()
    ) -> History:
        """Return the history; the collector is empty afterwards.

        Raises:
            HistoryError: without a candle, or without one of a wanted symbol, when a rule rejects
                too many rows, or when the times are of another interval.
        """
        series = self._series()
        rejected = tuple(
            RejectedRow(row_of(place)[1], detail, rule, files[row_of(place)[0]] if files else "")
            for place, detail, rule in sorted(self._rejected, key=lambda rejected: rejected[0])
        )
        self._check_share(name, rejected)
        self._check_symbols(name, series, rejected)
        check_steps(name, Steps.of(rows.open_ms for rows in series), self._interval)
        return History(
            name,
            self._interval,
            tuple(series),
            rejected,
            dict(sorted(self._left_out.items())),
            tuple(unused_columns),
            tuple(files),
        )

    def _series(self) -> list[SymbolRows]:
        names = sorted(self._codes)
        rank = np.empty(len(names), np.int64)
        rank[[self._codes[name] for name in names]] = np.arange(len(names))
        codes = np.concatenate([np.empty(0, np.int32), *(kept.codes for kept in self._kept)])
        open_ms = np.concatenate([np.empty(0, np.int64), *(kept.open_ms for kept in self._kept)])
        places = np.concatenate([np.empty(0, np.int64), *(kept.places for kept in self._kept)])
        keys = (rank[codes] << _TIME_BITS) | (open_ms - FIRST_MS)
        del codes
        order = None if (np.diff(keys) > 0).all() else np.argsort(keys, kind="stable")
        if order is not None:
            keys, places = keys[order], places[order]
            again = np.diff(keys, prepend=-1) == 0
            if again.any():
                self._reject_again(names, keys, places, order, again)
                order, keys, places = order[~again], keys[~again], places[~again]
            open_ms = open_ms[order]
        candles, close_ms = self._columns(order, len(keys))
        starts = np.searchsorted(keys, np.arange(len(names) + 1) << _TIME_BITS).tolist()
        return [
            SymbolRows(
                symbol,
                places[start:stop],
                open_ms[start:stop],
                None if close_ms is None else close_ms[start:stop],
                candles[start:stop],
            )
            for symbol, start, stop in zip(names, starts[:-1], starts[1:], strict=True)
            if stop > start
        ]

    def _columns(self, order: Numbers | None, count: int) -> tuple[Array, Numbers | None]:
        """Return the candles (n, 5) and their closes; the parts are let go on the way."""
        candles = np.empty((count, 5))
        parts = [list(kept.ohlcv) for kept in self._kept]
        close_ms = None
        if any(kept.close_ms is not None for kept in self._kept):
            ends = [closes_of(kept.open_ms, kept.close_ms, self._interval) for kept in self._kept]
            close_ms = np.concatenate(ends) if order is None else np.concatenate(ends)[order]
        self._kept.clear()
        for at in range(5):
            column = np.concatenate([np.empty(0), *(part[at] for part in parts)])
            for part in parts:
                part[at] = np.empty(0)
            candles[:, at] = column if order is None else column[order]
        return candles, close_ms

    def _reject_again(
        self, names: Sequence[str], keys: Numbers, places: Numbers, order: Numbers, again: Mask
    ) -> None:
        firsts = np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))
        later = np.flatnonzero(again)
        same = np.ones(len(later), np.bool_)
        for number in range(5):
            column = np.concatenate([kept.ohlcv[number] for kept in self._kept])[order]
            same &= column[firsts[later]] == column[later]
        self._left_out[DUPLICATE] += len(later)
        for at, is_same in zip(later.tolist(), same.tolist(), strict=True):
            first = int(firsts[at])
            if len(self._rejected) < DETAILED or self._allow:
                row, symbol = row_of(int(places[first]))[1], names[int(keys[at]) >> _TIME_BITS]
                detail = f"{symbol}: expected each candle once, got that of row {row} again" + (
                    "" if is_same else " with other values"
                )
                self._rejected.append((int(places[at]), detail, DUPLICATE))

    def _check_share(self, name: str, rejected: Sequence[RejectedRow]) -> None:
        most = max(self._left_out.values(), default=0)
        if self._allow or most <= TOLERATED * self._total:
            return
        rule = max(self._left_out, key=lambda rule: self._left_out[rule])
        first = next((row for row in rejected if row.rule == rule), rejected[0])
        raise HistoryError(
            f"{name}: {self._left_out[rule]:,} of {self._total:,} rows break a rule ({rule}), more "
            f"than {TOLERATED:.0%}; the first is {where(first)}: {first.detail}. Mend the file, or "
            "leave such rows out by --allow-bad-rows"
        )

    def _check_symbols(
        self, name: str, series: Sequence[SymbolRows], rejected: Sequence[RejectedRow]
    ) -> None:
        found = {rows.symbol for rows in series}
        absent = sorted(self._wanted - found)
        if found and not absent:
            return
        what = f"candles of {', '.join(absent)}" if absent else "candles"
        got = "none"
        if absent and (others := sorted(found | set(self._codes))):
            named = ", ".join(map(short, others[:10]))
            got += f" beside {named}" + (", …" if len(others) > 10 else "")
        why = ""
        if rejected:
            bad = sum(self._left_out.values())
            why = f"; {bad:,} bad rows, the first {where(rejected[0])}: {rejected[0].detail}"
        raise HistoryError(f"{name}: expected {what}, got {got}{why}")


def where(rejected: RejectedRow) -> str:
    """Return a rejected row's place in words."""
    return f"{rejected.file} row {rejected.row}".strip()


def check_steps(name: str, steps: Steps, interval: str) -> None:
    """Refuse times that are those of another interval; raises ``HistoryError``."""
    if not steps.contradict(interval):
        return
    usual = steps.usual_ms
    share = steps.counts.max() / steps.total
    other = steps.interval()
    mending = f"--interval {other}" if other else "another --interval"
    if usual and abs(usual * 1000 / INTERVALS_MS[interval] - 1) < NEAR:
        mending = "times in seconds? --columns time=open_ms lets their size tell the unit"
    expected = length_in_words(INTERVALS_MS[interval])
    raise HistoryError(
        f"{name}: expected candles {expected} apart ({interval}), got most "
        f"{length_in_words(usual)} apart ({share:.0%} of {steps.total:,} steps): {mending}"
    )


def _reasons(rows: Rows, bad: Numbers) -> Mapping[RejectReason, int]:
    """Return for which reasons the codec refuses the rows in some positions (k,), and how many."""
    values = np.column_stack([column[bad] for column in rows.ohlcv])  # (k, 5)
    least = np.array([_LEAST, _LEAST, _LEAST, _LEAST, 0])  # of open, high, low, close, volume
    finite = np.isfinite(values)
    broken = ~finite | (values < least) | (values > MAX_NUMBER)
    first = broken.argmax(axis=1)[:, None]  # the codec's reason is that of the first field
    infinite = (broken & ~finite).any(axis=1) & ~np.take_along_axis(finite, first, axis=1)[:, 0]
    unnamed = np.array([not _SYMBOL.fullmatch(name) for name in rows.symbols], np.bool_)
    ends = rows.open_ms if rows.close_ms is None else rows.close_ms
    outside = broken.any(axis=1) | unnamed[rows.codes[bad]] | (values[:, 2] < MIN_PRICE)
    outside |= (rows.open_ms[bad] < FIRST_MS) | (ends[bad] < FIRST_MS)
    outside |= (rows.open_ms[bad] >= END_MS) | (ends[bad] >= END_MS)
    counts = {
        RejectReason.NOT_FINITE: int(infinite.sum()),
        RejectReason.OUT_OF_RANGE: int((outside & ~infinite).sum()),
        RejectReason.INCONSISTENT: int((~outside & ~infinite).sum()),
    }
    return {reason: count for reason, count in counts.items() if count}


def _where(rows: Rows, kept: Mask) -> Rows:
    """Return some of the rows."""
    if kept.all():
        return rows
    return Rows(
        rows.symbols,
        rows.codes[kept],
        rows.open_ms[kept],
        None if rows.close_ms is None else rows.close_ms[kept],
        tuple(column[kept] for column in rows.ohlcv),
        rows.places[kept],
        faults_among(rows.faults, kept),
    )


def faults_among(faults: Mapping[int, Fault], kept: Mask) -> dict[int, Fault]:
    """Return the faults of the rows that are kept, by their positions among these."""
    positions = np.cumsum(kept) - 1
    return {int(positions[at]): fault for at, fault in faults.items() if kept[at]}


def _widened(ohlcv: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the columns with high and low as ``make_candle`` widens them."""
    opened, high, low, close, volume = ohlcv
    top, bottom = np.maximum(opened, close), np.minimum(opened, close)
    short = (high < top) & (top <= high * (1 + HAIR))
    tall = (low > bottom) & (bottom >= low * (1 - HAIR))
    if short.any():
        high = np.where(short, top, high)
    if tall.any():
        low = np.where(tall, bottom, low)
    return opened, high, low, close, volume
