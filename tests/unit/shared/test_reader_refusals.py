"""What may mean two things, or is damaged or too large, is refused in words that mend it."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.candles import REASONS
from shared.files import collector, findings, packed, records, tables
from shared.files.packed import symbol_in
from shared.files.series import History, HistoryError
from shared.history import ReadOptions, from_file, interval_of
from tests import panels
from tests.vendors import walk

HEADER = "Date,Open,High,Low,Close,Volume"
VALUES = "10,11,9,10,5"
DATES = [f"2024-01-{day:02d}" for day in range(2, 6)]


def csv_of(times: Sequence[str], header: str = HEADER, values: str = VALUES) -> str:
    return "\n".join([header, *(f"{time},{values}" for time in times)])


def read(folder: Path, data: bytes | str, interval: str = "1d", **options: Any) -> History:
    path = folder / "ABC.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return from_file(path, interval, ReadOptions(**options))


HOURS = [f"2024-01-02 {hour:02d}:00" for hour in range(9, 14)]
WEEKS = [f"2024-01-{day:02d}" for day in (1, 8, 15, 22, 29)]
SUMMER = [f"2024-06-0{day}" for day in range(3, 7)]
EPOCHS = [1_704_153_600 + hour * 3600 for hour in range(9)]


@pytest.mark.parametrize(
    ("data", "interval", "message"),
    [
        ("", "1d", "expected a header and rows, got none"),
        ("\n\n", "1d", "expected a header and rows, got none"),
        (HEADER, "1d", "expected candles, got none"),
        ("<!DOCTYPE html><html></html>", "1d", "got a web page: download the file itself"),
        ('{"error": "rate limit"}', "1d", "expected an array of objects or of arrays"),
        (b"\x89HDF\r\n", "1d", "got HDF5: pd.read_hdf(path).to_parquet"),
        (csv_of(DATES).replace(",", " "), "1d", "pd.read_csv(path, sep=r'\\s+')"),
        (csv_of(DATES, HEADER.removesuffix(",Volume"), "1,1,1,1"), "1d", "--columns volume=NAME"),
        (
            "Date,Date,Open,Close,Close\n2024-01-02,2024-01-02,1,1,1",
            "1d",
            "got Close, Close: --columns close=NAME chooses; expected columns for high, low",
        ),
        (csv_of(["01/02/2024", "02/02/2024"]), "1d", "--date-format %d/%m/%Y or --date-format %m"),
        (csv_of(["13/02/2024", "02/14/2024"]), "1d", "one order of day and month, got 13/02/2024"),
        (csv_of(["02/01/24"]), "1d", "got '02/01/24'; --date-format, such as %d/%m/%y"),
        (csv_of(["1899-12-31"]), "1d", "from 1900 to 2199, got '1899-12-31'."),
        (csv_of(["2200-01-01"]), "1d", "from 1900 to 2199, got '2200-01-01'."),
        (csv_of([f"{day}T23:00:00Z" for day in SUMMER]), "1d", "got the time 23:00 UTC: --time"),
        (csv_of(list(map(str, EPOCHS[4:5]))), "1d", "got the time 04:00 UTC: --timezone ZONE"),
        (csv_of(HOURS), "1d", "got times of which most are 1h apart: --interval 1h"),
        (csv_of(DATES), "1h", "expected candles 1h apart (1h), got most 1d apart (100% of 3 steps"),
        (csv_of(WEEKS), "1d", "got most 7d apart (100% of 4 steps): --interval 1wk"),
        (
            csv_of(list(map(str, EPOCHS)), "open_ms,open,high,low,close,volume"),
            "1h",
            "got most 3.6 s apart (100% of 8 steps): times in seconds? --columns time=open_ms",
        ),
        (
            csv_of([str(EPOCHS[0] * 1_000_000)], "open_ms,open,high,low,close,volume"),
            "1h",
            "2199 in UTC milliseconds, got 1704153600000000: microseconds? divide by 1000.",
        ),
        (csv_of(DATES, values='"1,100","1,200","1,000","1,100",5'), "1d", "--decimal . for"),
        (
            csv_of(DATES, values='"1,100.5","1,200","1,000","1.000,5",5'),
            "1d",
            "expected one decimal mark, got Open '1,100.5' and Close '1.000,5': --decimal",
        ),
        (csv_of(["2024-01-02"], "Ticker," + HEADER, VALUES).replace("\n", '\n"A, Inc",'), "1d",
         "got \"A, Inc\"; --rename 'A, Inc=NAME'"),
        (json.dumps([[at, 9, 11, 10, 10.5, 5.5] for at in EPOCHS]), "1h", "may be more than one"),
        (  # Kraken has an average price before the volume
            json.dumps({"result": {"XBT": [[at, 10, 11, 9, 10.5, 10.2, 5] for at in EPOCHS]}}),
            "1h",
            "may be more than one thing: --columns time=1,open=2",
        ),
        (
            json.dumps({name: {"bars": [{"t": 1, "o": 1, "h": 1, "l": 1, "c": 1, "v": 1}]}
                        for name in ("AAPL", "MSFT")}),
            "1d",
            "expected one table, got several (AAPL, MSFT)",
        ),
    ],
)  # fmt: skip
def test_the_message_names_what_mends_it(
    data: bytes | str, interval: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(HistoryError, match=re.escape(message)) as raised:
        read(tmp_path, data, interval)
    assert str(raised.value).startswith(str(tmp_path / "ABC.csv"))


@pytest.mark.parametrize(
    ("data", "interval", "options", "first"),
    [
        (csv_of(["01/02/2024", "02/02/2024"]), "1d", {"date_format": "%d/%m/%Y"}, "2024-02-01"),
        (csv_of(["02-Jan-24"]), "1d", {"date_format": "%d-%b-%y"}, "2024-01-02"),
        (csv_of(["12.02.2024", "13.02.2024"]), "1d", {}, "2024-02-12"),
        (csv_of(["2024-01", "2024-02"]), "1mo", {}, "2024-01-01"),
        (csv_of([f"{day}T23:00:00Z" for day in SUMMER]), "1d", {"timezone": "Europe/London"},
         "2024-06-04"),
        (csv_of([f"{day}T04:00:00Z" for day in SUMMER]), "1d", {}, "2024-06-03"),
        (csv_of(HOURS), "1h", {"timezone": "America/New_York"}, "2024-01-02 14:00"),
        (csv_of(HOURS).replace("Date", "Time"), "1h", {}, "2024-01-02 09:00"),
        (csv_of(DATES, HEADER.removesuffix(",Volume"), "1,1,1,1"), "1d",
         {"columns": {"volume": "0"}}, "2024-01-02"),
        (csv_of(DATES, values='"1,100","1,200","1,000","1,100",5'), "1d", {"decimal": "."},
         "2024-01-02"),
        ("# prices\n" + csv_of(DATES), "1d", {}, "2024-01-02"),
    ],
)  # fmt: skip
def test_the_option_mends_it(
    data: str, interval: str, options: Mapping[str, Any], first: str, tmp_path: Path
) -> None:
    history = read(tmp_path, data, interval, **options)
    assert history.symbols == ("ABC",)
    assert findings.in_words(int(history.series[0].open_ms[0])) == first


@pytest.mark.parametrize("options", [{"symbol": "XYZ"}, {"symbols": ("XYZ",)}])
def test_the_symbol_in_an_option_goes_before_the_file_s_name(
    options: Mapping[str, Any], tmp_path: Path
) -> None:
    assert read(tmp_path, csv_of(DATES), "1d", **options).symbols == ("XYZ",)


@pytest.mark.parametrize(
    ("stem", "symbol"),
    [
        ("AAPL", "AAPL"), ("AAPL Historical Data", "AAPL"), ("daily_IBM", "IBM"),
        ("BRK-B", "BRK-B"),
        ("intraday_5min_IBM", "IBM"), ("BTCUSDT-1h-2024-01", "BTCUSDT"), ("EURUSD_M15", "EURUSD"),
        ("NIFTY 50", "NIFTY 50"), ("HistoricalData_17", None), ("candles", None), ("part-0", None),
    ],
)  # fmt: skip
def test_the_symbol_in_a_file_s_name(stem: str, symbol: str | None) -> None:
    assert symbol_in(stem) == symbol


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["ohlc", "chlo", "olhc", "ohcl", "lhoc"]))
def test_rows_without_a_header_are_read_in_the_usual_order_alone(seed: int, order: str) -> None:
    rows = walk("ABC", "1h", seed)
    places = ["ohlc".index(letter) for letter in order]
    lines = [
        [str(open_ms), *(str(values[at]) for at in places), str(values[4])]
        for _, open_ms, values in rows
    ]
    data = "\n".join(map(",".join, lines)).encode()
    with panels.file(data, "ABC.csv") as path:
        if order == "ohlc":
            assert panels.candles_of(from_file(path, "1h")) == panels.as_read(rows)
        else:
            with pytest.raises(HistoryError, match="may be more than one thing: --columns time=1"):
                from_file(path, "1h")


def zipped(names: Sequence[str], data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, data)
    return stream.getvalue()


def test_what_unpacks_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(records, "MOST_BYTES", 1 << 19)
    line = b"A,2024-01-02,1,2,0.5,1,5\n"
    header = b"symbol,date,open,high,low,close,volume\n"
    bombs = [
        gzip.compress(header + line * 300_000),
        gzip.compress(gzip.compress(header + line * 900_000)),
        zipped([f"{number}.csv" for number in range(8)], header + line * 100_000),
        gzip.compress(header + b"\n" * 9_000_000),
    ]
    for bomb in bombs:
        with pytest.raises(HistoryError, match="unpacks to at most 50 times its size and 1 MB"):
            read(tmp_path, bomb)
    with pytest.raises(HistoryError, match="expected at most 0 MB of JSON"):
        read(tmp_path, gzip.compress(b"[" + b"[1,2]," * 100_000))
    with pytest.raises(HistoryError, match=r"ABC\.csv: expected lines, got one of more than"):
        read(tmp_path, header + b"0" * (40 << 20))


def test_tables_of_many_columns_are_read(tmp_path: Path) -> None:
    names = ",".join(f"feature_{number}" for number in range(20_000))
    values = ",".join(["0.5"] * 20_000)
    history = read(tmp_path, csv_of(DATES, f"{HEADER},{names}", f"{VALUES},{values}"))
    assert history.count == len(DATES)
    assert len("".join(findings.lines(history, ()))) < 1000
    symbols = [f"S{number}" for number in range(2_000)]
    wide = ",".join(f"{symbol}.{name}" for symbol in symbols for name in HEADER.split(",")[1:])
    history = read(tmp_path, csv_of(DATES, f"Date,{wide}", ",".join([VALUES] * len(symbols))))
    assert len(history.symbols) == len(symbols)


ROW = st.tuples(
    st.sampled_from(["A", "A,B"]),
    st.sampled_from(["0", "-1e14", "9999999999999999", "x"]),
    *[st.sampled_from(["1", "2", "0", "-1", "nan", "inf", "1e31", "1e-40", "x", ""])] * 5,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=30))
def test_rows_beyond_those_kept_count_for_the_same_rules(rows: list[tuple[str, ...]]) -> None:
    lines = [",".join(f'"{cell}"' for cell in row) for row in rows]
    data = "\n".join(["symbol,open_ms,open,high,low,close,volume", *lines, "GOOD,0,1,1,1,1,1"])
    with pytest.MonkeyPatch.context() as patch, panels.file(data.encode(), "x.csv") as path:
        whole = from_file(path, "1d", ReadOptions(allow_bad_rows=True))
        patch.setattr(collector, "TOLERATED", 1.0)
        patch.setattr(collector, "DETAILED", 0)
        patch.setattr(tables, "DETAILED", 1)
        counted = from_file(path, "1d")
    assert counted.left_out == whole.left_out
    assert sum(counted.left_out.values()) == len(whole.rejected)
    kept = Counter(row.rule for row in whole.rejected)
    assert dict(kept) == whole.left_out
    assert {row.reason for row in whole.rejected} <= set(REASONS.values())


def test_the_interval_of_too_few_candles_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "ABC.csv"
    path.write_text(csv_of(DATES[:1]))
    with pytest.raises(HistoryError, match="a known interval, got too few to tell: --interval"):
        interval_of(path)


def test_random_bytes_are_no_table(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 256, 5000, np.uint8).tobytes()
    with pytest.raises(HistoryError, match="expected"):
        read(tmp_path, data)
