"""A random panel in every form, with all names, times and orders, is read back bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared.files.series import HistoryError
from shared.history import ReadOptions, from_file, interval_of
from tests import panels
from tests.panels import Row, Written


def read_back(data: bytes, interval: str, **options: Any) -> list[Row] | None:
    """Return the candles that are read of a file; None if it is refused."""
    with panels.file(data) as path:
        try:
            return panels.candles_of(from_file(path, interval, ReadOptions(**options)))
        except HistoryError:
            return None


written = st.builds(
    Written,
    names=st.sampled_from(sorted(panels.NAMES.values())),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
    currency=st.sampled_from(["", "$", "€"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    above=st.sampled_from([(), ("# made by hand",), ("https://example.org", "", "prices of all")]),
    repeat_header=st.booleans(),
    quoted=st.booleans(),
    order=st.permutations(range(7)).map(tuple),
)


def time_of(draw: st.DataObject, interval: str) -> str:
    names = panels.TIMES if interval == "1d" else panels.MOMENTS
    return draw.draw(st.sampled_from(sorted(names)))


@settings(max_examples=300, deadline=None)
@given(st.data(), panels.panels(), written, st.sampled_from(sorted(panels.PACKINGS)))
def test_text_in_every_form(
    data: st.DataObject, panel: tuple[str, list[Row]], way: Written, packing: str
) -> None:
    interval, rows = panel
    time = time_of(data, interval)
    thousands = {".": ["", ",", "'"], ",": ["", ".", " "]}[way.decimal]
    way = Written(
        **{**way.__dict__, "time": time, "thousands": data.draw(st.sampled_from(thousands))}
    )
    rows = data.draw(st.permutations(rows))
    # a daily market's midnight by its own clock needs no zone, one of another clock does
    zone = "UTC" if interval == "1d" and time == "new york" else None
    packed = panels.PACKINGS[packing](panels.text_of(rows, way))
    got = read_back(packed, interval, timezone=zone)
    assert got is None or got == panels.as_read(rows)


@settings(max_examples=100, deadline=None)
@given(st.data(), panels.panels(), st.sampled_from(sorted(panels.NAMES.values())))
def test_plain_text_is_never_refused(
    data: st.DataObject, panel: tuple[str, list[Row]], names: tuple[str, ...]
) -> None:
    interval, rows = panel
    time = time_of(data, interval)
    zone = "UTC" if interval == "1d" and time == "new york" else None
    way = Written(names=names, time=time, separator=data.draw(st.sampled_from(",;\t|")))
    assert read_back(panels.text_of(rows, way), interval, timezone=zone) == panels.as_read(rows)


@settings(max_examples=100, deadline=None)
@given(st.data(), panels.panels(), st.sampled_from(sorted(panels.FRAMES)))
def test_frames_in_every_form(data: st.DataObject, panel: tuple[str, list[Row]], form: str) -> None:
    interval, rows = panel
    time = time_of(data, interval)
    zone = "UTC" if interval == "1d" and time == "new york" else None
    names = data.draw(st.sampled_from(sorted(panels.NAMES.values())))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "candles"
        panels.FRAMES[form](panels.frame_of(rows, names, time), path)
        read = from_file(path, interval, ReadOptions(timezone=zone))
    assert panels.candles_of(read) == panels.as_read(rows)


@pytest.mark.parametrize(
    "more", ["", ', "flags": []', ', "flags": ["late"]', ', "venue": {"id": 4}']
)
def test_a_single_json_line_is_a_candle(more: str) -> None:
    line = (
        '{"symbol": "A", "time": "2024-01-02", "open": 1, "high": 2, "low": 0.5, "close": 1.5, '
        f'"volume": 3{more}}}'
    )
    assert read_back(line.encode(), "1d") == [("A", 1_704_153_600_000, (1.0, 2.0, 0.5, 1.5, 3.0))]


@settings(max_examples=50, deadline=None)
@given(panels.panels(), st.booleans())
def test_tables_side_by_side(panel: tuple[str, list[Row]], price_first: bool) -> None:
    interval, rows = panel
    data = panels.wide_of(rows, price_first=price_first)
    assert read_back(data, interval) == panels.as_read(rows)


@settings(max_examples=50, deadline=None)
@given(panels.panels(daily=True))
def test_a_folder_and_a_glob_have_a_file_for_each_symbol(panel: tuple[str, list[Row]]) -> None:
    interval, rows = panel
    with TemporaryDirectory() as name:
        folder = Path(name)
        for symbol in {row[0] for row in rows}:
            frame = panels.frame_of([row for row in rows if row[0] == symbol], time="iso date")
            frame.drop(columns="symbol").to_csv(folder / f"{symbol}.csv", index=False)
        (folder / ".hidden").write_text("x")
        (folder / "_SUCCESS").write_text("x")
        for path in (folder, folder / "*.csv"):
            assert panels.candles_of(from_file(path, interval)) == panels.as_read(rows)


def test_a_folder_of_partitions_names_symbols_by_its_folders(tmp_path: Path) -> None:
    rows: list[Row] = [
        (symbol, day * 86_400_000, (1.0, 2.0, 0.5, 1.5, 3.0)) for symbol in "AB" for day in (3, 4)
    ]
    frame = panels.frame_of(rows, time="iso date")
    panels.partitioned(frame, tmp_path / "data")
    assert panels.candles_of(from_file(tmp_path / "data", "1d")) == panels.as_read(rows)


@settings(max_examples=60, deadline=None)
@given(st.data(), panels.panels())
def test_epochs_that_change_their_unit_within_a_file(
    data: st.DataObject, panel: tuple[str, list[Row]]
) -> None:
    interval, rows = panel
    assume(len(rows) > 1)
    at = data.draw(st.integers(1, len(rows) - 1))
    units = data.draw(st.permutations(["seconds", "milliseconds", "microseconds", "nanoseconds"]))
    frame = pd.concat(
        [panels.frame_of(rows[:at], time=units[0]), panels.frame_of(rows[at:], time=units[1])]
    )
    assert read_back(frame.to_csv(index=False).encode(), interval) == panels.as_read(rows)


@settings(max_examples=60, deadline=None)
@given(panels.panels(), st.sampled_from(["milliseconds", "microseconds", "nanoseconds"]))
def test_epochs_of_one_unit_across_1970(panel: tuple[str, list[Row]], unit: str) -> None:
    """Numbers near 0 have the unit of their neighbours."""
    interval, rows = panel
    values = rows[0][2]
    days = range(-400, 400, 7)
    rows = [("A", day * 86_400_000, values) for day in days]
    del interval
    data = panels.text_of(rows, Written(time=unit))
    got = read_back(data, "1wk")
    assert got == panels.as_read(rows)


@settings(max_examples=60, deadline=None)
@given(st.data(), panels.panels())
def test_adjusted_prices_are_all_scaled_by_one_factor(
    data: st.DataObject, panel: tuple[str, list[Row]]
) -> None:
    interval, rows = panel
    factor = data.draw(st.sampled_from([0.25, 0.5, 1.0, 0.9876, 3.0]))
    name = data.draw(st.sampled_from(["adj_close", "Adj Close", "adjClose", "Adj. Close",
                                      "adjusted_close", "5. adjusted close"]))  # fmt: skip
    frame = panels.frame_of(rows)
    frame[name] = frame["close"] * factor
    expected = []
    for symbol, open_ms, (opened, high, low, close, volume) in rows:
        used = close * factor / close
        prices = (opened * used, high * used, low * used, close * used)
        expected.append((symbol, open_ms, (*prices, volume)))
    got = read_back(frame.to_csv(index=False).encode(), interval)
    assert got == panels.as_read(expected)


@settings(max_examples=50, deadline=None)
@given(panels.panels())
def test_another_order_of_columns_in_the_middle_is_refused(panel: tuple[str, list[Row]]) -> None:
    interval, rows = panel
    first = panels.text_of(rows, Written())
    later = [(symbol, open_ms + 400 * 86_400_000, values) for symbol, open_ms, values in rows]
    second = panels.text_of(later, Written(order=(0, 1, 2, 4, 3, 5, 6)))
    with (
        panels.file(first + second) as path,
        pytest.raises(HistoryError, match="order of the header"),
    ):
        from_file(path, interval)


@settings(max_examples=60, deadline=None)
@given(panels.panels())
def test_the_interval_is_inferred(panel: tuple[str, list[Row]]) -> None:
    interval, rows = panel
    counts = pd.Series([row[0] for row in rows]).value_counts()
    assume((counts - 1).sum() >= 3)
    with panels.file(panels.text_of(rows, Written())) as path:
        assert interval_of(path) == interval


def test_the_form_is_told_by_content_not_by_ending(tmp_path: Path) -> None:
    rows: list[Row] = [("A", day * 86_400_000, (1.0, 2.0, 0.5, 1.5, 3.0)) for day in (3, 4)]
    panels.FRAMES["parquet"](panels.frame_of(rows), tmp_path / "a.parquet")
    for ending in ("a.pq", "a.PARQUET", "a.csv", "a.json", "a"):
        path = tmp_path / ending
        if path.name != "a.parquet":
            shutil.copy(tmp_path / "a.parquet", path)
        assert panels.candles_of(from_file(path, "1d")) == panels.as_read(rows)
