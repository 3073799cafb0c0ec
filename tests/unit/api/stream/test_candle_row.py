from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.stream.candle_row import CandleRow, KeptCandle

MOST = 5
OPENS = st.integers(-6, 6).map(lambda day: day * 100)  # before 1970 too


def candle(open_ms: int, close: float) -> KeptCandle:
    return KeptCandle(open_ms, open_ms + 99, 1.1, 1.3, 0.7, close, 12.5, open_ms + 107)


@given(st.lists(st.tuples(OPENS, st.sampled_from((0.9, 1.2))), max_size=40))
def test_it_holds_the_newest_candles_by_time_as_corrected_last(
    given: list[tuple[int, float]],
) -> None:
    """Against a dict: what is older than a full row is left out, a repeat changes nothing."""
    row = CandleRow()
    expected: dict[int, KeptCandle] = {}
    for open_ms, close in given:
        one = candle(open_ms, close)
        is_lost = len(expected) == MOST and open_ms < max(expected) and open_ms not in expected
        is_new = not is_lost and expected.get(open_ms) != one
        assert row.put(one, MOST) is is_new
        if is_new:
            expected[open_ms] = one
        if len(expected) > MOST:
            del expected[min(expected)]
    kept = [expected[open_ms] for open_ms in sorted(expected)]
    assert list(row) == kept
    assert row.newest(3) == kept[-3:]
    for open_ms in range(-600, 700, 100):
        assert row.closed_at(open_ms + 99) == expected.get(open_ms)
    assert row.closed_at(98) is None
    assert "appended_ms" not in candle(0, 1.0).as_json()
