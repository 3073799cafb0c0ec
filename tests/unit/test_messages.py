from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.candles import (
    DAY_MS,
    FUTURE_TOLERANCE_MS,
    INTERVALS_MS,
    MAX_MESSAGE_BYTES,
    MINUTE_MS,
    Candle,
    InvalidCandle,
    RejectReason,
    decode_candle,
)
from shared.forecasts import Forecast, Horizon, due_ms, forecast_id
from shared.messages import END_MS, FIRST_MS
from tests.candles import START_MS, candle, ohlcv

NOW_MS = START_MS + 100 * DAY_MS
FIELDS: dict[str, Any] = json.loads(candle().encode())


def message(**changes: Any) -> bytes:
    return json.dumps(FIELDS | changes).encode()


def without(field: str) -> bytes:
    return json.dumps({key: value for key, value in FIELDS.items() if key != field}).encode()


def refused(
    value: bytes | None, key: bytes | None = b"AAPL", now_ms: int = NOW_MS
) -> InvalidCandle:
    with pytest.raises(InvalidCandle) as caught:
        decode_candle(key, value, now_ms)
    return caught.value


def test_a_candle_comes_back_as_sent() -> None:
    assert decode_candle(b"AAPL", candle().encode(), NOW_MS) == candle()


@given(
    ohlcv(),
    st.sampled_from(sorted(INTERVALS_MS)),
    st.integers(FIRST_MS, END_MS - 32 * DAY_MS),
    st.floats(min_value=0, max_value=1, exclude_min=True),
    st.text("ABCxyz019^=.-_/&:!$+#@*'() ", min_size=1, max_size=32).filter(
        lambda name: name == name.strip()
    ),
    st.text(max_size=64),
)
def test_every_valid_candle_comes_back_as_sent(
    values: tuple[float, float, float, float, float],
    interval: str,
    open_ms: int,
    part: float,
    symbol: str,
    source: str,
) -> None:
    opened, high, low, close, volume = values
    assume(not any("\ud800" <= character <= "\udfff" for character in source))
    sent = Candle(
        symbol=symbol,
        interval=interval,
        open_ms=open_ms,
        close_ms=open_ms + max(1, int(part * INTERVALS_MS[interval])),
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=volume,
        source=source,
    )
    assert decode_candle(symbol.encode(), sent.encode(), sent.close_ms) == sent


def test_whole_numbers_are_prices_too() -> None:
    value = message(open=100, high=101, low=99, close=100, volume=5)
    assert decode_candle(b"AAPL", value, NOW_MS).close == 100.0


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode_candle(b"AAPL", message(currency="USD"), NOW_MS) == candle()


BROKEN: list[tuple[bytes | None, RejectReason, str]] = [
    (None, RejectReason.EMPTY, "value: expected a JSON candle, got nothing"),
    (b"", RejectReason.EMPTY, "value: expected a JSON candle, got nothing"),
    (b"x" * (MAX_MESSAGE_BYTES + 1), RejectReason.TOO_LARGE, "at most 4096 bytes, got 4097"),
    (b"x", RejectReason.NOT_JSON, "value: expected JSON in UTF-8"),
    (b"{", RejectReason.NOT_JSON, "value: expected JSON in UTF-8"),
    (b'{"symbol": "\xff"}', RejectReason.NOT_JSON, "invalid unicode"),
    (b"[]", RejectReason.WRONG_TYPE, "value: expected an object, got an array of 0"),
    (b"null", RejectReason.WRONG_TYPE, "value: expected an object, got null"),
    *((without(field), RejectReason.MISSING_FIELD, f"{field}: expected a v") for field in FIELDS),
    (message(close="1"), RejectReason.WRONG_TYPE, "close: expected a number, got "),
    (message(close=True), RejectReason.WRONG_TYPE, "close: expected a number, got "),
    (message(close=None), RejectReason.WRONG_TYPE, "close: expected a number, got "),
    (message(symbol=1), RejectReason.WRONG_TYPE, "symbol: expected a string, got 1"),
    (message(open_ms=1.5), RejectReason.WRONG_TYPE, "open_ms: expected a whole number"),
    (message(open_ms="1"), RejectReason.WRONG_TYPE, "open_ms: expected a whole number"),
    (message(source=None), RejectReason.WRONG_TYPE, "source: expected a string, got null"),
    (message(high=float("nan")), RejectReason.NOT_FINITE, "high: expected a finite number"),
    (message(high=float("inf")), RejectReason.NOT_FINITE, "got Infinity"),
    (message(volume=float("-inf")), RejectReason.NOT_FINITE, "got -Infinity"),
    (message(volume=10**400), RejectReason.NOT_FINITE, "volume: expected a finite number"),
    (message(close=0), RejectReason.OUT_OF_RANGE, "close: expected more than 0, got 0"),
    (message(low=-1), RejectReason.OUT_OF_RANGE, "got -1"),
    (message(volume=-1), RejectReason.OUT_OF_RANGE, "volume: expected at least 0, got -1"),
    (message(open_ms=FIRST_MS - 1), RejectReason.OUT_OF_RANGE, "open_ms: expected a time from 19"),
    (message(close_ms=END_MS), RejectReason.OUT_OF_RANGE, "close_ms: expected a time from 1900"),
    (
        message(open_ms=START_MS * 1000),
        RejectReason.OUT_OF_RANGE,
        f"UTC milliseconds, got {START_MS * 1000}: microseconds? divide by 1000",
    ),
    (
        message(open_ms=START_MS * 1_000_000),
        RejectReason.OUT_OF_RANGE,
        f"got {START_MS * 1_000_000}: nanoseconds? divide by 1000000",
    ),
    (message(symbol=""), RejectReason.OUT_OF_RANGE, "symbol: expected 1 to 32 letters"),
    (message(symbol=" A"), RejectReason.OUT_OF_RANGE, "symbol: expected 1 to 32 letters"),
    (message(symbol="A,B"), RejectReason.OUT_OF_RANGE, "symbol: expected 1 to 32 letters"),
    (message(symbol="A\n"), RejectReason.OUT_OF_RANGE, "symbol: expected 1 to 32 letters"),
    (message(symbol="A" * 33), RejectReason.OUT_OF_RANGE, "symbol: expected 1 to 32 letters"),
    (message(source="x" * 65), RejectReason.OUT_OF_RANGE, "source: expected text of at most 64"),
    (message(high=90), RejectReason.INCONSISTENT, "high: expected at least low 98, got 90"),
    (message(high=99.5), RejectReason.INCONSISTENT, "high: expected at least open and"),
    (message(low=99.5), RejectReason.INCONSISTENT, "low: expected at most open and close 99"),
    (message(interval="7m"), RejectReason.INCONSISTENT, "interval: expected one of 1m, 2m"),
    (message(close_ms=START_MS), RejectReason.INCONSISTENT, "close_ms: expected a time within 864"),
    (
        message(close_ms=START_MS + DAY_MS + 1),
        RejectReason.INCONSISTENT,
        f"after open_ms {START_MS}, got {START_MS + DAY_MS + 1}",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "reason", "detail"), BROKEN)
def test_a_broken_rule_is_named(value: bytes | None, reason: RejectReason, detail: str) -> None:
    error = refused(value)
    assert error.reason == reason
    assert detail in error.detail
    assert str(error) == error.detail


@pytest.mark.parametrize("key", [None, b"", b"MSFT", b"aapl", b"AAPL ", b"\xff"])
def test_the_key_is_the_symbol(key: bytes | None) -> None:
    error = refused(message(), key)
    assert error.reason == RejectReason.WRONG_KEY
    assert error.detail == f"key: expected 'AAPL', got {key!r}"


def test_a_candle_of_the_future_is_refused() -> None:
    closed_ms = candle().close_ms
    decode_candle(b"AAPL", message(), closed_ms - FUTURE_TOLERANCE_MS)
    error = refused(message(), now_ms=closed_ms - FUTURE_TOLERANCE_MS - 1)
    assert error.reason == RejectReason.FUTURE
    assert f"got {closed_ms}" in error.detail


def test_every_reason_of_the_codec_is_seen_here() -> None:
    """Window, series, model and batches of a topic find the others; their tests have them."""
    seen = {reason for _, reason, _ in BROKEN} | {RejectReason.WRONG_KEY, RejectReason.FUTURE}
    others = {
        RejectReason.OLDER_THAN_WINDOW,
        RejectReason.UNREADABLE,
        RejectReason.NO_FORECAST,
        RejectReason.OFF_GRID,
        RejectReason.OVERLAPS,
        RejectReason.NOT_LISTED,
        RejectReason.TOO_MANY_SERIES,
        RejectReason.NO_MODEL,
    }
    assert seen == set(RejectReason) - others


def test_several_broken_rules_are_all_named() -> None:
    detail = refused(message(open=-1, close="x")).detail
    assert "open: " in detail
    assert "; close: " in detail


def test_a_long_detail_is_cut() -> None:
    many = dict.fromkeys(FIELDS, "x" * 300)
    assert len(refused(json.dumps(many).encode()).detail) <= 500


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_codec(value: bytes) -> None:
    assert refused(value).reason in {
        RejectReason.EMPTY, RejectReason.NOT_JSON, RejectReason.WRONG_TYPE,
        RejectReason.MISSING_FIELD,
    }  # fmt: skip


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just([])
)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), anything, min_size=1))
def test_no_values_crash_the_codec(changes: dict[str, Any]) -> None:
    value = json.dumps(FIELDS | changes).encode("utf-8", "surrogatepass")
    with suppress(InvalidCandle):
        decode_candle(b"AAPL", value, NOW_MS)


def test_messages_are_frozen() -> None:
    with pytest.raises(ValidationError):
        candle().close = 1.0


times = st.integers(FIRST_MS, END_MS - 1)
prices = st.floats(1e-60, 1e60)


def horizon_of(step: int, due_ms: int, rising: list[float], volatility: float) -> Horizon:
    return Horizon(
        step=step,
        due_ms=due_ms,
        predicted_close=rising[1],
        quantiles=dict(zip(("0.05", "0.5", "0.95"), rising, strict=True)),
        volatility=volatility,
    )


horizons = st.builds(
    horizon_of,
    step=st.integers(1, 100),
    due_ms=times,
    rising=st.lists(prices, min_size=3, max_size=3).map(sorted),
    volatility=st.floats(0, 10),
)
forecasts = st.builds(
    Forecast,
    id=st.text("0123456789abcdef", min_size=32, max_size=32),
    symbol=st.just("BRK-B"),
    interval=st.just("1d"),
    as_of_ms=times,
    last_close=st.floats(0.01, 1e9),
    model_version=st.text(max_size=20),
    made_at_ms=times,
    horizons=st.lists(horizons, min_size=1, max_size=3, unique_by=lambda horizon: horizon.step).map(
        lambda some: tuple(sorted(some, key=lambda horizon: horizon.step))
    ),
)


@given(forecasts)
def test_a_forecast_comes_back_as_sent(sent: Forecast) -> None:
    assert Forecast.decode(sent.encode()) == sent
    assert json.loads(sent.encode()) == sent.model_dump(mode="json")


def test_the_id_of_a_forecast_is_known() -> None:
    r"""By coreutils: printf 'AAPL\0001d\0001\000m-1\000window' | b2sum -l 128."""
    assert forecast_id("AAPL", "1d", 1, b"window", "m-1") == "37359532b9fc56fdc03d7cd414b3a85d"


@given(st.sampled_from(range(5)), st.text(min_size=1, max_size=5))
def test_whatever_a_forecast_depends_on_changes_its_id(which: int, other: str) -> None:
    first: list[Any] = ["AAPL", "1d", 1, b"window", "m-1"]
    changed: list[Any] = [*first]
    changed[which] = {int: 2, bytes: other.encode("utf-8", "replace")}.get(
        type(first[which]), other
    )
    assume(changed != first)
    assume("\0" not in other and not any("\ud800" <= one <= "\udfff" for one in other))
    assert forecast_id(*first) == forecast_id(*first)
    assert forecast_id(*first) != forecast_id(*changed)


@given(
    st.integers(0, 20_000),
    st.sampled_from([1, 20 * 60 * MINUTE_MS, DAY_MS]),
    st.integers(1, 30),
)
def test_a_daily_candle_falls_due_on_a_weekday(day: int, closed_ms: int, step: int) -> None:
    """Against numpy's business days; a close at midnight belongs to the day before."""
    assume(np.is_busday(np.datetime64(day, "D")))
    expected = np.busday_offset(np.datetime64(day, "D"), step).astype(int)
    due = due_ms(day * DAY_MS + closed_ms, "1d", step, trades_weekends=False)
    assert due == int(expected) * DAY_MS + closed_ms


@given(
    st.sampled_from(sorted(set(INTERVALS_MS) - {"1mo"})),
    st.integers(0, 1 << 40),
    st.integers(1, 30),
)
def test_other_candles_fall_due_step_by_step(interval: str, as_of_ms: int, step: int) -> None:
    due = due_ms(as_of_ms, interval, step, trades_weekends=True)
    assert due == as_of_ms + step * INTERVALS_MS[interval]
    if interval != "1d":
        assert due_ms(as_of_ms, interval, step, trades_weekends=False) == due


@given(st.integers(0, 1 << 40), st.integers(1, 30), st.booleans())
def test_candles_fall_due_one_after_the_other(as_of_ms: int, step: int, weekends: bool) -> None:
    one_by_one = as_of_ms
    for _ in range(step):
        one_by_one = due_ms(one_by_one, "1d", 1, trades_weekends=weekends)
    assert due_ms(as_of_ms, "1d", step, trades_weekends=weekends) == one_by_one


def test_friday_is_followed_by_monday() -> None:
    friday_close = datetime(2013, 3, 1, 21, tzinfo=UTC)
    due = due_ms(int(friday_close.timestamp() * 1000), "1d", 1, trades_weekends=False)
    assert datetime.fromtimestamp(due / 1000, UTC) == friday_close + timedelta(days=3)


def test_intervals_have_the_length_that_pandas_gives_them() -> None:
    for interval, length in INTERVALS_MS.items():
        if interval == "1mo":
            continue  # a month has no one length
        name = interval.replace("wk", "W").replace("m", "min")
        assert length == pd.Timedelta(name).total_seconds() * 1000
