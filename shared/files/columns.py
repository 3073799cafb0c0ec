"""Names of columns as vendors write them, and which column has which part of a candle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shared.files.series import HistoryError
from shared.messages import short

PRICES: Final = ("open", "high", "low", "close")
ROLES: Final = (
    "symbol", "time", "clock", "open_ms", "close_ms", *PRICES, "volume", "adj_close", "adj_volume",
)  # fmt: skip
"""Parts of a candle that a column may hold; ``clock`` is the time of day beside a date."""

NO_VOLUME: Final = "0"
"""Stands for the column of a volume that the market does not have."""

_SPELLINGS: Final[Mapping[str, str]] = {
    "open_ms": "openms",
    "close_ms": "closems",
    "time": "opentime windowstart timeperiodstart begintime beginsat starttime timestart barstart "
    "candlebegintime timestamp unixtimestamp unix epoch ts datetime datetimeutc dateandtime "
    "timestamputc gmttime localtime utctime date dateutc tradedate tradingdate tradingday "
    "pricedate quotedate timeperiod day dt time t",
    "open": "open openprice opening priceopen o",
    "high": "high highprice pricehigh highest h",
    "low": "low lowprice pricelow lowest l",
    "close": "close closeprice closing priceclose closelast c last lastprice price settle "
    "settlement",
    "volume": "volume vol realvolume volumetraded sharestraded totaltradequantity tottrdqty "
    "tradedvolume volumeshares v tickvolume tickvol",
    "adj_close": "adjclose adjustedclose adjcloseprice adjustedcloseprice closeadj closeadjusted "
    "adjclosing adjprice",
    "adj_volume": "adjvolume adjustedvolume voladj volumeadj",
    "symbol": "symbol ticker sym tic symbols tickers stock stockcode instrument pair code "
    "security asset contract product uniqueid name",
}
"""Names by role, the best first, without what is not a letter or a digit."""

_EXACT: Final = {"T": ("symbol", 50), "S": ("symbol", 51)}
"""Names of which the case matters: Polygon's ``T`` is a ticker, its ``t`` a time."""

_RANKS: Final[dict[str, tuple[str, int]]] = {
    name: (role, rank)
    for role, names in _SPELLINGS.items()
    for rank, name in enumerate(names.split())
}
_DATES: Final = frozenset({"date", "dateutc", "tradedate", "tradingdate", "tradingday", "day"})
_VOLUME_OF: Final = re.compile(r"vol(?:ume)?(?:from)?(?:of|in)?[a-z0-9]{2,10}")
_NUMBERED: Final = re.compile(r"^\s*\d+[a-z]?[.:]\s*")
_PAIR: Final = re.compile(
    r"^\(?['\"]?(?P<left>.+?)['\"]?(?:'\s*,\s*'|[._|:/ -]+)(?P<right>[^,]+?)['\"]?\)?$"
)
_OF_SYMBOL: Final = frozenset({*PRICES, "volume", "adj_close"})
_CLOCKLIKE: Final = re.compile(r"\d{1,2}:\d{2}.*|\d{1,6}")
_INDEX: Final = frozenset({"", "unnamed0", "index", "level0", "indexlevel0", "level1", "rowindex"})


@dataclass(frozen=True)
class Layout:
    """Which column, by position, has which role: of a wide table once for each symbol."""

    groups: tuple[tuple[str | None, Mapping[str, int]], ...]
    unused: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[int, ...]:
        """Positions of the columns that are read."""
        return tuple(sorted({at for _, roles in self.groups for at in roles.values()}))


def plain(name: str) -> str:
    """Return a name without case, enumeration and marks: ``5. adjusted close``, ``<VOL>``."""
    return re.sub(r"[^0-9a-z]+", "", _NUMBERED.sub("", name).lower())


@lru_cache(maxsize=4096)  # each row of a head is tried as the header
def role_of(name: str) -> tuple[str, int] | None:
    """Return the role of a name and how good a name it is for it, 0 the best; or None."""
    if name.strip() in _EXACT:
        return _EXACT[name.strip()]
    spelt = plain(name)
    if spelt in _RANKS:
        return _RANKS[spelt]
    if _VOLUME_OF.fullmatch(spelt):  # Volume BTC, Volume USDT: the first is the base currency's
        return "volume", 40
    return None


def is_symbol(name: str) -> bool:
    """Return True when a name is one of a column of symbols."""
    role = role_of(name)
    return role is not None and role[0] == "symbol"


def recognised(cells: Iterable[str], given: Iterable[str] = ()) -> int:
    """Return how many different parts of a candle a row of names names.

    Args:
        cells: of the row.
        given: names of columns that the user gives.
    """
    names = list(cells)
    roles = {found[0] for name in names if (found := role_of(name))}
    theirs = {plain(name) for name in given}
    return len(roles) + sum(1 for name in names if plain(name) in theirs and not role_of(name))


def layout(
    table: str, names: Sequence[str], sample: Sequence[Sequence[str]], columns: Mapping[str, str],
    *, is_daily: bool, has_header: bool = True,
) -> Layout:  # fmt: skip
    """Return which column has which role.

    Args:
        table: its name, for errors.
        names: of its columns; of a table without header their numbers from 1.
        sample: some rows.
        columns: role to the name or number of its column, as the user gives them.
        is_daily: whether the candles are of days.
        has_header: whether the names are the table's own.

    Raises:
        HistoryError: with every fault of the header.
    """
    faults: list[str] = []
    chosen = _given(names, columns, faults)
    if not chosen and has_header and (groups := _wide(names)):
        return groups
    if has_header:
        _add_named(names, sample, chosen, faults, is_daily=is_daily)
    _check(names, chosen, faults)
    if faults:
        raise HistoryError(f"{table}: " + "; ".join(faults))
    roles = {role: at for role, at in chosen.items() if at >= 0}
    taken = set(roles.values())
    unused = tuple(sorted(name for at, name in enumerate(names) if at not in taken))
    return Layout(((None, roles),), unused)


def _given(names: Sequence[str], columns: Mapping[str, str], faults: list[str]) -> dict[str, int]:
    spelt = [plain(name) for name in names]
    chosen: dict[str, int] = {}
    for role, column in columns.items():
        if column in names:
            chosen[role] = list(names).index(column)
        elif role == "volume" and column == NO_VOLUME:
            chosen[role] = -1
        elif plain(column) and spelt.count(plain(column)) == 1:
            chosen[role] = spelt.index(plain(column))
        elif column.isdigit() and 0 < int(column) <= len(names):
            chosen[role] = int(column) - 1
        else:
            faults.append(f"expected the column {column!r} of --columns {role}={column}")
    return chosen


def _add_named(
    names: Sequence[str], sample: Sequence[Sequence[str]], chosen: dict[str, int],
    faults: list[str], *, is_daily: bool,
) -> None:  # fmt: skip
    """Choose a column for each role that has none yet, the one with the best name."""
    taken = {at for at in chosen.values() if at >= 0}
    candidates: dict[str, list[tuple[int, int]]] = {}
    for at, name in enumerate(names):
        found = role_of(name)
        if found is None or at in taken or found[0] in chosen:
            continue
        role, rank = found
        if role == "time":
            if "open_ms" in chosen:
                continue
            rank += 100 * (is_daily and plain(name) not in _DATES)
        candidates.setdefault(role, []).append((rank, at))
    for role, ranked in candidates.items():
        ranked.sort()
        same = [names[at] for rank, at in ranked if rank == ranked[0][0] and rank != 40]
        if len(same) > 1:
            faults.append(
                f"expected each column once, got {', '.join(same)}: --columns {role}=NAME chooses"
            )
        chosen[role] = _not_zero(ranked, sample) if role == "volume" else ranked[0][1]
    if "open_ms" in chosen:
        chosen.pop("time", None)
    elif "time" not in chosen and (index := _index(names, sample, taken)) is not None:
        chosen["time"] = index
    _add_clock(names, sample, chosen, candidates.get("time", []))


def _not_zero(ranked: Sequence[tuple[int, int]], sample: Sequence[Sequence[str]]) -> int:
    """Return the best column that is not 0 throughout: MetaTrader has ticks beside no volume."""
    for _, at in ranked:
        cells = [row[at] for row in sample if at < len(row)]
        if any(cell.strip("0.,- ") for cell in cells):
            return at
    return ranked[0][1]


def _index(names: Sequence[str], sample: Sequence[Sequence[str]], taken: set[int]) -> int | None:
    """Return the unnamed column that holds times: the index of a pandas frame."""
    for at, name in enumerate(names):
        if plain(name) in _INDEX and at not in taken:
            cells = [row[at] for row in sample if at < len(row)]
            if cells and all(re.match(r"\d{4}[-/.]\d|\d{8}|-?\d{9,}", cell) for cell in cells):
                return at
    return None


def _add_clock(
    names: Sequence[str],
    sample: Sequence[Sequence[str]],
    chosen: dict[str, int],
    ranked: Sequence[tuple[int, int]],
) -> None:
    """Read the time of day from a column of its own, where one column has the date alone."""
    if "clock" in chosen or "time" not in chosen:
        return
    times = [at for _, at in ranked if plain(names[at]) == "time"]
    dates = [at for _, at in ranked if plain(names[at]) in _DATES]
    if not times or not dates:
        return
    cells = [row[times[0]] for row in sample if times[0] < len(row)]
    are_clocks = cells and all(_CLOCKLIKE.fullmatch(cell.strip()) for cell in cells)
    if are_clocks and chosen["time"] in (times[0], dates[0]):
        chosen["time"], chosen["clock"] = dates[0], times[0]


def _check(names: Sequence[str], chosen: Mapping[str, int], faults: list[str]) -> None:
    missing = [role for role in (*PRICES, "volume") if role not in chosen]
    if "time" not in chosen and "open_ms" not in chosen:
        missing.insert(0, "time")
    if not missing:
        return
    shown = ", ".join(short(repr(name)) for name in names[:30]) + (", …" if len(names) > 30 else "")
    mending = ",".join(f"{role}=NAME" for role in missing)
    text = f"expected columns for {', '.join(missing)}, got {shown}: --columns {mending}"
    if missing == ["volume"]:
        text += ", or --columns volume=0 if the market has none"
    if set(missing) >= {"open", "high", "low"} and "close" in chosen:
        text += "; a close alone makes no candle"
    faults.append(text)


def _wide(names: Sequence[str]) -> Layout | None:
    """Return the layout of a table with columns for each symbol, such as ``AAPL.Open``."""
    if recognised(names) >= len(PRICES):
        return None
    time: int | None = None
    groups: dict[str, dict[str, int]] = {}
    unused = []
    for at, name in enumerate(names):
        found = role_of(name)
        paired = _paired(name)
        if found and found[0] in {"time", "open_ms"} and time is None:
            time = at
        elif paired:
            symbol, role = paired
            groups.setdefault(symbol, {}).setdefault(role, at)
        elif plain(name) in _INDEX and time is None and at == 0:
            time = at
        else:
            unused.append(name)
    complete = {
        symbol: roles for symbol, roles in groups.items() if {*PRICES, "volume"} <= set(roles)
    }
    if time is None or not complete:
        return None
    unused += [f"{symbol} {role}" for symbol, roles in groups.items() if symbol not in complete
               for role in roles]  # fmt: skip
    return wide_layout(time, complete, unused)


def wide_layout(
    time: int, groups: Mapping[str, Mapping[str, int]], unused: Iterable[str] = ()
) -> Layout:
    """Return the layout of a table with one time column and other columns for each symbol."""
    return Layout(
        tuple((symbol, {"time": time, **roles}) for symbol, roles in groups.items()),
        tuple(sorted(unused)),
    )


def _paired(name: str) -> tuple[str, str] | None:
    """Return the symbol and the role that a column's name holds both; None where it does not."""
    found = _PAIR.match(name)
    if found is None:
        return None
    for symbol, other in ((found["left"], found["right"]), (found["right"], found["left"])):
        role = role_of(other)
        if role and role[0] in _OF_SYMBOL and role_of(symbol) is None:
            return symbol.strip(), role[0]
    return None


def two_levels(table: str, upper: Sequence[str], lower: Sequence[str]) -> Layout:
    """Return the layout of a table whose columns have a role and a symbol, each in a row.

    Args:
        table: its name, for errors.
        upper: the first row of names.
        lower: the second row; of the times' column empty or the first.

    Raises:
        HistoryError: when a symbol lacks a column.
    """
    time = next((at for at, name in enumerate(lower) if not name), 0)
    names, symbols = upper, lower
    if recognised([*lower[time + 1 :], *lower[:time]]) > recognised(
        [*upper[time + 1 :], *upper[:time]]
    ):
        names, symbols = lower, upper
    groups: dict[str, dict[str, int]] = {}
    unused = []
    for at, (name, symbol) in enumerate(zip(names, symbols, strict=True)):
        role = role_of(name)
        if role and role[0] in _OF_SYMBOL and at != time:
            groups.setdefault(symbol, {}).setdefault(role[0], at)
        elif at != time:
            unused.append(f"{name} {symbol}")
    faults = [
        f"expected columns of {symbol} for {', '.join(missing)}"
        for symbol, roles in groups.items()
        if (missing := [role for role in (*PRICES, "volume") if role not in roles])
    ]
    if faults or not groups:
        mending = "df.stack(level='Ticker', future_stack=True).reset_index() makes a row a candle"
        what = "; ".join(faults[:10]) or "expected columns of symbols, got none"
        raise HistoryError(f"{table}: {what}: {mending}")
    return wide_layout(time, groups, unused)
