"""Names of intervals, and midnights."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from shared.candles import DAY_MS, INTERVALS_MS, interval_named, known_interval, midnight_ms
from shared.forecasts import due_ms
from shared.intervals import Steps, close_ms_of, length_in_words
from shared.messages import END_MS, FIRST_MS


def test_midnight_is_in_utc() -> None:
    assert midnight_ms(date(1970, 1, 1)) == 0
    assert midnight_ms(date(1969, 12, 31)) == -86_400_000
    assert midnight_ms(date(2013, 3, 1)) == 1_362_096_000_000


def test_a_setting_s_interval_is_a_known_one() -> None:
    for interval in INTERVALS_MS:
        assert known_interval(interval) == interval
    with pytest.raises(PydanticCustomError, match=r"^expected one of 1m, 2m, .*, 1mo$"):
        known_interval("7m")


@pytest.mark.parametrize(
    ("interval", "spellings"),
    [
        ("1m", "1m 1min 1T M1 1minute 1"),
        ("5m", "5m 5min M5 5 5minutes"),
        ("60m", "60m 60min 60"),
        ("1h", "1h 1H H1 1hour hourly h"),
        ("4h", "4h 4H H4 240 240m 240min"),
        ("1d", "1d 1D D D1 daily day 1day 24h 1440"),
        ("1wk", "1wk 1w W W1 weekly 7d 1week"),
        ("1mo", "1mo 1M M MN1 monthly 1month"),
    ],
)
def test_an_interval_has_many_names(interval: str, spellings: str) -> None:
    assert {interval_named(name) for name in spellings.split()} == {interval}


@pytest.mark.parametrize("name", ["", "7m", "5M", "0", "0m", "1y", "tick", "m1x", "-1d", "1 2 m"])
def test_other_names_are_none(name: str) -> None:
    assert interval_named(name) is None


@given(st.dates(date(1900, 1, 1), date(2190, 1, 1)), st.integers(1, 40))
def test_months_fall_due_month_by_month(day: date, step: int) -> None:
    """Against numpy's months; a close inside a month stays as far from its end."""
    first = np.datetime64(day, "M")
    end_ms = int((first + 1).astype("datetime64[ms]").astype(np.int64))
    later_ms = int((first + 1 + step).astype("datetime64[ms]").astype(np.int64))
    for early in (0, 3 * 3_600_000):
        assert due_ms(end_ms - early, "1mo", step, trades_weekends=True) == later_ms - early


@given(st.integers(FIRST_MS, END_MS - 32 * DAY_MS))
def test_a_month_closes_with_its_own_length(open_ms: int) -> None:
    [close_ms] = close_ms_of(np.array([open_ms]), "1mo").tolist()
    month = np.datetime64(open_ms, "ms").astype("datetime64[M]")
    days = ((month + 1).astype("datetime64[D]") - month.astype("datetime64[D]")).astype(int)
    assert close_ms - open_ms == int(days) * DAY_MS


@pytest.mark.parametrize(
    ("steps", "interval", "fits"),
    [
        ([DAY_MS] * 9, "1d", "1d 5d"),
        ([7 * DAY_MS] * 9, "1wk", "1wk 5d"),
        ([DAY_MS * days for days in (31, 28, 31, 30)], "1mo", "1mo"),
        ([60_000, 60_000, 120_000], "1m", "1m 2m"),
        ([86_400] * 4, None, ""),
        ([DAY_MS, DAY_MS], "1d", "1h 1m 1d 4h"),  # too few to tell of missing candles
    ],
)
def test_steps_tell_their_interval(steps: list[int], interval: str | None, fits: str) -> None:
    found = Steps.of([np.cumsum([0, *steps])])
    assert found.interval() == interval
    assert found.total == len(steps)
    for name in ("1m", "1h", "1d", "1wk", "1mo"):
        if name in fits.split():
            assert not found.contradict(name)
    if len(steps) > 2:
        assert found.contradict("1h")


def test_no_candle_has_no_step() -> None:
    found = Steps.of([])
    assert (found.total, found.usual_ms, found.interval()) == (0, 0, None)
    assert not found.contradict("1d")


def test_lengths_are_told_as_people_say_them() -> None:
    lengths = [100, 3_600, 86_400, 60_000, 5_400_000, 3_600_000, DAY_MS, 7 * DAY_MS]
    words = ["100 ms", "3.6 s", "1.44 minutes", "1m", "90m", "1h", "1d", "7d"]
    assert [length_in_words(length) for length in lengths] == words
