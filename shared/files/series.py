"""A history: the valid candles of a table by symbol, in columns, and every row that is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import Candle, RejectReason
from shared.intervals import closes_of
from shared.messages import FIRST_MS

HAIR: Final = 1e-6
"""How far, relatively, a price may overstep high or low: some roundings of a 32-bit float."""

DUPLICATE: Final = "duplicate"
"""The rule that a candle comes once; the other rules are named as their reasons."""

SOURCE: Final = "replay"
"""Source of the candles of files, as their messages name it."""

_ROW_BITS: Final = 40
_BLOCK: Final = 4096

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]


class HistoryError(Exception):
    """A table that cannot be read as candles, with the way to mend it."""


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not a valid candle, and the rule it breaks."""

    row: int  # as an editor numbers lines
    detail: str
    rule: str  # a RejectReason, or DUPLICATE
    file: str = ""  # of several

    @property
    def reason(self) -> RejectReason:
        """Why, as metrics and dead letters have it."""
        return reason_of(self.rule)


def reason_of(rule: str) -> RejectReason:
    """Return the reason by which a rule is counted: a second candle contradicts the first."""
    return RejectReason.INCONSISTENT if rule == DUPLICATE else RejectReason(rule)


@dataclass(frozen=True)
class SymbolRows:
    """One symbol's candles with their places in the tables, oldest first, n of them."""

    symbol: str
    places: Numbers  # (n,), see place_of
    open_ms: Numbers  # (n,), UTC, rising
    close_ms: Numbers | None  # (n,), UTC; None: one interval after the opening
    candles: Array  # (n, 5): open, high, low, close, volume

    def after(self, time_ms: int) -> SymbolRows:
        """Return the candles that open after a time."""
        first = int(np.searchsorted(self.open_ms, time_ms, "right"))
        closes = None if self.close_ms is None else self.close_ms[first:]
        return SymbolRows(
            self.symbol, self.places[first:], self.open_ms[first:], closes, self.candles[first:]
        )


def place_of(file: int, rows: Numbers) -> Numbers:
    """Return the places of rows (n,) of the file of a number: one integer holds both."""
    return rows | np.int64(file << _ROW_BITS)


def row_of(place: int) -> tuple[int, int]:
    """Return the file's number and the row of a place."""
    return place >> _ROW_BITS, place & ((1 << _ROW_BITS) - 1)


@dataclass(frozen=True)
class History:
    """The valid candles of one or more tables, by symbol, and what is to be said about them."""

    name: str
    interval: str
    series: tuple[SymbolRows, ...]  # by symbol
    rejected: tuple[RejectedRow, ...] = ()  # in order of the tables
    left_out: Mapping[str, int] = field(default_factory=dict)  # rule -> number of all its rows
    unused_columns: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # of several; a place names one by its number
    notes: tuple[str, ...] = ()  # how the tables were understood
    warnings: tuple[str, ...] = ()  # of the tables as a whole

    @classmethod
    def of(cls, name: str, candles: Iterable[Candle], interval: str = "1d") -> History:
        """Return the history of some valid candles, each there once."""
        ordered = sorted(candles, key=lambda candle: (candle.symbol, candle.open_ms))
        series = tuple(
            _rows_of(symbol, list(group))
            for symbol, group in groupby(ordered, key=lambda candle: candle.symbol)
        )
        return cls(name, interval, series)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols, sorted."""
        return tuple(rows.symbol for rows in self.series)

    @property
    def count(self) -> int:
        """The number of candles."""
        return sum(len(rows.open_ms) for rows in self.series)

    @cached_property
    def candles(self) -> tuple[Candle, ...]:
        """All candles in the order of ``stream``: for histories of moderate length."""
        return tuple(self.stream())

    def stream(self, after_ms: Mapping[str, int] | None = None) -> Iterator[Candle]:
        """Yield the candles as a market would have delivered them, by (open_ms, symbol).

        Args:
            after_ms: by symbol, the time after which a candle must open; all without one.
        """
        newest = after_ms or {}
        series = [rows.after(newest.get(rows.symbol, FIRST_MS - 1)) for rows in self.series]
        lengths = [len(rows.open_ms) for rows in series]
        times = np.concatenate([np.empty(0, np.int64), *(rows.open_ms for rows in series)])
        numbers = np.repeat(np.arange(len(series)), lengths)
        order = np.argsort(times, kind="stable")  # equal times stay by symbol
        starts = np.cumsum([0, *lengths])
        for start in range(0, len(order), _BLOCK):
            for at in order[start : start + _BLOCK].tolist():
                number = int(numbers[at])
                yield self._candle(series[number], at - int(starts[number]))

    def _candle(self, rows: SymbolRows, at: int) -> Candle:
        opened, high, low, close, volume = rows.candles[at].tolist()
        return Candle.trusted(
            open=opened,
            high=high,
            low=low,
            close=close,
            volume=volume,
            symbol=rows.symbol,
            interval=self.interval,
            open_ms=int(rows.open_ms[at]),
            close_ms=int(
                closes_of(rows.open_ms, rows.close_ms, self.interval, slice(at, at + 1))[0]
            ),
            source=SOURCE,
        )


def _rows_of(symbol: str, candles: list[Candle]) -> SymbolRows:
    values = [
        (candle.open, candle.high, candle.low, candle.close, candle.volume) for candle in candles
    ]
    return SymbolRows(
        symbol,
        np.zeros(len(candles), np.int64),
        np.array([candle.open_ms for candle in candles], np.int64),
        np.array([candle.close_ms for candle in candles], np.int64),
        np.array(values, np.float64),
    )


def make_candle(
    symbol: str,
    interval: str,
    times: tuple[int, int],
    ohlcv: tuple[float, float, float, float, float],
    source: str,
) -> Candle:
    """Return a candle of computed prices, its high and low widened by at most ``HAIR``.

    Adjusted prices are products of rounded factors, so that a close may lie a hair above its
    high. That is not an error of the market's: high and low then take the close's own value. A
    larger contradiction stays and is refused.

    Args:
        symbol: of the candle.
        interval: of the candle.
        times: ``open_ms, close_ms``.
        ohlcv: open, high, low, close, volume.
        source: who says so.

    Raises:
        ValidationError: naming the rule that is broken.
    """
    opened, high, low, close, volume = ohlcv
    top, bottom = max(opened, close), min(opened, close)
    return Candle(
        symbol=symbol,
        interval=interval,
        open_ms=times[0],
        close_ms=times[1],
        open=opened,
        high=top if high < top <= high * (1 + HAIR) else high,
        low=bottom if low > bottom >= low * (1 - HAIR) else low,
        close=close,
        volume=volume,
        source=source,
    )
