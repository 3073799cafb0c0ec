"""Names of intervals, and midnights."""

from __future__ import annotations

from datetime import date

import pytest
from pydantic_core import PydanticCustomError

from shared.candles import INTERVALS_MS, known_interval, midnight_ms


def test_midnight_is_in_utc() -> None:
    assert midnight_ms(date(1970, 1, 1)) == 0
    assert midnight_ms(date(1969, 12, 31)) == -86_400_000
    assert midnight_ms(date(2013, 3, 1)) == 1_362_096_000_000


def test_a_setting_s_interval_is_a_known_one() -> None:
    for interval in INTERVALS_MS:
        assert known_interval(interval) == interval
    with pytest.raises(PydanticCustomError, match=r"^expected one of 1m, 2m, .*, 1wk$"):
        known_interval("7m")
