"""What is odd about candles: found by rule, told by the first of each, all of it in the file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.candles import DAY_MS
from shared.files import findings
from shared.files.findings import GAP, HALTED, JUMP, LATE, NO_VOLUME, OUTLIER, REVERSED, SPLIT
from shared.files.series import History, HistoryError, SymbolRows
from shared.history import ReadOptions, bundled, from_file

HEADER = "symbol,date,open,high,low,close,volume"
DIRTY = """\
B,2020-01-02,10,11,9,10,100
A,2020-01-02,10,11,9,10,0
A,2020-01-06,10,10,10,10,100
A,2020-01-03,10,11,9,10,100
A,2020-01-03,10,11,9,10,100
A,2020-01-07,10,nan,9,10,100
A,2020-01-08,10,8,9,10,100
A,2020-01-09,45,46,44,45,0
"""
AGAIN = "expected each candle once, got that of row 5 again"
START_MS = 1_577_923_200_000  # 2020-01-02, a Thursday


def load(folder: Path, text: str, interval: str = "1d", **options: Any) -> History:
    path = folder / "dirty.csv"
    path.write_text(text, "utf-8")
    return from_file(path, interval, ReadOptions(allow_bad_rows=True, **options))


@pytest.fixture
def dirty(tmp_path: Path) -> History:
    return load(tmp_path, f"{HEADER}\n{DIRTY}")


def lines_of(history: History) -> list[str]:
    return list(findings.lines(history, findings.of_history(history)))


def test_every_rule_names_its_rows(dirty: History) -> None:
    assert {rows.symbol: len(rows.open_ms) for rows in dirty.series} == {"A": 4, "B": 1}
    assert [row.row for row in dirty.rejected] == [6, 7, 8]
    found = {
        finding.rule: [(spots.symbol, spots.places.tolist()) for spots in finding.spots]
        for finding in findings.of_history(dirty)
    }
    assert found == {
        LATE: [("A", [5])],
        NO_VOLUME: [("A", [3, 9])],
        HALTED: [("A", [4])],
        JUMP: [("A", [9])],
    }
    [short] = findings.too_short(dirty, 2)
    assert [spots.symbol for spots in short.spots] == ["B"]
    assert short.rule == "history too short: expected at least 2 candles"
    assert findings.too_short(dirty, 5)[0].count == 5
    assert not findings.too_short(dirty, 1)


def test_the_log_has_a_line_a_rule_with_count_and_first(dirty: History) -> None:
    assert lines_of(dirty) == [
        f"1 row left out (duplicate), the first row 6: A: {AGAIN}",
        "1 row left out (inconsistent), the first row 8: high: expected at least low 9, got 8",
        "1 row left out (not_finite), the first row 7: high: expected a finite number, got NaN",
        f"{LATE} (1 candle; the first A 2020-01-03, row 5)",
        f"{NO_VOLUME} (2 candles; the first A 2020-01-02, row 3)",
        f"{HALTED} (1 candle; the first A 2020-01-06, row 4)",
        f"{JUMP} (1 candle; the first A 2020-01-09, row 9)",
    ]


def test_a_clean_history_has_no_line(tmp_path: Path) -> None:
    assert not lines_of(load(tmp_path, f"{HEADER}\nA,2020-01-02,10,11,9,10,5\n"))


def test_many_symbols_are_one_line(tmp_path: Path) -> None:
    rows = [f"S{i:02d},2020-01-0{day},1,1,1,1,0" for i in range(14) for day in (2, 3)]
    told = lines_of(load(tmp_path, "\n".join([HEADER, *rows])))
    about = "(28 candles of 14 symbols; up to 2 in a row; the first S00 2020-01-02, row 2)"
    assert told == [f"{NO_VOLUME} {about}", f"{HALTED} {about}"]


def test_the_file_holds_every_row_that_is_told_of(dirty: History, tmp_path: Path) -> None:
    findings.write(tmp_path / "bad.csv", dirty, findings.of_history(dirty))
    with (tmp_path / "bad.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == [3, 4, 5, 6, 7, 8, 9, 9]
    assert [row["row"] for row in rows if row["left_out"] == "yes"] == ["6", "7", "8"]
    assert rows[0] == {
        "file": "", "row": "3", "symbol": "A", "open_ms": "1577923200000", "left_out": "no",
        "rule": "no volume",
    }  # fmt: skip


def test_the_bundled_data_are_clean_but_for_a_crash_and_an_attack() -> None:
    """AAPL lost half its price on 2000-09-29 by a profit warning; no gap is above a week."""
    assert lines_of(bundled()) == [f"{JUMP} (1 candle; the first AAPL 2000-09-29, row 150)"]


def walk(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return business days and candles (n, 5) of a quiet walk."""
    rng = np.random.default_rng(seed)
    days = np.busday_offset(np.datetime64("2020-01-02"), np.arange(count)).astype("datetime64[ms]")
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    opened = np.r_[100, close[:-1]] * np.exp(rng.normal(0, 0.003, count))
    high, low = np.maximum(opened, close) * 1.004, np.minimum(opened, close) * 0.996
    volume = rng.uniform(3e5, 5e5, count)
    return days.astype(np.int64), np.column_stack([opened, high, low, close, volume])


def history_of(open_ms: np.ndarray, candles: np.ndarray, interval: str = "1d") -> History:
    places = np.arange(2, len(open_ms) + 2, dtype=np.int64)
    return History("test", interval, (SymbolRows("A", places, open_ms, None, candles),))


def rules_of(history: History) -> dict[str, list[int]]:
    return {
        finding.rule: finding.spots[0].open_ms.tolist() for finding in findings.of_history(history)
    }


@given(
    st.sampled_from(findings.SPLITS),
    st.booleans(),
    st.integers(10, 80),
    st.floats(-0.015, 0.015),
    st.integers(0, 20),
)
def test_a_split_of_any_common_ratio_is_found_on_any_day(
    split: tuple[int, int], reverse: bool, at: int, gap: float, seed: int
) -> None:
    open_ms, candles = walk(100, seed)
    new, old = split[::-1] if reverse else split
    candles[at:, :4] *= old / new * np.exp(gap)
    candles[at:, 4] *= new / old
    [found] = [f for f in findings.of_history(history_of(open_ms, candles)) if f.rule == SPLIT]
    assert found.spots[0].open_ms.tolist() == [open_ms[at]]
    assert found.first.about == f"{new}:{old}"


@given(st.integers(0, 200))
def test_a_quiet_walk_has_nothing_odd(seed: int) -> None:
    assert not rules_of(history_of(*walk(300, seed)))


def test_a_crash_on_many_times_the_volume_is_not_a_split() -> None:
    open_ms, candles = walk(100)
    candles[50:, :4] *= 0.75
    candles[50, 4] *= 9
    assert SPLIT not in rules_of(history_of(open_ms, candles))


@pytest.mark.parametrize("factor", [0.01, 0.7, 1.5, 100.0])
def test_a_price_that_leaps_and_comes_back_is_an_outlier(factor: float) -> None:
    open_ms, candles = walk(100)
    candles[50, :4] *= factor
    assert rules_of(history_of(open_ms, candles)) == {OUTLIER: [open_ms[50]]}
    open_ms, candles = walk(100)
    candles[50, 1 if factor > 1 else 2] *= factor
    if abs(np.log(factor)) > 0.4:
        assert rules_of(history_of(open_ms, candles)) == {OUTLIER: [open_ms[50]]}


def test_gaps_are_told_by_length() -> None:
    open_ms, candles = walk(100)
    kept = np.ones(100, bool)
    kept[20:30] = kept[50:70] = False
    history = history_of(open_ms[kept], candles[kept])
    assert rules_of(history)[GAP] == [open_ms[30], open_ms[70]]
    [line] = [line for line in lines_of(history) if line.startswith(GAP)]
    assert line.startswith(
        f"{GAP} (2 candles; by candles: 2 up to 100; the longest 29d; the first A"
    )


def test_nights_and_weekends_are_no_gaps_and_missing_minutes_are() -> None:
    days = (
        np.busday_offset(np.datetime64("2020-01-02"), np.arange(8))
        .astype("datetime64[ms]")
        .astype(np.int64)
    )
    minutes = np.concatenate([day + 52_200_000 + np.arange(390) * 60_000 for day in days])
    candles = np.tile(walk(390)[1], (8, 1))
    candles[:, :4] = 100, 101, 99, 100
    assert GAP not in rules_of(history_of(minutes, candles, "1m"))
    missing = np.ones(len(minutes), bool)
    missing[100:105] = False
    found = rules_of(history_of(minutes[missing], candles[missing], "1m"))
    assert found[GAP] == [minutes[105]]


def test_a_market_that_never_closes_has_a_gap_where_a_day_is_missing() -> None:
    open_ms = START_MS + np.arange(50) * DAY_MS
    candles = walk(50)[1]
    kept = np.arange(50) != 20
    assert rules_of(history_of(open_ms[kept], candles[kept])) == {GAP: [open_ms[21]]}


def test_a_table_with_the_newest_first_is_one_finding(tmp_path: Path) -> None:
    rows = [f"A,2020-01-{day:02d},10,11,9,10,5" for day in range(31, 0, -1)]
    assert lines_of(load(tmp_path, "\n".join([HEADER, *rows]))) == [
        f"{REVERSED} (31 candles; the first A 2020-01-01, row 32)"
    ]


def test_adj_close_over_a_split_beside_a_raw_volume_is_told(tmp_path: Path) -> None:
    rows = [f"A,2020-01-{day:02d},8,9,7,8,5,{2 if day < 9 else 8}" for day in range(1, 20)]
    text = "\n".join([f"{HEADER},adjClose", *rows])
    [line] = [line for line in lines_of(load(tmp_path, text)) if "adj_close" in line]
    assert line.startswith("prices are scaled by adj_close over 1 splits, the volume is as traded")
    scaled = "\n".join([f"{HEADER},adjClose,adjVolume", *(f"{row},7" for row in rows)])
    history = load(tmp_path, scaled)
    assert not [line for line in lines_of(history) if "adj_close" in line]
    assert set(history.series[0].candles[:, 4]) == {7.0}


def test_a_rule_that_rejects_many_rows_refuses_the_table(tmp_path: Path) -> None:
    good = [f"A,2020-01-{day:02d},10,11,9,10,5" for day in range(1, 20)]
    path = tmp_path / "candles.csv"
    path.write_text("\n".join([HEADER, *good, "A,2020-01-20,10,8,9,10,5"]))
    assert from_file(path, "1d").left_out == {"inconsistent": 1}
    path.write_text(
        "\n".join([HEADER, *good, "A,2020-01-20,10,8,9,10,5", "A,2020-01-21,10,8,9,10,5"])
    )
    with pytest.raises(HistoryError) as raised:
        from_file(path, "1d")
    assert str(raised.value) == (
        f"{path}: 2 of 21 rows break a rule (inconsistent), more than 5%; the first is row 21: "
        "high: expected at least low 9, got 8. Mend the file, or leave such rows out by "
        "--allow-bad-rows"
    )
    read = from_file(path, "1d", ReadOptions(allow_bad_rows=True))
    assert (read.count, read.left_out) == (19, {"inconsistent": 2})
