"""Context: the as-of join, its corrections, and what it says of staleness; against a plain loop."""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.candles import DAY_MS
from shared.context import (
    NEVER,
    Contexts,
    ContextSeries,
    ContextSpec,
    ContextStore,
    stack_contexts,
    stale_ms,
)
from shared.window import Push
from tests.candles import candle

HOUR_MS: Final = 3_600_000
SPEC = ContextSpec(symbols=("^GSPC", "^VIX"), interval="1d", length=4)


def daily(count: int, first: float = 100.0, skipped: tuple[int, ...] = ()) -> ContextSeries:
    """Return candles of days whose closes count up, a session of 7 hours from 14:00 each."""
    days = np.array([day for day in range(1, count + 1) if day not in skipped], np.int64)
    closes_ms = days * DAY_MS + 21 * HOUR_MS
    return ContextSeries.of("1d", days * DAY_MS, closes_ms, first + days)


def newest(series: ContextSeries, at_ms: int, length: int = 4) -> list[float]:
    closes, _ = series.as_of(np.array([at_ms]), length)
    return [round(float(close), 3) for close in closes[0]]


def test_a_candle_counts_from_its_close_on_and_never_before() -> None:
    series = daily(9)
    close_ms = 7 * DAY_MS + 21 * HOUR_MS
    assert newest(series, close_ms) == [104, 105, 106, 107], "one that closes at the very time"
    assert newest(series, close_ms - 1) == [103, 104, 105, 106], "today's is not over"
    assert newest(series, 7 * DAY_MS + 15 * HOUR_MS) == [103, 104, 105, 106], "nor within the day"
    _, times = series.as_of(np.array([close_ms, close_ms - 1]), 4)
    assert times.tolist() == [close_ms, close_ms - DAY_MS]


def test_what_is_not_there_is_unknown() -> None:
    series = daily(2)
    closes, times = series.as_of(np.array([DAY_MS, 2 * DAY_MS]), 3)
    assert np.isnan(closes[0]).all(), "before the first close"
    assert times.tolist() == [NEVER, DAY_MS + 21 * HOUR_MS]
    np.testing.assert_array_equal(closes[1], [np.nan, np.nan, 101])
    nothing, never = ContextSeries("1d").as_of(np.array([DAY_MS]), 3)
    assert np.isnan(nothing).all()
    assert never.tolist() == [NEVER]


def test_a_stale_candle_and_what_lies_before_a_long_gap_are_unknown() -> None:
    last_ms = 9 * DAY_MS + 21 * HOUR_MS
    series = daily(9)
    assert newest(series, last_ms + stale_ms("1d"))[-1] == 109
    assert np.isnan(newest(series, last_ms + stale_ms("1d") + 1)).all()
    broken = daily(20, skipped=tuple(range(5, 14)))
    across = newest(broken, 15 * DAY_MS + 22 * HOUR_MS)
    np.testing.assert_array_equal(across, [np.nan, np.nan, 114, 115])
    assert newest(broken, 17 * DAY_MS + 22 * HOUR_MS) == [114, 115, 116, 117]
    assert stale_ms("1wk") > stale_ms("1d") == stale_ms("5m")


@given(st.data())
def test_pushes_in_any_order_equal_a_plain_loop_over_the_candles(data: st.DataObject) -> None:
    """Appends, late candles, corrections and repeats, of a series that also forgets."""
    days = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=60))
    series = ContextSeries("1d", capacity=100)
    held: dict[int, float] = {}
    for number, day in enumerate(days):
        close = float(data.draw(st.integers(1, 3)))
        effect = series.push(day * DAY_MS, day * DAY_MS + HOUR_MS, close)
        is_last = day >= max(held, default=0)
        if day not in held:
            assert effect is (Push.APPENDED if is_last else Push.INSERTED), number
        elif held[day] == close:
            assert effect is Push.DUPLICATE
        else:
            assert effect is (Push.REPLACED_NEWEST if is_last else Push.REPLACED)
        held[day] = close
    at_ms = data.draw(st.integers(0, 50 * DAY_MS))
    assert len(series) == len(held)
    np.testing.assert_array_equal(newest(series, at_ms), plainly(held, at_ms, 4))


def plainly(held: dict[int, float], at_ms: int, length: int) -> NDArray[np.float64]:
    """Return the newest closes by a loop from the newest back."""
    found: list[float] = []
    later_ms = at_ms
    for day in sorted(held, reverse=True):
        close_ms = day * DAY_MS + HOUR_MS
        if close_ms > at_ms:
            continue
        if later_ms - close_ms > stale_ms("1d") or len(found) == length:
            break
        found.append(held[day])
        later_ms = close_ms
    return np.array([np.nan] * (length - len(found)) + found[::-1])


def test_a_series_keeps_its_capacity_and_refuses_what_is_older() -> None:
    series = ContextSeries("1d", capacity=10)
    for day in range(100, 135):
        series.push(day * DAY_MS, (day + 1) * DAY_MS, float(day))
    assert 10 <= len(series) <= 20
    assert newest(series, 135 * DAY_MS) == [131, 132, 133, 134]
    assert series.push(99 * DAY_MS, 100 * DAY_MS, 1.0) is Push.TOO_OLD


def test_a_candle_that_overlaps_another_is_not_taken() -> None:
    series = ContextSeries("1d")
    series.push(2 * DAY_MS, 3 * DAY_MS, 1.0)
    series.push(4 * DAY_MS, 5 * DAY_MS, 1.0)
    assert series.push(3 * DAY_MS, 5 * DAY_MS, 9.0) is Push.OVERLAPS
    assert series.push(5 * DAY_MS - 1, 5 * DAY_MS, 9.0) is Push.OVERLAPS
    assert newest(series, 9 * DAY_MS, 2) == [1, 1]


def test_a_windows_context_says_how_old_it_is() -> None:
    gspc, vix = daily(9), daily(8, 10.0)
    contexts = Contexts(SPEC, {"^GSPC": gspc, "^VIX": vix, "other": gspc})
    at_ms = 9 * DAY_MS + 21 * HOUR_MS
    window = contexts.window(at_ms)
    assert window.closes.tolist() == [[106, 15], [107, 16], [108, 17], [109, 18]]
    assert window.as_of_ms == at_ms - DAY_MS, "the older of the two"
    only = Contexts(SPEC, {"^VIX": vix}).window(at_ms)
    assert np.isnan(only.closes[:, 0]).all()
    assert only.as_of_ms == at_ms - DAY_MS
    assert Contexts(SPEC, {}).window(at_ms).as_of_ms is None
    assert window.content != only.content
    batch, _ = contexts.as_of(np.array([at_ms, at_ms - 1]))
    np.testing.assert_array_equal(batch[0], window.closes)
    np.testing.assert_array_equal(batch[1], contexts.window(at_ms - 1).closes)


def test_a_store_joins_what_it_has_read_by_interval() -> None:
    store = ContextStore()
    first = candle(symbol="^GSPC")
    assert [store.newest_ms(symbol, "1d") for symbol in SPEC.symbols] == [NEVER, NEVER]
    assert store.push(first) is Push.APPENDED
    assert [store.newest_ms(symbol, "1d") for symbol in SPEC.symbols] == [first.close_ms, NEVER]
    window = store.window(SPEC, first.close_ms)
    assert store.window(SPEC, first.close_ms) is window, "all symbols of a close share it"
    assert window.closes[-1, 0] == np.float32(first.close)
    changed = first.model_copy(update={"close": first.low})
    assert store.push(changed) is Push.REPLACED_NEWEST
    assert store.window(SPEC, first.close_ms).closes[-1, 0] == np.float32(first.low)
    minutes = ContextSpec(symbols=("^GSPC",), interval="5m")
    assert store.window(minutes, first.close_ms).as_of_ms is None


def test_contexts_of_a_batch_are_of_one_shape() -> None:
    known = Contexts(SPEC, {"^VIX": daily(9)}).window(9 * DAY_MS + 21 * HOUR_MS)
    stacked = stack_contexts(SPEC, [None, known])
    assert stacked.shape == (2, *SPEC.shape)
    assert stacked.dtype == np.float32
    assert np.isnan(stacked[0]).all()
    longer = ContextSpec(symbols=("^GSPC", "^VIX"), interval="1d", length=5)
    with pytest.raises(ValueError, match=r"expected closes of the shape \(5, 2\), .* got \(4, 2\)"):
        stack_contexts(longer, [known])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"symbols": ()}, "symbols"),
        ({"symbols": ("A", "A")}, "each once"),
        ({"symbols": tuple(f"S{number}" for number in range(17))}, "symbols"),
        ({"interval": "1y"}, "interval"),
        ({"length": 1}, "length"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(fields: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        ContextSpec.model_validate({"symbols": ("A",), "interval": "1d", **fields})
