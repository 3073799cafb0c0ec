"""What is wrong or odd about a table: found by rule, told by row, all of it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from trainer import dataset, quality

HEADER = "symbol,date,open,high,low,close,volume"
DIRTY = """\
B,2020-01-02,10,11,9,10,100
A,2020-01-02,10,11,9,10,0
A,2020-01-06,10,10,10,10,100
A,2020-01-03,10,11,9,10,100
A,2020-01-03,10,11,9,10,100
A,2020-01-07,10,nan,9,10,100
A,2020-01-08,10,8,9,10,100
A,2020-01-09,31,33,30,32,0
"""


def load(folder: Path, text: str, interval: str = "1d") -> dataset.Dataset:
    path = folder / "dirty.csv"
    path.write_text(text, "utf-8")
    return dataset.load(path, interval)


@pytest.fixture
def dirty(tmp_path: Path) -> dataset.Dataset:
    return load(tmp_path, f"{HEADER}\n{DIRTY}")


def test_every_rule_names_its_rows(dirty: dataset.Dataset) -> None:
    assert {name: len(one.open_ms) for name, one in dirty.symbols.items()} == {"A": 4, "B": 1}
    assert [one.row for one in dirty.rejected] == [6, 7, 8]
    rows = {one.rule.split(":")[0]: (one.symbol, one.rows) for one in dirty.findings}
    assert rows == {
        "after a row of a later time": ("A", (5,)),
        "no volume": ("A", (3, 9)),
        "halted": ("A", (4,)),
        "the close doubled or halved": ("A", (9,)),
    }
    [short] = [one for one in dataset.too_short(dirty, 2) if one.symbol == "B"]
    assert (short.rule, short.rows) == ("history too short: expected at least 2 candles", (2,))
    assert dataset.too_short(dirty, 5)[0].count == 4
    assert not dataset.too_short(dirty, 1)


def test_the_log_tells_row_rule_and_count(dirty: dataset.Dataset) -> None:
    told = list(quality.lines(dirty.rejected, dirty.findings, ("sector",)))
    assert told[0] == "row 6: A: expected each candle once, got that of row 5 again: left out"
    assert told[3] == "3 rows left out: 2 inconsistent, 1 not_finite"
    assert "A: no volume (2 candles, the first of 2020-01-02, row 3)" in told
    assert (
        "A: after a row of a later time: sorted (1 candle, the first of 2020-01-03, row 5)" in told
    )
    assert told[-1] == "columns that are not used: 'sector'"
    assert not list(quality.lines((), (), ()))


def test_many_symbols_are_counted_and_not_told_one_by_one(tmp_path: Path) -> None:
    rows = [f"S{i:02d},2020-01-0{day},1,1,1,1,0" for i in range(14) for day in (2, 3)]
    found = load(tmp_path, "\n".join([HEADER, *rows]))
    told = list(quality.lines(found.rejected, found.findings, ()))
    assert len(told) == 2 * (quality.SHOWN + 1)
    assert told[quality.SHOWN] == "4 other symbols: halted: one price all along (8 candles)"


def test_the_file_holds_every_row_that_is_told_of(dirty: dataset.Dataset, tmp_path: Path) -> None:
    quality.write(tmp_path / "bad.csv", dirty.rejected, dirty.findings)
    with (tmp_path / "bad.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(one["row"]) for one in rows] == [3, 4, 5, 6, 7, 8, 9, 9]
    assert [one["row"] for one in rows if one["left_out"] == "yes"] == ["6", "7", "8"]
    assert rows[0] == {
        "row": "3", "symbol": "A", "open_ms": "1577923200000", "left_out": "no",
        "rule": "no volume",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("step", "odd"), [(86_400_000, 0), (82_800_000, 0), (86_400, 3), (3_600_000, 3)]
)
def test_times_that_are_no_milliseconds_or_of_another_interval_are_told(
    tmp_path: Path, step: int, odd: int
) -> None:
    header = HEADER.replace("date", "open_ms")
    rows = [f"A,{1_577_923_200_000 + i * step},10,11,9,10,1" for i in range(4)]
    found = load(tmp_path, "\n".join([header, *rows]))
    assert sum(one.count for one in found.findings) == odd
