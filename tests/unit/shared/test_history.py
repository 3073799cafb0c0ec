"""Tables into candles: the bundled data against pandas, files good and bad."""

from __future__ import annotations

import gzip
import importlib.resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared import history
from shared.candles import DAY_MS, MINUTE_MS
from shared.history import HAIR, HistoryError, bundled, from_file, make_candle
from tests.candles import ohlcv

HEADER = "symbol,date,open,high,low,close,volume"


def write(folder: Path, text: str, name: str = "candles.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_bundled_candles_are_those_of_the_data_set_scaled_by_adj_close() -> None:
    data = importlib.resources.files("bokeh_sampledata") / "_data" / "stocks.csv.gz"
    with data.open("rb") as stream:
        frame = pd.read_csv(stream, compression="gzip", float_precision="round_trip")
    frame = frame[frame["Ticker"] != "FB"].sort_values(["Date", "Ticker"], kind="stable")
    got = bundled()
    assert got.rejected == ()
    assert [one.symbol for one in got.candles] == frame["Ticker"].tolist()
    dates = pd.to_datetime(frame["Date"]).to_numpy().astype("datetime64[ms]").astype(np.int64)
    assert [one.open_ms for one in got.candles] == dates.tolist()
    scale = (frame["Adj Close"] / frame["Close"]).to_numpy()
    for column in ("Open", "High", "Low", "Close"):
        prices = [getattr(one, column.lower()) for one in got.candles]
        np.testing.assert_allclose(prices, frame[column].to_numpy() * scale, rtol=1e-12)
    assert [one.volume for one in got.candles] == frame["Volume"].tolist()
    assert all(one.close_ms == one.open_ms + DAY_MS for one in got.candles)


def test_bundled_symbols_can_be_chosen_and_must_exist() -> None:
    assert {one.symbol for one in bundled(["IBM"]).candles} == {"IBM"}
    with pytest.raises(HistoryError, match=r"expected candles of NOPE, got none$"):
        bundled(["IBM", "NOPE"])


def test_without_the_data_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(package: str) -> object:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(history, "files", missing)
    with pytest.raises(HistoryError, match=r'pip install "candlecast\[local\]"'):
        bundled()


def test_a_file_is_ordered_as_a_market_delivers(tmp_path: Path) -> None:
    text = f"{HEADER}\nB,2024-01-03,1,1,1,1,5\nB,2024-01-02,1,1,1,1,5\nA,2024-01-03,2,3,1,2,0\n"
    got = from_file(write(tmp_path, text), "1d")
    assert [(one.symbol, one.open_ms // DAY_MS) for one in got.candles] == [
        ("B", 19724), ("A", 19725), ("B", 19725),
    ]  # fmt: skip
    assert from_file(write(tmp_path, text), "1d", ["A"]).candles == got.candles[1:2]


def test_packed_csv_and_parquet_give_the_same_candles(tmp_path: Path) -> None:
    text = f"{HEADER}\nA,2024-01-02,10,12,9,11,5\nB,2024-01-03,1.5,2.5,0.5,1,0\n"
    plain = write(tmp_path, text)
    packed = tmp_path / "candles.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert from_file(packed, "1d").candles == from_file(plain, "1d").candles
    frame = pd.read_csv(plain)
    for number, dates in enumerate((frame["date"], pd.to_datetime(frame["date"]))):
        parquet = tmp_path / f"{number}.parquet"
        frame.assign(date=dates).to_parquet(parquet)
        assert from_file(parquet, "1d").candles == from_file(plain, "1d").candles


def test_times_in_milliseconds_give_intraday_candles(tmp_path: Path) -> None:
    text = (
        "Symbol,Open_ms,Close_ms,Open,High,Low,Close,Volume,Adj Close\n"
        f"A,0,{MINUTE_MS},10,12,8,11,5,5.5\n"
        f"A,{MINUTE_MS},{MINUTE_MS + 30_000},10,12,8,11,5,11\n"
    )
    first, second = from_file(write(tmp_path, text), "1m").candles
    assert (first.open, first.high, first.low, first.close) == (5.0, 6.0, 4.0, 5.5)
    assert (second.open_ms, second.close_ms) == (MINUTE_MS, MINUTE_MS + 30_000)


@pytest.mark.parametrize(
    "written",
    [
        "2024-01-02",
        "20240102",
        "2024-01-02 00:00:00",
        "2024-01-02T00:00",
        "2024-01-02T00:00:00Z",
        "2024-01-02 00:00:00-05:00",  # yfinance: the exchange's own midnight
    ],
)
def test_a_date_or_its_midnight_in_any_zone_is_that_date(tmp_path: Path, written: str) -> None:
    [candle] = from_file(write(tmp_path, f"{HEADER}\nA,{written},10,12,9,11,5\n"), "1d").candles
    assert candle.open_ms == 19_724 * DAY_MS


@pytest.mark.parametrize(
    "written", ["2024/01/02", "01/02/2024", "2024-01-02 16:00:00", "2 Jan", ""]
)
def test_any_other_date_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(
        HistoryError, match="the first 2: date: expected YYYY-MM-DD, or its midnight"
    ):
        from_file(write(tmp_path, f"{HEADER}\nA,{written},10,12,9,11,5\n"), "1d")


def test_a_pandas_index_counts_as_columns(tmp_path: Path) -> None:
    frame = pd.read_csv(
        write(tmp_path, f"{HEADER}\nA,2024-01-02,10,12,9,11,5\nB,2024-01-03,10,12,9,11,5\n")
    )
    expected = from_file(tmp_path / "candles.csv", "1d").candles
    days = pd.to_datetime(frame["date"]).dt.tz_localize("America/New_York")
    frame.assign(Date=days).drop(columns="date").set_index("Date").to_parquet(
        tmp_path / "a.parquet"
    )
    assert from_file(tmp_path / "a.parquet", "1d").candles == expected
    frame.set_index(["symbol", "date"]).to_parquet(tmp_path / "b.parquet")
    assert from_file(tmp_path / "b.parquet", "1d").candles == expected


def test_a_column_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    text = "symbol,date,open,high,low,close,Close,volume\nA,2024-01-02,10,12,9,11,11,5\n"
    with pytest.raises(HistoryError, match="expected each column once, got close again"):
        from_file(write(tmp_path, text), "1d")


def test_columns_that_mean_nothing_are_named(tmp_path: Path) -> None:
    text = "symbol,date,open,high,low,close,volume,sector,\nA,2024-01-02,10,12,9,11,5,tech,0\n"
    assert from_file(write(tmp_path, text), "1d").unused_columns == ("", "sector")


def test_times_as_whole_floats_are_times_and_others_are_not(tmp_path: Path) -> None:
    header = "symbol,open_ms,open,high,low,close,volume"
    rows = [f"A,{value},10,12,9,11,5" for value in ("60000.0", "120000", "inf", "1.5", "soon", "")]
    got = from_file(write(tmp_path, "\n".join([header, *rows])), "1m")
    assert [one.open_ms for one in got.candles] == [60_000, 120_000]
    assert got.rows == (2, 3)
    assert [one.row for one in got.rejected] == [4, 5, 6, 7]
    assert {one.detail.split(":")[0] for one in got.rejected} == {"open_ms"}
    frame = pd.read_csv(tmp_path / "candles.csv").iloc[:4]
    frame.assign(open_ms=[60e3, 120e3, np.inf, np.nan]).to_parquet(tmp_path / "a.parquet")
    assert from_file(tmp_path / "a.parquet", "1m").candles == got.candles


def test_a_blank_symbol_of_a_parquet_file_is_no_name(tmp_path: Path) -> None:
    frame = pd.read_csv(write(tmp_path, HEADER + "\nA,2024-01-02,10,12,9,11,5" * 3))
    frame.assign(symbol=pd.Series(["A", None, np.nan], dtype=object)).to_parquet(
        tmp_path / "a.parquet"
    )
    got = from_file(tmp_path / "a.parquet", "1d")
    assert [one.symbol for one in got.candles] == ["A"]
    assert [one.row for one in got.rejected] == [3, 4]


def test_rows_that_break_a_rule_are_reported_with_row_and_rule(tmp_path: Path) -> None:
    rows = [
        "A,2024-01-02,10,12,9,11,5",
        "A,2024-01-03,10,8,9,11,5",
        "A,2024-01-04,ten,12,9,11,5",
        "A,04/01/2024,10,12,9,11,5",
        "A,2024-01-05,10,12,9,nan,5",
        "A,2024-01-06,-1,12,9,11,5",
        "A,2024-01-07,10,12,9,11",
        "A,2024-01-02,10,12,9,11,5",
        "A B,2024-01-08,10,12,9,11,5",
        "A,2024-01-09,10,12,9,11,1,234",
        "A,2024-01-10,10,12,9,11,5",
    ]
    got = from_file(write(tmp_path, "\n".join([HEADER, *rows])), "1d")
    assert len(got.candles) == 2
    reported = {one.row: one.detail for one in got.rejected}
    assert list(reported) == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert reported[3] == "high: expected at least low 9, got 8"
    assert reported[4] == "open: expected a number, got 'ten'"
    assert reported[5] == "date: expected YYYY-MM-DD, or its midnight, got '04/01/2024'"
    assert reported[6].startswith("close: expected a finite number")
    assert reported[7] == "open: expected more than 0, got -1"
    assert reported[8] == "volume: expected a number, got ''"
    assert reported[9] == "A: expected each candle once, got that of row 2 again"
    assert reported[10].startswith("symbol: ")
    assert reported[11] == "expected 7 values, got ['234'] beyond them"


@pytest.mark.parametrize(
    ("text", "interval", "message"),
    [
        ("", "1d", "expected a header and rows, got none"),
        (f"{HEADER}\n", "1d", "expected a header and rows, got none"),
        ("symbol,date,open\nA,2024-01-02,1", "1d", "expected the column high .* got symbol, date"),
        (f"{HEADER}\nA,2024-01-02,1,1,1,1,1", "1m", "expected the column open_ms for interval 1m"),
        (f"{HEADER}\nA,2024-01-02,1,2,3,1,1", "1d", "got none; 1 bad rows, the first 2: high"),
    ],
)
def test_a_file_without_candles_is_an_error_that_names_it(
    tmp_path: Path, text: str, interval: str, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(HistoryError, match=message) as caught:
        from_file(path, interval)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.csv", None),
        ("latin.csv", b"\xff\xfe\x00"),
        ("cut.csv.gz", gzip.compress(b"symbol,date")[:-4]),
        ("not.parquet", b"PAR?"),
        ("missing.parquet", None),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HistoryError, match=name):
        from_file(path, "1d")


@given(values=ohlcv(), above=st.floats(0, HAIR / 2), below=st.floats(0, HAIR / 2))
def test_a_hair_of_rounding_is_no_contradiction(
    values: tuple[float, float, float, float, float], above: float, below: float
) -> None:
    opened, _, _, close, volume = values
    top, bottom = max(opened, close), min(opened, close)
    made = make_candle(
        "A", "1d", (0, 1), (opened, top * (1 - above), bottom * (1 + below), close, volume), "test"
    )
    assert made.high == top
    assert made.low == bottom
    assert (made.open, made.close, made.volume) == (opened, close, volume)


@given(values=ohlcv())
def test_agreeing_prices_are_not_touched(
    values: tuple[float, float, float, float, float],
) -> None:
    made = make_candle("A", "1d", (0, 1), values, "test")
    assert (made.open, made.high, made.low, made.close, made.volume) == values


def test_more_than_a_hair_is_refused() -> None:
    with pytest.raises(ValidationError, match="high: expected at least open and close"):
        make_candle("A", "1d", (0, 1), (10.0, 10.0, 9.0, 10.001, 1.0), "test")
