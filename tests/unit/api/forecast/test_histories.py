from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from api.edge.problems import ProblemError
from api.edge.slicing import at_once
from api.forecast.batch import Batch, read_batch
from api.forecast.bodies import ForecastsRequest, PredictRequest
from api.forecast.histories import read_predict
from shared.candles import DAY_MS
from shared.messages import FIRST_MS
from tests.unit.api.client import history

START_MS = 1_262_563_200_000
numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -0.0, 1, True, None, "1", 1e-30, 9e-31, 1e30, 1.1e30, 10**400, 5e-324]),
)
sticks = st.fixed_dictionaries(dict.fromkeys(("open", "high", "low", "close", "volume"), numbers))


def accepts(body: bytes) -> bool:
    try:
        PredictRequest.model_validate_json(body)
    except ValidationError:
        return False
    return True


@settings(max_examples=300)
@given(st.lists(st.one_of(sticks, st.sampled_from(history(3))), min_size=1, max_size=3))
def test_the_fast_way_accepts_just_what_the_slow_way_accepts(candles: list[Any]) -> None:
    body = json.dumps({"history": candles}).encode()
    if not accepts(body):
        with pytest.raises(ProblemError):
            read_predict(body)
        return
    expected = [[float(candle[key]) for key in candles[0]] for candle in candles]
    np.testing.assert_array_equal(read_predict(body), expected)


@pytest.mark.parametrize(
    "body",
    [
        b'{"history": "no", "history": [{"open":1,"high":2,"low":1,"close":2,"volume":0}]}',
        b'{"history": [{"open":7,"open":1,"high":2,"low":1,"close":2,"volume":0}]}',
        b'{"history": [{"volume":0,"close":2,"low":1,"high":2,"\\u006fpen":1}]} ',
        b'{"history": [{"volume":0,"close":2.0,"low":1,"high":2e0,"open":1.0}]}',
    ],
)
def test_forms_of_the_same_candle(body: bytes) -> None:
    assert read_predict(body).tolist() == [[1, 2, 1, 2, 0]]


@pytest.mark.parametrize(
    "body",
    [
        b'{"history": [{"open":1,"high":2,"low":1,"close":2,"volume":0}]}\xff',
        b'{"history": [{"open":1,"high":2,"low":1,"close":2,"volume":0,"\xff":1}]}',
        b'{"history": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"history": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}",
        b'{"history": [{"open":1e400,"high":2,"low":1,"close":2,"volume":0}]}',
        b'{"history": [{"open":' + b"9" * 500_000 + b',"high":2,"low":1,"close":2,"volume":0}]}',
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    ],
)
def test_hostile_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(ProblemError) as raised:
        read_predict(body)
    assert raised.value.problem.status in {400, 422}


def read(body: bytes) -> Batch:
    return at_once(read_batch(body))


def timed(count: int, **changes: Any) -> dict[str, Any]:
    candles = [one | {"open_ms": START_MS + day * DAY_MS} for day, one in enumerate(history(count))]
    candles[-1] |= changes
    return {"symbol": "AAPL", "interval": "1d", "candles": candles}


def test_times_give_the_close_of_the_last_candle() -> None:
    body = json.dumps({"histories": [timed(9), timed(5, close_ms=START_MS + 4 * DAY_MS + 7)]})
    batch = read(body.encode())
    [first, second] = batch.histories
    assert batch.horizons is None
    assert (first.symbol, first.interval) == ("AAPL", "1d")
    assert first.as_of_ms == START_MS + 9 * DAY_MS
    assert second.as_of_ms == START_MS + 4 * DAY_MS + 7
    assert first.open_ms is not None
    assert first.open_ms.tolist() == [START_MS + day * DAY_MS for day in range(9)]
    assert first.candles.shape == (9, 5)


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"interval": None}, "histories[0].interval", "missing"),
        ({"interval": "6d"}, "histories[0].interval", "unknown"),
        ({"symbol": "no, commas"}, "histories[0].symbol", "string_pattern_mismatch"),
        ({"symbol": 7}, "histories[0].symbol", "string_type"),
        ({"x": 1}, "histories[0].x", "extra_forbidden"),
    ],
)
def test_a_bad_history_is_named(change: dict[str, Any], field: str, rule: str) -> None:
    refused(timed(4) | change, field, rule)


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"open_ms": None}, "open_ms", "missing"),
        ({"open_ms": START_MS}, "open_ms", "not_rising"),
        ({"open_ms": FIRST_MS - 1}, "open_ms", "greater_than_equal"),
        ({"open_ms": -1}, "open_ms", "not_rising"),
        ({"open_ms": START_MS + 2 * DAY_MS + 1}, "open_ms", "too_near"),
        ({"open_ms": 1 << 60}, "open_ms", "less_than"),
        ({"open_ms": 1.5}, "open_ms", "int_type"),
        ({"close_ms": START_MS}, "close_ms", "inconsistent"),
        ({"close_ms": START_MS + 9 * DAY_MS}, "close_ms", "inconsistent"),
        ({"low": -1}, "low", "greater_than"),
    ],
)
def test_a_bad_time_is_named(change: dict[str, Any], field: str, rule: str) -> None:
    refused(timed(4, **change), f"histories[0].candles[3].{field}", rule)


@pytest.mark.parametrize(
    ("interval", "steps", "field", "message"),
    [
        (
            "1d", [86_400] * 5, "open_ms",
            "after the one before (1d), got 86400 later: seconds? multiply by 1000",
        ),
        (
            "1h", [DAY_MS] * 5, "open_ms",
            "expected steps of 3600000 (1h) between the candles, got most of 86400000 (1d)",
        ),
        ("1d", [7 * DAY_MS] * 5, "open_ms", "got most of 604800000 (7d)"),
        ("1mo", [DAY_MS] * 5, "open_ms", "expected at least 1209600000 after the one before (1mo)"),
    ],
)  # fmt: skip
def test_times_of_another_interval_are_refused(
    interval: str, steps: list[int], field: str, message: str
) -> None:
    with pytest.raises(ProblemError) as raised:
        read(stepping(interval, steps))
    [error] = raised.value.problem.errors
    assert error.field == f"histories[0].candles[1].{field}"
    assert message in error.message


HOUR_MS = DAY_MS // 24


@pytest.mark.parametrize(
    ("interval", "steps"),
    [
        ("1d", [DAY_MS, 3 * DAY_MS, 23 * HOUR_MS, 25 * HOUR_MS]),
        ("1h", [HOUR_MS, HOUR_MS, 18 * HOUR_MS, HOUR_MS, 66 * HOUR_MS]),
        ("1h", [65 * HOUR_MS]),
        ("1m", [60_000 * minutes for minutes in (9, 2, 31, 4, 7, 5)]),
        ("1mo", [31 * DAY_MS, 29 * DAY_MS, 31 * DAY_MS]),
        ("60min", [HOUR_MS, HOUR_MS]),
    ],
)
def test_nights_weekends_and_missing_candles_are_not_another_interval(
    interval: str, steps: list[int]
) -> None:
    [series] = read(stepping(interval, steps)).histories
    assert series.open_ms is not None
    assert np.diff(series.open_ms).tolist() == steps
    assert series.interval == {"60min": "60m"}.get(interval, interval)


def test_a_month_ends_with_its_last_day() -> None:
    [series] = read(stepping("1mo", [31 * DAY_MS, 28 * DAY_MS], 1_262_304_000_000)).histories
    assert series.as_of_ms == 1_262_304_000_000 + 90 * DAY_MS  # 2010-04-01


def stepping(interval: str, steps: list[int], start_ms: int = START_MS) -> bytes:
    times = np.cumsum([start_ms, *steps]).tolist()
    candles = [
        candle | {"open_ms": at} for candle, at in zip(history(len(times)), times, strict=True)
    ]
    return json.dumps({"histories": [{"interval": interval, "candles": candles}]}).encode()


def refused(given_history: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(ProblemError) as raised:
        read(json.dumps({"histories": [given_history]}).encode())
    [error] = raised.value.problem.errors
    assert (error.field, error.rule) == (field, rule)
    assert raised.value.problem.status == 422


@pytest.mark.parametrize("horizons", [[], [0], [1.5], list(range(1, 66)), "1"])
def test_bad_horizons_are_named(horizons: object) -> None:
    body = json.dumps({"histories": [timed(4)], "horizons": horizons}).encode()
    with pytest.raises(ProblemError) as raised:
        read(body)
    assert raised.value.problem.errors[0].field.startswith("horizons")


def test_horizons_come_in_any_order() -> None:
    body = json.dumps({"histories": [timed(4)], "horizons": [5, 1, 5]}).encode()
    assert read(body).horizons == (1, 5)


def test_the_models_agree_on_what_a_request_is() -> None:
    body = json.dumps({"histories": [timed(3)], "horizons": [1, 3]}).encode()
    assert ForecastsRequest.model_validate_json(body).horizons == (1, 3)
    assert read(body).horizons == (1, 3)
