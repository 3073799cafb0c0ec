"""The headers of every message."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from shared.headers import cloud_event

YEAR_10000_MS = 253_402_300_800_000


def test_an_event_has_the_attributes_that_cloud_events_requires() -> None:
    headers = cloud_event("AAPL/1", "market.candle.v1", "candlecast/producer/replay", 1)
    assert dict(headers) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": b"AAPL/1",
        "ce_type": b"market.candle.v1",
        "ce_source": b"candlecast/producer/replay",
        "ce_time": b"1970-01-01T00:00:00.001Z",
    }


@given(st.integers(0, YEAR_10000_MS - 1))
def test_the_time_reads_back_exactly(time_ms: int) -> None:
    text = dict(cloud_event("", "", "", time_ms))["ce_time"].decode()
    back = datetime.fromisoformat(text)
    assert back.tzinfo == UTC
    assert int(back.timestamp()) * 1000 + back.microsecond // 1000 == time_ms
    assert len(text) == len("1970-01-01T00:00:00.001Z")
