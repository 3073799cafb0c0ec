"""Bars from ticks."""

from __future__ import annotations

from producer.yahoo.bars import Bar
from producer.yahoo.sessions import Session
from producer.yahoo.ticks import LATE_MS, Tick, TickBars
from shared.candles import MINUTE_MS
from tests.new_york import at
from tests.ticker_frames import DAY, OPEN_MS, tick

SESSIONS = (Session(at(DAY, 9, 30), at(DAY, 16)),)


def fed(*ticks: Tick, start_s: float = -30) -> tuple[TickBars, list[Bar]]:
    bars, ended = TickBars(MINUTE_MS), []
    bars.start(OPEN_MS + int(start_s * 1000))
    for event in ticks:
        bar = bars.tick(event, SESSIONS)
        if bar is not None:
            ended.append(bar)
    return bars, ended


def test_a_minute_of_ticks_is_a_bar_with_the_rise_of_the_day_s_volume() -> None:
    bars, ended = fed(
        tick(-5, 9.0, 1000), tick(1, 10.0, 1100), tick(20, 12.0, 1200), tick(30, 8.0, 1300),
        tick(59.9, 11.0, 1450), tick(61, 11.5, 1500),
    )  # fmt: skip
    assert ended == [Bar(OPEN_MS, OPEN_MS + MINUTE_MS, 10.0, 12.0, 8.0, 11.0, 450.0)]
    assert bars.ended(OPEN_MS + 2 * MINUTE_MS + LATE_MS - 1) is None
    last = bars.ended(OPEN_MS + 2 * MINUTE_MS + LATE_MS)
    assert last is not None
    assert (last.open_ms, last.volume) == (OPEN_MS + MINUTE_MS, 50.0)
    assert bars.ended(OPEN_MS + 3 * MINUTE_MS) is None


def test_a_bar_whose_ticks_are_incomplete_is_left_out() -> None:
    _, ended = fed(tick(20, 10.0), tick(65, 11.0), tick(125, 12.0), start_s=10)
    assert [bar.open_ms for bar in ended] == [OPEN_MS + MINUTE_MS]
    bars, _ = fed(tick(1, 10.0))
    bars.start(OPEN_MS + 30_000)
    bars.tick(tick(40, 10.0), SESSIONS)
    assert bars.ended(OPEN_MS + 2 * MINUTE_MS) is None


def test_a_reset_of_the_day_s_volume_adds_nothing() -> None:
    _, ended = fed(
        tick(-5, 9.0, 5000), tick(1, 10.0, 5100), tick(20, 10.0, 30), tick(40, 10.0, 50),
        tick(50, 10.0, 0), tick(61, 10.0, 60),
    )  # fmt: skip
    assert [bar.volume for bar in ended] == [120.0]


def test_a_late_tick_and_one_outside_the_session_change_nothing() -> None:
    _, ended = fed(tick(1, 10.0), tick(61, 11.0), tick(59, 99.0), tick(121, 12.0))
    assert [bar.high for bar in ended] == [10.0, 11.0]
    night = Tick("AAPL", at(DAY, 20), 10.0, 0)
    bars, ended = fed(night)
    assert bars.ended(at(DAY, 21)) is None
