"""Random panels of candles, and files of them in every form that people have."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd
from hypothesis import strategies as st

from shared.candles import DAY_MS, INTERVALS_MS
from shared.files.arrow import pa
from shared.files.series import History
from tests.candles import ohlcv

pa_parquet: Final[Any] = import_module("pyarrow.parquet")

Row = tuple[str, int, tuple[float, float, float, float, float]]
"""Symbol, opening time in UTC ms, values."""

ROLES = ("symbol", "time", "open", "high", "low", "close", "volume")

NAMES: dict[str, tuple[str, ...]] = {
    "ours": ROLES,
    "yahoo": ("Ticker", "Date", "Open", "High", "Low", "Close", "Volume"),
    "stooq": ("<TICKER>", "<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>"),
    "alpha vantage": (
        "symbol",
        "timestamp",
        "1. open",
        "2. high",
        "3. low",
        "4. close",
        "5. volume",
    ),
    "nasdaq": ("Symbol", "Date", "Open", "High", "Low", "Close/Last", "Volume"),
    "investing": ("Name", "Date", "Open", "High", "Low", "Price", "Vol."),
    "polygon": ("T", "t", "o", "h", "l", "c", "v"),
    "binance": ("symbol", "open_time", "open", "high", "low", "close", "volume"),
    "cryptodatadownload": ("symbol", "unix", "open", "high", "low", "close", "Volume BTC"),
    "shouting": tuple(f" {name.upper()} " for name in ROLES),
}


@st.composite
def panels(draw: st.DrawFn, *, daily: bool | None = None) -> tuple[str, list[Row]]:
    """Return an interval and candles of some symbols, at steps that are the interval's."""
    is_daily = draw(st.booleans()) if daily is None else daily
    interval = "1d" if is_daily else draw(st.sampled_from(["1m", "5m", "1h"]))
    symbols = draw(st.lists(st.sampled_from(["A", "BRK B", "^GSPC", "$SPX", "ES1!"]), min_size=1,
                            max_size=3, unique=True))  # fmt: skip
    length = INTERVALS_MS[interval]
    # 1950 to 2025, but for the winter of 1969: its epochs are small in every unit
    first = draw(st.one_of(st.integers(-7300, -150), st.integers(150, 20_000))) * DAY_MS
    rows = []
    for symbol in symbols:
        count = draw(st.integers(1, 5))
        values = draw(st.lists(ohlcv(), min_size=count, max_size=count))
        rows += [(symbol, first + at * length, each) for at, each in enumerate(values)]
    return interval, rows


@contextmanager
def file(data: bytes, name: str = "candles.csv") -> Iterator[Path]:
    """Yield a file that holds some bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def candles_of(history: History) -> list[Row]:
    """Return the candles of a history, sorted."""
    return sorted(
        (rows.symbol, open_ms, tuple(values))
        for rows in history.series
        for open_ms, values in zip(rows.open_ms.tolist(), rows.candles.tolist(), strict=True)
    )


def as_read(rows: Sequence[Row]) -> list[Row]:
    return sorted(
        (symbol, open_ms, (float(opened), float(high), float(low), float(close), float(volume)))
        for symbol, open_ms, (opened, high, low, close, volume) in rows
    )


def moment(open_ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + pd.Timedelta(milliseconds=open_ms)


TIMES: dict[str, Callable[[int], object]] = {
    "iso date": lambda ms: f"{moment(ms):%Y-%m-%d}",
    "packed date": lambda ms: f"{moment(ms):%Y%m%d}",
    "slashes": lambda ms: f"{moment(ms):%Y/%m/%d}",
    "named month": lambda ms: f"{moment(ms):%d-%b-%Y}",
    "iso": lambda ms: f"{moment(ms):%Y-%m-%d %H:%M:%S}",
    "iso with T": lambda ms: f"{moment(ms):%Y-%m-%dT%H:%M:%SZ}",
    "new york": lambda ms: moment(ms).astimezone(ZoneInfo("America/New_York")).isoformat(" "),
    "midnight there": lambda ms: (
        datetime.fromisoformat(f"{moment(ms):%Y-%m-%d}")
        .replace(tzinfo=ZoneInfo("Asia/Tokyo"))
        .isoformat(" ")
    ),
    "points": lambda ms: f"{moment(ms):%Y.%m.%d %H:%M}",
    "twelve hours": lambda ms: f"{moment(ms):%Y-%m-%d %I:%M %p}",
    "seconds": lambda ms: ms // 1000,
    "milliseconds": lambda ms: ms,
    "microseconds": lambda ms: ms * 1000,
    "nanoseconds": lambda ms: ms * 1_000_000,
}
DATES = ("iso date", "packed date", "slashes", "named month", "midnight there")
"""Times that are dates alone."""

MOMENTS = tuple(name for name in TIMES if name not in DATES)


@dataclass(frozen=True)
class Written:
    """How a text is written."""

    names: Sequence[str] = ROLES
    time: str = "iso"
    separator: str = ","
    decimal: str = "."
    thousands: str = ""
    currency: str = ""
    encoding: str = "utf-8"
    newline: str = "\n"
    above: tuple[str, ...] = ()
    repeat_header: bool = False
    quoted: bool = False
    order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)


def number(value: float, written: Written) -> str:
    """Return a number as people write it, with all its digits."""
    text = repr(float(value))
    if written.thousands and "e" not in text:
        whole, _, fraction = text.partition(".")
        text = f"{int(whole):,}".replace(",", "\0") + (f".{fraction}" if fraction else "")
    text = text.replace(".", written.decimal).replace("\0", written.thousands)
    return written.currency + text


def cells(row: Row, written: Written) -> list[str]:
    symbol, open_ms, values = row
    prices = [number(value, written) for value in values[:4]]
    volume = number(values[4], replace(written, currency=""))
    listed = [symbol, str(TIMES[written.time](open_ms)), *prices, volume]
    return [listed[at] for at in written.order]


def text_of(rows: Sequence[Row], written: Written) -> bytes:
    """Return a table as text."""
    stream = io.StringIO(newline="")
    writer = csv.writer(
        stream,
        delimiter=written.separator,
        lineterminator=written.newline,
        quoting=csv.QUOTE_ALL if written.quoted else csv.QUOTE_MINIMAL,
    )
    names = [written.names[at] for at in written.order]
    for line in written.above:
        stream.write(line + written.newline)
    writer.writerow(names)
    for at, row in enumerate(rows):
        if at and written.repeat_header and at == len(rows) // 2:
            writer.writerow(names)
        writer.writerow(cells(row, written))
    return stream.getvalue().encode(written.encoding)


def frame_of(rows: Sequence[Row], names: Sequence[str] = ROLES, time: str = "iso") -> pd.DataFrame:
    """Return a table as a frame."""
    return pd.DataFrame(
        [[symbol, TIMES[time](open_ms), *values] for symbol, open_ms, values in rows],
        columns=list(names),
    )


def _zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", data)
    return stream.getvalue()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": _zipped,
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.astype(object).to_numpy()]


def _parquet(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path)


def partitioned(frame: pd.DataFrame, path: Path) -> None:
    name = frame.columns[0]
    pa_parquet.write_to_dataset(
        pa.Table.from_pandas(frame.rename(columns={name: "symbol"})),
        path,
        partition_cols=["symbol"],
    )


FRAMES: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "parquet": _parquet,
    "parquet, categories": lambda frame, path: _parquet(
        frame.astype({frame.columns[0]: "category"}), path
    ),
    "parquet, index": lambda frame, path: _parquet(frame.set_index(list(frame.columns[:2])), path),
    "parquet, in groups": lambda frame, path: frame.to_parquet(path, row_group_size=2),
    "feather": lambda frame, path: frame.to_feather(path),
    "json": lambda frame, path: path.write_bytes(_json(_records(frame))),
    "json lines": lambda frame, path: path.write_bytes(
        b"\n".join(_json(row) for row in _records(frame))
    ),
    "json, split": lambda frame, path: path.write_bytes(
        _json({"columns": list(frame.columns), "data": frame.astype(object).to_numpy().tolist()})
    ),
    "json, by column": lambda frame, path: path.write_bytes(
        _json({name: frame[name].astype(object).tolist() for name in frame.columns})
    ),
    "json, in an envelope": lambda frame, path: path.write_bytes(
        _json({"status": "ok", "count": len(frame), "results": _records(frame)})
    ),
}


def wide_of(rows: Sequence[Row], *, price_first: bool = True) -> bytes:
    """Return a table with columns for each symbol, as ``yf.download(...).to_csv()`` writes it."""
    frame = frame_of(rows, ("Ticker", "Date", "Open", "High", "Low", "Close", "Volume"))
    wide = frame.pivot(index="Date", columns="Ticker")
    wide.columns = wide.columns.set_names(["Price", "Ticker"])
    if not price_first:
        wide = wide.swaplevel(axis=1).sort_index(axis=1)
    return wide.to_csv().encode()
