"""Candles out of tables: the bundled real ones, or a CSV or Parquet file."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from shared.candles import DAY_MS, INTERVALS_MS, Candle, RejectReason, refusal

BUNDLED: Final = "bokeh_sampledata/_data/stocks.csv.gz"
BUNDLED_SYMBOLS: Final = ("AAPL", "GOOG", "IBM", "MSFT")
"""Those with years of daily candles; the data holds FB too, with 196."""

HAIR: Final = 1e-6
"""How far, relatively, a price may overstep high or low: some roundings of a 32-bit float."""

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_PRICES: Final = ("open", "high", "low", "close")
_KNOWN: Final = frozenset(
    {"symbol", "date", "open_ms", "close_ms", *_PRICES, "volume", "adj_close"}
)
_SURPLUS: Final = "beyond the header"
_NAMES: Final = {"ticker": "symbol"}

Row = tuple[int, Mapping[str, object]]  # number as an editor shows it, values by column


class HistoryError(Exception):
    """A table that cannot be read as candles at all."""


class _BadValue(ValueError):
    """A value that is no number or no date."""


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not a valid candle, and the rule it breaks."""

    row: int  # as an editor numbers lines, the header being 1
    detail: str
    reason: RejectReason


@dataclass(frozen=True)
class History:
    """The candles of a table as a market would have delivered them."""

    name: str
    candles: tuple[Candle, ...]  # by (open_ms, symbol)
    rejected: tuple[RejectedRow, ...]
    rows: tuple[int, ...] = ()  # of each candle, as an editor numbers lines
    unused_columns: tuple[str, ...] = ()


def bundled(symbols: Sequence[str] = BUNDLED_SYMBOLS) -> History:
    """Return real daily candles of 2000 to 2013, scaled by Adj Close; no row is rejected.

    Raises:
        HistoryError: when the package that carries them is missing, or a symbol.
    """
    try:
        data = files("bokeh_sampledata") / "_data" / "stocks.csv.gz"
    except ModuleNotFoundError as error:
        raise HistoryError(
            'the bundled candles are missing: pip install "candlecast[local]"'
        ) from error
    with data.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", newline="") as text:
        return _history(BUNDLED, _numbered(BUNDLED, text), "1d", symbols)


def from_file(path: Path, interval: str, symbols: Sequence[str] = ()) -> History:
    """Return the candles in a CSV (also ``.csv.gz``) or Parquet file.

    Columns: ``symbol``; ``date`` (``YYYY-MM-DD``, or its midnight in any zone, for intervals of
    days) or ``open_ms`` (UTC epoch milliseconds); ``open, high, low, close, volume``; if there,
    ``close_ms``, and ``adj_close``, by which the prices are then scaled. Upper case and spaces
    do not matter; of a Parquet file, what pandas keeps as its index counts too.

    Args:
        path: the file; its ending tells what it is.
        interval: of all its candles, such as ``1d``.
        symbols: the ones to keep, all if empty.

    Raises:
        HistoryError: when the file cannot be read, lacks a column or a symbol, or holds no
            valid candle; a single row that breaks a rule is in ``rejected`` instead.
    """
    try:
        if path.suffix == ".parquet":
            return _history(str(path), _parquet(path), interval, symbols)
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as text:
                return _history(str(path), _numbered(str(path), text), interval, symbols)
        with path.open(encoding="utf-8-sig", newline="") as text:
            return _history(str(path), _numbered(str(path), text), interval, symbols)
    except OSError as error:
        raise HistoryError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, EOFError, csv.Error) as error:
        raise HistoryError(f"{path}: not a CSV file in UTF-8: {error}") from error


def make_candle(
    symbol: str,
    interval: str,
    times: tuple[int, int],
    ohlcv: tuple[float, float, float, float, float],
    source: str,
) -> Candle:
    """Return a candle of computed prices, its high and low widened by at most ``HAIR``.

    Adjusted prices are products of rounded factors, so that a close may lie a hair above its
    high. That is no error of the market's: high and low then take the close's own value. A
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


def _history(name: str, rows: Iterator[Row], interval: str, symbols: Sequence[str]) -> History:
    wanted = frozenset(symbols)
    found: dict[tuple[int, str], tuple[int, Candle]] = {}
    rejected: list[RejectedRow] = []
    columns, rows = _columns(rows)
    _check_columns(name, columns, interval)
    for number, row in rows:
        if wanted and row["symbol"] not in wanted:
            continue
        try:
            candle = _candle(row, interval)
        except ValidationError as error:
            refused = refusal(error)
            rejected.append(RejectedRow(number, refused.detail, refused.reason))
            continue
        except _BadValue as error:
            rejected.append(RejectedRow(number, str(error), RejectReason.WRONG_TYPE))
            continue
        first, _ = found.setdefault((candle.open_ms, candle.symbol), (number, candle))
        if first != number:
            detail = f"{candle.symbol}: expected each candle once, got that of row {first} again"
            rejected.append(RejectedRow(number, detail, RejectReason.INCONSISTENT))
    _check_found(name, {symbol for _, symbol in found}, wanted, rejected)
    ordered = [found[key] for key in sorted(found)]
    return History(
        name,
        tuple(candle for _, candle in ordered),
        tuple(rejected),
        tuple(number for number, _ in ordered),
        tuple(sorted(set(columns) - _KNOWN)),
    )


def _columns(rows: Iterator[Row]) -> tuple[list[str], Iterator[Row]]:
    """Return the names in the header, and the rows again."""
    first = next(rows, None)
    if first is None:
        return [], rows
    return [column for column in first[1] if column != _SURPLUS], chain([first], rows)


def _check_columns(name: str, columns: Sequence[str], interval: str) -> None:
    if not columns:
        raise HistoryError(f"{name}: expected a header and rows, got none")
    by_date = INTERVALS_MS[interval] >= DAY_MS and "open_ms" not in columns
    needed = ("symbol", "date" if by_date else "open_ms", *_PRICES, "volume")
    missing = [one for one in needed if one not in columns]
    if missing:
        raise HistoryError(
            f"{name}: expected the column {missing[0]} for interval {interval}, "
            f"got {', '.join(columns)}"
        )


def _check_found(
    name: str, found: set[str], wanted: frozenset[str], rejected: list[RejectedRow]
) -> None:
    absent = sorted(wanted - found)
    if found and not absent:
        return
    what = f"candles of {', '.join(absent)}" if absent else "candles"
    why = ""
    if rejected:
        why = f"; {len(rejected)} bad rows, the first {rejected[0].row}: {rejected[0].detail}"
    raise HistoryError(f"{name}: expected {what}, got none{why}")


def _candle(row: Mapping[str, object], interval: str) -> Candle:
    if _SURPLUS in row:
        raise _BadValue(f"expected {len(row) - 1} values, got {row[_SURPLUS]} beyond them")
    prices = [_number(row, name) for name in _PRICES]
    if "adj_close" in row:
        # one factor for all four: products keep their order, so high stays the highest
        factor = _number(row, "adj_close") / prices[3] if prices[3] else 0.0
        prices = [price * factor for price in prices]
    opened, high, low, close = prices
    open_ms = _whole(row, "open_ms") if "open_ms" in row else _midnight_ms(row["date"])
    close_ms = _whole(row, "close_ms") if "close_ms" in row else open_ms + INTERVALS_MS[interval]
    return make_candle(
        _symbol(row),
        interval,
        (open_ms, close_ms),
        (opened, high, low, close, _number(row, "volume")),
        "replay",
    )


def _number(row: Mapping[str, object], name: str) -> float:
    value = row[name]
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise _BadValue(f"{name}: expected a number, got {value!r}") from None


def _symbol(row: Mapping[str, object]) -> str:
    value = row["symbol"]
    if value is None or value != value:  # noqa: PLR0124 -- a blank in a Parquet file may be NaN
        raise _BadValue(f"symbol: expected a name, got {value!r}")
    return str(value)


def _whole(row: Mapping[str, object], name: str) -> int:
    value = row[name]
    try:
        return int(str(value))
    except ValueError:
        number = _number(row, name)  # a column with blanks is one of floats to pandas
    if not number.is_integer():
        raise _BadValue(f"{name}: expected whole milliseconds, got {value!r}")
    return int(number)


def _midnight_ms(value: object) -> int:
    text = str(value)
    try:
        # a Parquet date prints as one, a timestamp with its time of day after it
        day = date.fromisoformat(text.removesuffix(" 00:00:00"))
    except ValueError:
        day = _day_of_midnight(text)
    return (day.toordinal() - _EPOCH_DAY) * DAY_MS


def _day_of_midnight(text: str) -> date:
    """Return the date of a midnight in any zone: a market's own, as yfinance writes it."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.time() != time.min:
        raise _BadValue(f"date: expected YYYY-MM-DD, or its midnight, got {text!r}")
    return moment.date()


def _numbered(name: str, text: Iterator[str]) -> Iterator[Row]:
    reader = csv.DictReader(text, restkey=_SURPLUS, restval="")
    reader.fieldnames = _each_once(name, [_column(name) for name in reader.fieldnames or ()])
    for row in reader:
        yield reader.line_num, row


def _parquet(path: Path) -> Iterator[Row]:
    import pandas as pd  # noqa: PLC0415 -- a second to import, which CSV does without

    try:
        table = pd.read_parquet(path)
    except ImportError as error:
        raise HistoryError(
            f"{path}: Parquet needs one more package: pip install pyarrow"
        ) from error
    except ValueError as error:  # pyarrow's errors of format are some
        raise HistoryError(f"{path}: not a Parquet file: {error}") from error
    if table.index.names != [None]:
        table = table.reset_index()
    columns = _each_once(str(path), [_column(str(name)) for name in table.columns])
    for number, values in enumerate(table.itertuples(index=False, name=None), start=2):
        yield number, dict(zip(columns, values, strict=True))


def _each_once(name: str, columns: list[str]) -> list[str]:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise HistoryError(f"{name}: expected each column once, got {', '.join(twice)} again")
    return columns


def _column(name: str) -> str:
    plain = name.strip().lower().replace(" ", "_")
    return _NAMES.get(plain, plain)
