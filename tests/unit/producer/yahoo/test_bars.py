"""Closed, new, in order: against the definition, at any sequence of polls."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.yahoo.bars import (
    GRACE_MS,
    QUIET_MS,
    Bar,
    Session,
    closed_new,
    daily_end_ms,
    days_end_ms,
    intraday_end_ms,
    is_closed,
    midnight_ms,
)
from shared.candles import DAY_MS, MINUTE_MS

NEW_YORK = ZoneInfo("America/New_York")
HOUR_MS = 60 * MINUTE_MS


def at(*moment: int, zone: ZoneInfo = NEW_YORK) -> int:
    """Return a moment of a zone in UTC epoch milliseconds."""
    return int(datetime(*moment, tzinfo=zone).timestamp() * 1000)  # type: ignore[misc,arg-type]


SESSION = Session(at(2026, 8, 5, 9, 30), at(2026, 8, 5, 16, 0))
HALF_DAY = Session(at(2026, 11, 27, 9, 30), at(2026, 11, 27, 13, 0))
COIN_DAY = Session(
    at(2026, 8, 5, zone=ZoneInfo("UTC")), at(2026, 8, 5, 23, 59, zone=ZoneInfo("UTC"))
)


def bar(open_ms: int, end_ms: int, price: float = 10.0) -> Bar:
    return Bar(open_ms, end_ms, price, price, price, price, 1.0)


@pytest.mark.parametrize(
    ("start", "step_ms", "session", "end"),
    [
        (at(2026, 8, 5, 15, 43), MINUTE_MS, SESSION, at(2026, 8, 5, 15, 44)),
        (at(2026, 8, 5, 14, 30), HOUR_MS, SESSION, at(2026, 8, 5, 15, 30)),
        (at(2026, 8, 5, 15, 30), HOUR_MS, SESSION, at(2026, 8, 5, 16, 0)),
        (at(2026, 8, 5, 15, 30), 90 * MINUTE_MS, SESSION, at(2026, 8, 5, 16, 0)),
        (at(2026, 11, 27, 12, 30), HOUR_MS, HALF_DAY, at(2026, 11, 27, 13, 0)),
        (COIN_DAY.start_ms + 23 * HOUR_MS, HOUR_MS, COIN_DAY, COIN_DAY.start_ms + DAY_MS),
        (COIN_DAY.end_ms, MINUTE_MS, COIN_DAY, COIN_DAY.start_ms + DAY_MS),
    ],
)
def test_an_intraday_bar_ends_with_its_step_or_its_session(
    start: int, step_ms: int, session: Session, end: int
) -> None:
    assert intraday_end_ms(start, step_ms, [SESSION, session]) == end


@pytest.mark.parametrize(
    "start",
    [
        at(2026, 8, 5, 15, 43, 27),  # Yahoo's row of the last trade
        at(2026, 8, 5, 16, 0),  # after the session
        at(2026, 8, 5, 9, 29),  # before it
        at(2026, 8, 4, 15, 43),  # a day whose session is not known
    ],
)
def test_a_row_off_the_grid_has_no_end(start: int) -> None:
    assert intraday_end_ms(start, MINUTE_MS, [SESSION]) is None


def test_the_running_day_ends_with_its_session_and_other_days_at_the_same_clock_time() -> None:
    assert daily_end_ms(date(2026, 8, 5), SESSION, NEW_YORK) == at(2026, 8, 5, 16, 0)
    assert daily_end_ms(date(2026, 11, 27), HALF_DAY, NEW_YORK) == at(2026, 11, 27, 13, 0)
    assert daily_end_ms(date(2026, 8, 4), SESSION, NEW_YORK) == at(2026, 8, 4, 16, 0)
    # winter time: the same clock time is an hour later in UTC
    assert daily_end_ms(date(2026, 1, 5), SESSION, NEW_YORK) == at(2026, 1, 5, 16, 0)


def test_a_day_of_a_market_that_never_closes_ends_at_midnight() -> None:
    utc = ZoneInfo("UTC")
    assert daily_end_ms(date(2026, 8, 5), COIN_DAY, utc) == midnight_ms(date(2026, 8, 6))
    assert daily_end_ms(date(2026, 8, 3), COIN_DAY, utc) == midnight_ms(date(2026, 8, 4))


def test_a_week_ends_at_local_midnight() -> None:
    assert days_end_ms(date(2026, 8, 3), 7, NEW_YORK) == at(2026, 8, 10)


def test_midnight_is_in_utc() -> None:
    assert midnight_ms(date(2026, 8, 5)) == datetime(2026, 8, 5, tzinfo=UTC).timestamp() * 1000


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
    end = SESSION.end_ms
    assert is_closed(end, end + int(market_s * 1000), end + int(now_s * 1000)) is closed


def minutes(count: int, *, blank: frozenset[int] = frozenset()) -> list[Bar]:
    start = SESSION.start_ms
    return [
        bar(start + i * MINUTE_MS, start + (i + 1) * MINUTE_MS, math.nan if i in blank else 10.0)
        for i in range(count)
    ]


def test_only_closed_and_newer_bars_come_and_in_order() -> None:
    bars = minutes(5)
    now = bars[3].end_ms + GRACE_MS
    ready = closed_new(bars[::-1], bars[0].open_ms, now, now)
    assert [one.open_ms for one in ready] == [one.open_ms for one in bars[1:4]]


def test_a_blank_bar_holds_the_later_ones_back_until_it_counts_as_empty() -> None:
    bars = minutes(3, blank=frozenset({1}))
    soon = bars[2].end_ms + GRACE_MS
    assert closed_new(bars, None, soon, soon) == bars[:1]
    late = bars[1].end_ms + QUIET_MS
    assert closed_new(bars, None, late, late) == [bars[0], bars[2]]


def test_a_bar_that_comes_twice_is_taken_once() -> None:
    bars = minutes(2)
    now = bars[1].end_ms + QUIET_MS
    assert closed_new([*bars, *bars], None, now, now) == bars


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
    now, after, got = SESSION.start_ms, None, []
    for wait_s in [*waits_s, 3600 + 200]:
        now += wait_s * 1000
        shown = [
            one
            if (i not in filled_late or now >= one.end_ms + 100_000) and i not in never_filled
            else bar(one.open_ms, one.end_ms, math.nan)
            for i, one in enumerate(truth)
            if one.open_ms <= now
        ]
        for one in closed_new(shown, after, now - lag_s * 1000, now):
            assert now >= one.end_ms + GRACE_MS
            got.append(one)
            after = one.open_ms
    assert got == [one for i, one in enumerate(truth) if i not in never_filled]


def test_sessions_of_a_whole_year_end_on_the_clock_whatever_the_season() -> None:
    for back in range(365):
        day = date(2026, 8, 5) - timedelta(days=back)
        end = daily_end_ms(day, SESSION, NEW_YORK)
        assert end == at(day.year, day.month, day.day, 16, 0)
        assert midnight_ms(day) < end <= midnight_ms(day) + DAY_MS
