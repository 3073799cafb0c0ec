"""When bars end, by the sessions of their exchange."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from producer.yahoo.sessions import Session, daily_end_ms, days_end_ms, intraday_end_ms
from shared.candles import DAY_MS, MINUTE_MS, midnight_ms

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


def test_sessions_of_a_whole_year_end_on_the_clock_whatever_the_season() -> None:
    for back in range(365):
        day = date(2026, 8, 5) - timedelta(days=back)
        end = daily_end_ms(day, SESSION, NEW_YORK)
        assert end == at(day.year, day.month, day.day, 16, 0)
        assert midnight_ms(day) < end <= midnight_ms(day) + DAY_MS
