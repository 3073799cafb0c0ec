"""The window against an oracle: a dictionary of times, cut to the newest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.candles import Candle
from shared.window import RECORD_BYTES, Push, Window, stack
from tests.candles import candle, candles_at, walk


def fill(window: Window, candles: list[Candle]) -> Window:
    for one in candles:
        window, _ = window.push(one)
    return window


def closes(window: Window) -> list[float]:
    return [round(float(row[3]), 3) for row in window.ohlcv()]


@given(st.data())
def test_any_order_of_pushes_equals_the_oracle(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 6))
    days = data.draw(st.lists(st.integers(0, 9), max_size=30))
    window, oracle = Window(capacity), dict[int, Candle]()
    for one in data.draw(candles_at(days)):
        window, push = window.push(one)
        full_and_older = len(oracle) == capacity and one.open_ms < min(oracle)
        assert (push is Push.TOO_OLD) == full_and_older
        if not full_and_older:
            oracle[one.open_ms] = one
            oracle = dict(sorted(oracle.items())[-capacity:])
    expected = [(c.open, c.high, c.low, c.close, c.volume) for c in oracle.values()]
    assert [tuple(row) for row in window.ohlcv().tolist()] == expected
    assert window.first_open_ms == next(iter(oracle), None)
    assert window.last_open_ms == next(reversed(oracle), None)


@pytest.mark.parametrize(
    ("day", "close", "push", "expected"),
    [
        (4, 50.0, Push.APPENDED, [12, 13, 50]),
        (3, 50.0, Push.REPLACED_NEWEST, [11, 12, 50]),
        (3, 13.0, Push.DUPLICATE, [11, 12, 13]),
        (2, 50.0, Push.REPLACED, [11, 50, 13]),
        (2, 12.0, Push.DUPLICATE, [11, 12, 13]),
        (0, 50.0, Push.TOO_OLD, [11, 12, 13]),
    ],
)
def test_each_rule_on_a_full_window(
    day: int, close: float, push: Push, expected: list[float]
) -> None:
    full = fill(Window(3), [candle(i, 10.0 + i) for i in range(4)])
    window, got = full.push(candle(day, close))
    assert got is push
    assert closes(window) == expected
    assert closes(full) == [11, 12, 13], "a push leaves the window that it was given alone"


def test_a_late_candle_takes_its_place_and_the_oldest_goes() -> None:
    full = fill(Window(3), [candle(i, 10.0 + i) for i in (0, 1, 3)])
    window, push = full.push(candle(2, 12.0))
    assert push is Push.INSERTED
    assert closes(window) == [11, 12, 13]


def test_records_survive_storage_and_are_cut_to_a_smaller_capacity() -> None:
    window = fill(Window(5), walk(7))
    assert Window.from_records(5, window.records) == window
    assert closes(Window.from_records(2, window.records)) == closes(window)[-2:]
    assert len(window.records) == 5 * RECORD_BYTES


def test_weekend_trading_is_seen_in_the_window() -> None:
    weekdays = fill(Window(5), [candle(i) for i in range(5)])
    assert not weekdays.trades_weekends
    assert weekdays.push(candle(5))[0].trades_weekends


def test_stack_keeps_order_and_values() -> None:
    windows = [fill(Window(4), walk(4, first=i)) for i in range(3)]
    stacked, open_ms = stack(windows)
    assert stacked.shape == (3, 4, 5)
    assert stacked.dtype == np.float64
    assert open_ms[:, -1].tolist() == [window.last_open_ms for window in windows]
    for i, window in enumerate(windows):
        np.testing.assert_array_equal(stacked[i], window.ohlcv())
