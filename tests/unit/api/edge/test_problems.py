from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.edge.requests import MAX_BODY_BYTES
from api.forecast.bodies import MAX_HISTORY
from tests.unit.api.client import (
    LENGTH,
    Stub,
    application,
    call,
    history,
    post,
    predict,
    problem_of,
)

APP = application()
HUGE = 10**400


def spoilt(**values: Any) -> list[dict[str, Any]]:
    """Return a history with candle 17 changed."""
    candles = history()
    candles[17] |= values
    return candles


def lacking(field: str) -> list[dict[str, Any]]:
    candles = history()
    del candles[17][field]
    return candles


@pytest.mark.parametrize(
    ("candles", "field", "rule", "message"),
    [
        (spoilt(high=float("nan")), "history[17].high", "finite_number", "finite number, got NaN"),
        (spoilt(low=float("-inf")), "history[17].low", "finite_number", "got -Infinity"),
        (spoilt(volume=HUGE), "history[17].volume", "finite_number", "a finite number, got 1000"),
        (spoilt(open=None), "history[17].open", "float_type", "expected a number, got null"),
        (spoilt(open="1.5"), "history[17].open", "float_type", 'expected a number, got "1.5"'),
        (spoilt(open=True), "history[17].open", "float_type", "expected a number, got true"),
        (spoilt(open=[1]), "history[17].open", "float_type", "a number, got an array of 1"),
        (spoilt(open={}), "history[17].open", "float_type", "a number, got an object"),
        (spoilt(close=-1), "history[17].close", "greater_than", "expected more than 0, got -1"),
        (spoilt(close=0), "history[17].close", "greater_than", "expected more than 0, got 0"),
        (spoilt(volume=-1), "history[17].volume", "greater_than_equal", "at least 0, got -1"),
        (spoilt(high=1.5), "history[17].high", "inconsistent", "expected at least low"),
        (spoilt(close=999), "history[17].high", "inconsistent", "at least open and close 999, got"),
        (spoilt(open=0.5), "history[17].low", "inconsistent", "at most open and close 0.5, got"),
        (spoilt(hihg=1), "history[17].hihg", "extra_forbidden", "expected no such field, got 1"),
        (lacking("close"), "history[17].close", "missing", "expected a value, got nothing"),
        ([*history(), 5], f"history[{LENGTH}]", "model_type", "expected an object, got 5"),
        ([*history(), None], f"history[{LENGTH}]", "model_type", "expected an object, got null"),
        ({}, "history", "tuple_type", "expected an array, got an object"),
        (None, "history", "tuple_type", "expected an array, got null"),
        ([], "history", "too_short", f"expected at least {LENGTH} candles, got 0"),
        (history(3), "history", "too_short", f"expected at least {LENGTH} candles, got 3"),
        (history()[:1] * (MAX_HISTORY + 1), "history", "too_long", "an array of at most 5000, got"),
    ],
)
def test_a_bad_history_is_refused_by_field_and_rule(
    candles: object, field: str, rule: str, message: str
) -> None:
    answer = post(APP, json.dumps({"history": candles}).encode())
    assert answer.status_code == 422
    problem = problem_of(answer)
    [error] = problem.errors
    assert (error.field, error.rule) == (field, rule)
    assert message in error.message
    assert problem.detail == f"{error.field}: {error.message}"


@pytest.mark.parametrize(
    ("body", "status", "field", "rule"),
    [
        (b"", 400, "body", "empty"),
        (b"not json", 400, "body", "json_invalid"),
        (b'{"history": [', 400, "body", "json_invalid"),
        (b'{"history": []} more', 400, "body", "json_invalid"),
        (b'{"history": "\xff\xfe"}', 400, "body", "json_invalid"),
        ('{"history": []}'.encode("utf-16"), 400, "body", "json_invalid"),
        (b"[" * 100_000, 400, "body", "json_invalid"),
        (b"[]", 422, "body", "model_type"),
        (b"null", 422, "body", "model_type"),
        (b"17", 422, "body", "model_type"),
        (b"{}", 422, "history", "missing"),
        (b'{"histroy": [], "history": []}', 422, "histroy", "extra_forbidden"),
    ],
)
def test_a_bad_body_is_refused(body: bytes, status: int, field: str, rule: str) -> None:
    answer = post(APP, body)
    assert answer.status_code == status
    assert (field, rule) in {(error.field, error.rule) for error in problem_of(answer).errors}


def test_every_fault_of_the_first_bad_candle_is_named() -> None:
    problem = problem_of(predict(APP, spoilt(open=-1, close="x", volume=None)))
    assert [error.field for error in problem.errors] == [
        "history[17].open",
        "history[17].close",
        "history[17].volume",
    ]


def test_many_faults_give_a_short_answer() -> None:
    answer = predict(APP, spoilt(**{f"x{number}": 0 for number in range(1000)}))
    assert len(problem_of(answer).errors) == 20
    assert len(answer.content) < 4096


def test_a_flood_of_faults_is_only_counted() -> None:
    [error] = problem_of(predict(APP, spoilt(**{f"x{number}": 0 for number in range(9000)}))).errors
    assert (error.field, error.rule) == ("body", "too_many_faults")
    assert error.message.endswith("got one with 9000 faults")


def test_a_long_value_is_cut() -> None:
    [error] = problem_of(predict(APP, spoilt(open="x" * 10_000))).errors
    assert len(error.message) < 100


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("price", [1e39, 1e-50])
def test_prices_beyond_a_32_bit_float_are_refused(price: float) -> None:
    flat = {"open": price, "high": price, "low": price, "close": price, "volume": 0}
    answer = predict(APP, [flat] * LENGTH)
    assert answer.status_code == 422
    assert problem_of(answer).errors[0].field.startswith("history")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_a_body_not_declared_as_json_is_refused(headers: dict[str, str]) -> None:
    body = json.dumps({"history": history()}).encode()
    answer = call(APP, "POST", "/predict", content=body, headers=headers)
    assert answer.status_code == 415
    [error] = problem_of(answer).errors
    assert error.rule == "unsupported"
    assert error.field in {"content-type", "content-encoding"}


@pytest.mark.parametrize("declared", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_declared_with_parameters(declared: str) -> None:
    body = json.dumps({"history": history()}).encode()
    answer = call(APP, "POST", "/predict", content=body, headers={"content-type": declared})
    assert answer.status_code == 200


def test_a_body_declared_too_large_is_refused_unread() -> None:
    answer = post(APP, b" " * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    [error] = problem_of(answer).errors
    assert (error.field, error.rule) == ("body", "too_large")
    assert (
        error.message
        == f"expected at most {MAX_BODY_BYTES} bytes, got at least {MAX_BODY_BYTES + 1}"
    )


def test_a_body_that_grows_too_large_is_refused() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 1
            yield b" " * 65536

    answer = call(
        APP,
        "POST",
        "/predict",
        content=endless(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413
    assert "at least" in problem_of(answer).errors[0].message
    assert sent == MAX_BODY_BYTES // 65536 + 1


def test_a_body_of_just_the_limit_is_read() -> None:
    body = json.dumps({"history": history()}).encode().ljust(MAX_BODY_BYTES)
    assert post(APP, body).status_code == 200
    assert post(APP, body + b" ").status_code == 413


@pytest.mark.parametrize("path", ["/nowhere", "/predict/", "/v3/forecasts", "/redoc"])
def test_an_unknown_path_is_a_problem(path: str) -> None:
    answer = call(APP, "GET", path)
    assert answer.status_code == 404
    assert path in problem_of(answer).detail


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/predict", "POST"), ("DELETE", "/", "GET")]
)
def test_a_wrong_method_is_a_problem(method: str, path: str, allowed: str) -> None:
    answer = call(APP, method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert method in problem_of(answer).detail


@pytest.mark.parametrize("path", ["/predict", "/v1/forecasts"])
def test_a_crash_is_a_problem_that_tells_nothing(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the model runs in the request's task or between others."""
    app = application(Stub(fault=RuntimeError("secret")))
    bodies: dict[str, Any] = {
        "/predict": {"history": history()},
        "/v1/forecasts": {"histories": [{"candles": history()}]},
    }
    answer = call(app, "POST", path, json=bodies[path], headers={"x-request-id": "r-1"})
    assert answer.status_code == 500
    problem_of(answer)
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    [record] = [entry for entry in caplog.records if entry.name == "api"]
    assert "secret" in str(record.exc_info)
    metrics = call(app, "GET", "/metrics").text
    assert f'method="POST",route="{path}",status="500"' in metrics


def test_a_client_that_leaves_is_no_crash() -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        await APP(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 400


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
)
fields = st.sampled_from(["open", "high", "low", "close", "volume", "time", ""])
mutated = st.lists(
    st.one_of(scalars, st.dictionaries(fields, scalars)), min_size=LENGTH - 2, max_size=LENGTH + 2
)
whole = st.builds(
    lambda changes: [candle | change for candle, change in zip(history(), changes, strict=True)],
    st.lists(st.dictionaries(fields, scalars, max_size=1), min_size=LENGTH, max_size=LENGTH),
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(mutated, whole, scalars))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_comes_is_answered_or_refused(candles: object) -> None:
    answer = post(APP, json.dumps({"history": candles}).encode())
    if answer.status_code == 200:
        return
    assert answer.status_code == 422
    assert problem_of(answer).errors


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(body: bytes) -> None:
    answer = post(APP, body)
    assert answer.status_code in {400, 422}
    assert problem_of(answer).errors


def test_a_long_field_name_and_a_long_path_come_back_short() -> None:
    body = json.dumps({"history": [], "x" * 900_000: 1}).encode()
    answer = post(APP, body)
    assert answer.status_code == 422
    assert len(answer.content) < 2_000
    problem_of(answer)
    missing = call(APP, "GET", "/" + "p" * 20_000)
    assert missing.status_code == 404
    assert len(missing.content) < 1_000
