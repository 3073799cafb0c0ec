from __future__ import annotations

from typing import NamedTuple

from api.stream.pulse import DETAIL, MOST_KINDS, SPAN_MS, SPANS, Pulse


class Place(NamedTuple):
    topic: str
    partition: int = 0
    offset: int = 0


def test_messages_count_in_the_span_of_their_time() -> None:
    pulse = Pulse()
    for at_ms in (0, SPAN_MS - 1, SPAN_MS, 5 * SPAN_MS):
        pulse.note("candles", at_ms)
    pulse.note("forecasts", SPAN_MS)
    pulse.see_lag(4, SPAN_MS)
    pulse.see_lag(2, SPAN_MS + 1)
    found = [
        (from_ms, span.messages["candles"], span.messages["forecasts"], span.lag)
        for from_ms, span in pulse.spans()
    ]
    assert found == [(0, 2, 0, None), (SPAN_MS, 1, 1, 4), (5 * SPAN_MS, 1, 0, None)]
    assert pulse.newest_ms == {"candles": 5 * SPAN_MS, "forecasts": SPAN_MS}


def test_the_newest_spans_are_kept_in_any_order_of_arrival() -> None:
    pulse = Pulse()
    order = [*range(10, SPANS + 10), 3, 11, SPANS + 20]
    for number in order:
        pulse.note("candles", number * SPAN_MS)
    spans = pulse.spans()
    assert len(spans) == SPANS
    assert spans[0][0] == 11 * SPAN_MS  # 3 came too late, 10 went for the newest
    assert spans[0][1].messages["candles"] == 2
    assert spans[-1][0] == (SPANS + 20) * SPAN_MS


def test_refusals_are_counted_by_topic_and_reason_and_the_newest_is_named() -> None:
    pulse = Pulse()
    pulse.refuse(Place("candles", 1, 5), 10, "bad_json", "first")
    pulse.refuse(Place("candles", 2, 6), 20, "bad_json", "x" * 1_000)
    pulse.refuse(Place("scores", 0, 7), 30, "bad_json", "other")
    newest = pulse.refused["candles", "bad_json"]
    assert (newest.count, newest.appended_ms, newest.partition, newest.offset) == (2, 20, 2, 6)
    assert len(newest.detail) == DETAIL
    for number in range(2 * MOST_KINDS):
        pulse.refuse(Place("candles"), 40, f"reason {number}", "")
    assert len(pulse.refused) == MOST_KINDS
