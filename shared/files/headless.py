"""Tables without a header, whose columns are unmistakable by what they hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from shared.files.columns import PRICES, Layout
from shared.messages import END_MS, FIRST_MS

_DATE: Final = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ]\d.*)?|(19|20|21)\d{6}([T ]\d{4,6})?"
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}.*"
)
_EPOCH: Final = re.compile(r"-?\d{9,19}(\.\d+)?")
_SYMBOL: Final = re.compile(r"[A-Za-z^][^,]{0,31}")
_CLOCK: Final = re.compile(r"\d{1,2}:\d{2}(:\d{2}.*)?")
_FEWEST: Final = 3
"""Fewest rows that show which is the open and which the close."""


def layout(sample: Sequence[Sequence[str]]) -> Layout | None:
    """Return the layout of rows without names, or None where it may be mistaken.

    A time, four prices of which the second is the highest and the third the lowest, a volume:
    the order of Binance, MetaTrader, HistData and freqtrade. The first price is the open where
    each lies nearer to the close before than the last one to the open before; Binance's twelve
    columns, with the end of each candle, need no such proof.
    """
    rows = [list(row) for row in sample if any(cell.strip() for cell in row)]
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    roles = _times(rows)
    at = len(roles)
    if not roles or len(rows[0]) < at + 5:
        return None
    numbers = [_numbers(row[at : at + 5]) for row in rows]
    prices = [values for values in numbers if values is not None and _is_candle(values)]
    if len(prices) < len(rows) or all(high == low for _, high, low, _, _ in prices):
        return None
    if all(low <= volume <= high for _, high, low, _, volume in prices):
        return None  # an average price, as Kraken has it before the volume
    if not (_is_binance(rows, at) or _opens_first(rows, prices)):
        return None
    roles |= {role: at + number for number, role in enumerate((*PRICES, "volume"))}
    taken = set(roles.values())
    unused = tuple(str(number + 1) for number in range(len(rows[0])) if number not in taken)
    return Layout(((None, roles),), unused)


def _times(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the roles of the first columns: a symbol perhaps, a time, a time of day perhaps."""
    roles: dict[str, int] = {}
    if not _is_time(rows, 0):
        if not all(_SYMBOL.fullmatch(row[0].strip()) for row in rows):
            return {}
        roles["symbol"] = 0
    at = len(roles)
    if at >= len(rows[0]) or not _is_time(rows, at):
        return {}
    roles["time"] = at
    if at + 1 < len(rows[0]) and all(_CLOCK.fullmatch(row[at + 1].strip()) for row in rows):
        roles["clock"] = at + 1
    return roles


def _is_time(rows: Sequence[Sequence[str]], at: int) -> bool:
    cells = [row[at].strip() for row in rows]
    return all(_DATE.fullmatch(cell) or _is_epoch(cell) for cell in cells)


def _is_epoch(cell: str) -> bool:
    if not _EPOCH.fullmatch(cell):
        return False
    return any(FIRST_MS <= float(cell) * factor < END_MS for factor in (1000, 1, 1e-3, 1e-6))


def _numbers(cells: Sequence[str]) -> list[float] | None:
    try:
        return [float(cell.strip().replace(",", ".")) for cell in cells]
    except ValueError:
        return None


def _is_candle(values: Sequence[float]) -> bool:
    opened, high, low, close, volume = values
    return 0 < low <= min(opened, close) and max(opened, close) <= high and volume >= 0


def _is_binance(rows: Sequence[Sequence[str]], at: int) -> bool:
    """Return True when the column after the volume is the candle's last unit of time."""
    if at != 1 or len(rows[0]) not in {11, 12}:
        return False
    ends = [row[6].strip() for row in rows]
    return all(_EPOCH.fullmatch(end) and end.endswith("999") for end in ends)


def _opens_first(rows: Sequence[Sequence[str]], prices: Sequence[Sequence[float]]) -> bool:
    if len(rows) < _FEWEST:
        return False
    forwards = list(pairwise(prices))
    kept = [
        sum(abs(later[first] - earlier[last]) for earlier, later in pairs)
        for pairs in (forwards, [(later, earlier) for earlier, later in forwards])
        for first, last in ((0, 3), (3, 0))
    ]
    rising = list(rows[0][:2]) < list(rows[-1][:2])
    opens, closes = (kept[0], kept[1]) if rising else (kept[2], kept[3])
    return opens < closes
