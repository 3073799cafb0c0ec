"""The times of polls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producer.yahoo.bars import GRACE_MS
from producer.yahoo.schedule import next_poll_ms


@given(now=st.integers(0, 2**41), poll_s=st.integers(1, 3600))
def test_the_next_poll_lies_ahead_within_one_time_on_the_grid_past_the_grace(
    now: int, poll_s: int
) -> None:
    due = next_poll_ms(now, poll_s * 1000)
    assert 0 < due - now <= poll_s * 1000
    assert (due - GRACE_MS) % (poll_s * 1000) == 0
