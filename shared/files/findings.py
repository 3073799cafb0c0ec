"""What is odd about the candles of a history, found by rule and told by the first of each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from shared.candles import DAY_MS, INTERVALS_MS, WEEKEND
from shared.files.collector import where
from shared.files.series import Array, History, Mask, Numbers, SymbolRows, row_of
from shared.intervals import FAR, length_in_words, shortest_step_ms

COLUMNS: Final = ("file", "row", "symbol", "open_ms", "left_out", "rule")
"""Columns of the file of all rows."""

SPLITS: Final = tuple(
    sorted(
        {(new, 1) for new in (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 100)}
        | {(3, 2), (4, 3), (5, 4), (5, 2)}
    )
)
"""Common splits: new shares for old ones."""

SHOWN: Final = 20
"""Most unused columns that are named."""

SPLIT: Final = "a split that prices are not adjusted for?"
JUMP: Final = "the close doubled or halved"
OUTLIER: Final = "outlier: far from the candles around it"
GAP: Final = "a gap before it"
NO_VOLUME: Final = "no volume"
HALTED: Final = "halted: one price all along"
LATE: Final = "after a row of a later time: sorted"
REVERSED: Final = "newest first: sorted"
"""Rules, in words."""

_RATIOS: Final = np.array([new / old for new, old in SPLITS])
_STANDING: Final = 5  # candles before and after a split that must be on two scales
_LEAP: Final = 0.2
"""Least change of the logarithm that is an outlier: 22 %."""

_TIMES_USUAL: Final = 20
_NIGHT_MS: Final = 6 * 3_600_000
_WEEKEND_MS: Final = 4 * DAY_MS
_WEEK_MS: Final = 7 * DAY_MS


@dataclass(frozen=True)
class Spots:
    """Candles of one symbol that a rule finds, k of them."""

    symbol: str
    places: Numbers  # (k,), see shared.files.series.place_of
    open_ms: Numbers  # (k,), UTC
    about: str = ""  # the first of them
    lengths: Numbers | None = None  # (k,), ms, of gaps
    run: int = 0  # candles of the longest run


@dataclass(frozen=True)
class Finding:
    """Candles that are odd by one rule; they are used, but should be known of."""

    rule: str
    spots: tuple[Spots, ...]  # by symbol

    @property
    def count(self) -> int:
        """The number of candles."""
        return sum(len(spots.places) for spots in self.spots)

    @property
    def first(self) -> Spots:
        """The candles of the symbol that has the first one in time."""
        return min(self.spots, key=lambda spots: int(spots.open_ms[0]))


def of_history(history: History) -> tuple[Finding, ...]:
    """Return what is odd about the candles of every symbol, by rule."""
    found: dict[str, list[Spots]] = {}
    for rows in history.series:
        for rule, spots in _of_symbol(rows, history.interval):
            found.setdefault(rule, []).append(spots)
    return tuple(Finding(rule, tuple(spots)) for rule, spots in found.items())


def too_short(history: History, window_length: int) -> tuple[Finding, ...]:
    """Return a finding of the symbols that never fill one window, if there are any."""
    short = tuple(
        Spots(rows.symbol, rows.places, rows.open_ms)
        for rows in history.series
        if len(rows.open_ms) < window_length
    )
    rule = f"history too short: expected at least {window_length} candles"
    return (Finding(rule, short),) if short else ()


def _of_symbol(rows: SymbolRows, interval: str) -> Iterator[tuple[str, Spots]]:
    _, high, low, closed, volume = rows.candles.T
    yield from _order(rows)
    for rule, broken in ((NO_VOLUME, volume == 0), (HALTED, high == low)):
        if broken.any():
            yield rule, _spots(rows, broken, run=_longest_run(broken))
    if len(closed) > 1:
        yield from _moves(rows)
        yield from _steps(rows, interval)


def _spots(
    rows: SymbolRows, broken: Mask, about: str = "", lengths: Numbers | None = None, run: int = 0
) -> Spots:
    return Spots(rows.symbol, rows.places[broken], rows.open_ms[broken], about, lengths, run)


def _order(rows: SymbolRows) -> Iterator[tuple[str, Spots]]:
    """Yield the candles that stand below one of a later time in the table."""
    down = np.diff(rows.places)
    if not len(down) or (down >= 0).all():
        return
    if (down < 0).all():
        yield REVERSED, _spots(rows, np.ones(len(rows.places), np.bool_))
        return
    downwards = np.argsort(rows.places, kind="stable")
    times = rows.open_ms[downwards]
    late = np.zeros(len(times), np.bool_)
    late[downwards] = times < np.maximum.accumulate(times)
    yield LATE, _spots(rows, late)


def _longest_run(broken: Mask) -> int:
    edges = np.flatnonzero(np.diff(np.r_[False, broken, False]))
    return int((edges[1::2] - edges[::2]).max())


def _moves(rows: SymbolRows) -> Iterator[tuple[str, Spots]]:
    opened, high, low, closed, _ = rows.candles.T
    log_close = np.log(closed)
    returns = np.diff(log_close, prepend=log_close[:1])
    split, ratio = _splits(rows, log_close)
    if split.any():
        yield SPLIT, _spots(rows, split, about=ratio)
    least = max(_LEAP, _TIMES_USUAL * float(np.median(np.abs(returns[1:]))))
    back = np.r_[returns[1:], 0.0]
    spike = (np.abs(returns) > least) & (np.abs(returns + back) < 0.3 * np.abs(returns))
    body_high, body_low = np.maximum(opened, closed), np.minimum(opened, closed)
    ranges = np.maximum(np.log(high / body_high), np.log(body_low / low))
    wick = ranges > max(2 * _LEAP, 2 * _TIMES_USUAL * float(np.median(ranges)))
    outlier = (spike | wick) & ~split
    if outlier.any():
        yield OUTLIER, _spots(rows, outlier)
    returned = np.r_[False, spike[:-1]]
    jump = (np.abs(returns) > np.log(2)) & ~split & ~outlier & ~returned
    if jump.any():
        yield JUMP, _spots(rows, jump)


def _splits(rows: SymbolRows, log_close: Array) -> tuple[Mask, str]:
    """Return the first candles (n,) after splits, and the first one's ratio in words.

    Open and previous close are on two scales that are a common ratio apart, and the closes before
    and after stay on them. Small ratios are those of bad news too, which comes with a volume of
    many times the usual.
    """
    opened, volume = rows.candles[:, 0], rows.candles[:, 4]
    gap = np.zeros(len(opened))
    gap[1:] = np.log(opened[1:]) - log_close[:-1]
    logs = np.log(_RATIOS)
    found = np.zeros(len(opened), np.bool_)
    words = ""
    for at in np.flatnonzero(np.abs(gap) > logs.min() - 0.03).tolist():
        nearest = int(np.abs(logs - abs(gap[at])).argmin())
        ratio = float(_RATIOS[nearest])
        if abs(logs[nearest] - abs(gap[at])) > (0.03 if ratio < 2 else 0.06):
            continue
        before = slice(max(at - _STANDING, 0), at)
        shift = np.median(log_close[at : at + _STANDING]) - np.median(log_close[before])
        if abs(shift - gap[at]) > 0.15:
            continue
        usual = float(np.median(volume[before]))
        if ratio < 2 and usual > 0 and volume[at] > 3 * usual:
            continue
        found[at] = True
        new, old = SPLITS[nearest] if gap[at] < 0 else SPLITS[nearest][::-1]
        words = words or f"{new}:{old}"
    return found, words


def _steps(rows: SymbolRows, interval: str) -> Iterator[tuple[str, Spots]]:
    length = INTERVALS_MS[interval]
    steps = np.diff(rows.open_ms, prepend=rows.open_ms[0] - length)
    near = steps < shortest_step_ms(interval)
    if near.any():
        yield f"less than half of {interval} after the one before", _spots(rows, near)
    gap = steps >= FAR * length
    if gap.any() and not _is_round_the_clock(rows.open_ms):
        if length == DAY_MS:
            gap = steps > _WEEK_MS
        elif length < DAY_MS:
            gap &= (steps < _NIGHT_MS) | (steps > _WEEKEND_MS)
    if gap.any():
        yield GAP, _spots(rows, gap, lengths=steps[gap])


def _is_round_the_clock(open_ms: Numbers) -> bool:
    """Return True when a market trades at weekends too."""
    return bool(np.isin(open_ms // DAY_MS % 7, WEEKEND).any())


def lines(history: History, findings: Iterable[Finding]) -> Iterator[str]:
    """Yield what to tell, a line a rule: rows left out, odd candles, columns that are not used."""
    for rule, count in history.left_out.items():
        first = next((row for row in history.rejected if row.rule == rule), None)
        example = f", the first {where(first)}: {first.detail}" if first else ""
        yield f"{count:,} row{'s' * (count > 1)} left out ({rule}){example}"
    yield from history.warnings
    for finding in findings:
        yield _line(history, finding)
    if unused := history.unused_columns:
        shown = ", ".join(repr(name) for name in unused[:SHOWN])
        more = f" and {len(unused) - SHOWN:,} more" if len(unused) > SHOWN else ""
        yield f"columns that are not used: {shown}{more}"


def _line(history: History, finding: Finding) -> str:
    first, count = finding.first, finding.count
    several = f" of {len(finding.spots):,} symbols" if len(finding.spots) > 1 else ""
    about = [f"{count:,} candle{'s' * (count > 1)}{several}"]
    if first.lengths is not None:
        about.append(_by_length(finding, history.interval))
    run = max(spots.run for spots in finding.spots)
    if run > 1:
        about.append(f"up to {run:,} in a row")
    example = f"{first.symbol} {in_words(int(first.open_ms[0]))}"
    if place := place_in_words(history, int(first.places[0])):
        example += f", {place}"
    about.append(f"the first {example}" + (f": {first.about}" if first.about else ""))
    return f"{finding.rule} ({'; '.join(about)})"


def _by_length(finding: Finding, interval: str) -> str:
    lengths = np.concatenate(
        [spots.lengths for spots in finding.spots if spots.lengths is not None]
    )
    missing = lengths // INTERVALS_MS[interval]
    counts = {
        "up to 10": int((missing <= 10).sum()),
        "up to 100": int(((missing > 10) & (missing <= 100)).sum()),
        "longer": int((missing > 100).sum()),
    }
    parts = ", ".join(f"{count:,} {words}" for words, count in counts.items() if count)
    return f"by candles: {parts}; the longest {length_in_words(int(lengths.max()))}"


def place_in_words(history: History, place: int) -> str:
    """Return the row of a place, with its file where there are several; nothing for no place."""
    file, row = row_of(place)
    if not row:
        return ""
    return f"{history.files[file]} row {row}" if history.files else f"row {row}"


def in_words(time_ms: int) -> str:
    """Return a time in UTC as people write it."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    return f"{moment:%Y-%m-%d %H:%M}".removesuffix(" 00:00")


def write(path: Path, history: History, findings: Sequence[Finding]) -> None:
    """Write every bad or odd row to a CSV file, in order of the tables.

    Raises:
        OSError: when it cannot be written.
    """
    told = [(row.file, row.row, "", "", "yes", row.detail) for row in history.rejected]
    for finding in findings:
        for spots in finding.spots:
            for place, open_ms in zip(spots.places.tolist(), spots.open_ms.tolist(), strict=True):
                file, row = row_of(place)
                name = history.files[file] if history.files else ""
                told.append((name, row, spots.symbol, str(open_ms), "no", finding.rule))
    with path.open("w", encoding="utf-8", newline="") as file_written:
        writer = csv.writer(file_written, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(told))
