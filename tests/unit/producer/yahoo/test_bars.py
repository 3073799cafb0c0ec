"""Which bars are closed and new: against the definition, at any sequence of polls."""

from __future__ import annotations

import math
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.yahoo.bars import GRACE_MS, QUIET_MS, Bar, Response, closed_after, is_closed
from shared.candles import MINUTE_MS
from tests.new_york import at

START_MS = at(date(2026, 8, 5), 9, 30)
END_MS = at(date(2026, 8, 5), 16)


def closed(bars: list[Bar], newest_ms: int | None, market_ms: int, now_ms: int) -> list[Bar]:
    return closed_after(Response(bars, market_ms=market_ms, received_ms=now_ms), newest_ms)


def bar_of(open_ms: int, end_ms: int, price: float = 10.0) -> Bar:
    return Bar(open_ms, end_ms, price, price, price, price, 1.0)


@pytest.mark.parametrize(
    ("market_s", "now_s", "closed"),
    [
        (0, -1, False),  # forming
        (0, 14.999, False),  # Yahoo may still change it
        (0, 15, True),
        (-0.001, 15, False),  # the feed has not come this far
        (-0.001, 119.999, False),
        (-0.001, 120, True),  # nothing has traded since
    ],
)
def test_closed_means_past_the_grace_and_passed_by_the_market(
    market_s: float, now_s: float, *, closed: bool
) -> None:
    end = END_MS
    assert is_closed(end, end + int(market_s * 1000), end + int(now_s * 1000)) is closed


def minutes(count: int, *, blank: frozenset[int] = frozenset()) -> list[Bar]:
    start = START_MS
    return [
        bar_of(start + i * MINUTE_MS, start + (i + 1) * MINUTE_MS, math.nan if i in blank else 10.0)
        for i in range(count)
    ]


def test_only_closed_and_newer_bars_come_and_in_order() -> None:
    bars = minutes(5)
    now = bars[3].end_ms + GRACE_MS
    ready = closed(bars[::-1], bars[0].open_ms, now, now)
    assert [bar.open_ms for bar in ready] == [bar.open_ms for bar in bars[1:4]]


def test_a_blank_bar_holds_the_later_ones_back_until_it_counts_as_empty() -> None:
    bars = minutes(3, blank=frozenset({1}))
    soon = bars[2].end_ms + GRACE_MS
    assert closed(bars, None, soon, soon) == bars[:1]
    late = bars[1].end_ms + QUIET_MS
    assert closed(bars, None, late, late) == [bars[0], bars[2]]


def test_a_bar_that_comes_twice_is_taken_once() -> None:
    bars = minutes(2)
    now = bars[1].end_ms + QUIET_MS
    assert closed([*bars, *bars], None, now, now) == bars


@given(
    waits_s=st.lists(st.integers(1, 200), min_size=1, max_size=80),
    lag_s=st.integers(0, 90),
    filled_late=st.sets(st.integers(0, 59)),
    never_filled=st.sets(st.integers(0, 59)),
)
def test_polls_at_any_times_give_every_candle_once_in_order_and_none_early(
    waits_s: list[int], lag_s: int, filled_late: set[int], never_filled: set[int]
) -> None:
    """An hour of minutes; the feed lags, some bars have prices late, some never."""
    truth = minutes(60)
    now, after, got = START_MS, None, []
    for wait_s in [*waits_s, 3600 + 200]:
        now += wait_s * 1000
        shown = [
            minute
            if (i not in filled_late or now >= minute.end_ms + 100_000) and i not in never_filled
            else bar_of(minute.open_ms, minute.end_ms, math.nan)
            for i, minute in enumerate(truth)
            if minute.open_ms <= now
        ]
        for bar in closed(shown, after, now - lag_s * 1000, now):
            assert now >= bar.end_ms + GRACE_MS
            got.append(bar)
            after = bar.open_ms
    assert got == [minute for i, minute in enumerate(truth) if i not in never_filled]
