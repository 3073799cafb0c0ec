"""One account of what makes a candle invalid, for dead letters, tables and the API alike."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.edge.problems import FieldError, ProblemError, invalid_body
from api.edge.slicing import at_once
from api.forecast.batch import read_batch
from api.forecast.bodies import PredictRequest
from shared.candles import MIN_PRICE, REASONS, Candle, InvalidCandle, decode_candle, refusal
from shared.history import ReadOptions, from_file
from shared.messages import END_MS, BrokenRule, broken_rule, shown
from tests.candles import candle

FIELDS: dict[str, Any] = json.loads(candle().encode())
PRICES = ("open", "high", "low", "close", "volume")
TIMES = ("open_ms", "close_ms")

values = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=70),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.sampled_from(
        [
            *(1e-40, 5e-324, 9e-31, MIN_PRICE, 1e30, 1.1e30, 1e31, -0.0, 0, -1, 10**400),
            *(1 << 53, "", "A B", "x" * 65, "3m", [], [1], {}, {"a": 1}),
        ]
    ),
)
changes = st.dictionaries(st.sampled_from(sorted(FIELDS)), values, min_size=1, max_size=2)
lacking = st.sets(st.sampled_from(sorted(FIELDS)), max_size=1)


def broken_of(error: ValidationError) -> list[BrokenRule]:
    return [broken_rule(details) for details in error.errors()]


def rules_of(fields: object) -> list[BrokenRule]:
    """Return the rules that a message breaks, whatever it is."""
    try:
        Candle.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        return broken_of(error)
    return []


def is_about(broken: BrokenRule, value: object) -> bool:
    """Return True when a message says what it got of the value of its field."""
    got = broken.message.rpartition(", got ")[2].partition("seconds? ")[0].rpartition(": ")
    shown_value = got[0] if got[2] in {"micro", "nano"} else got[2]
    try:
        return float(shown_value) == float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return shown_value == shown(value)


@given(changes, lacking)
def test_each_rule_names_its_field_what_it_expected_and_what_it_got(
    changed: dict[str, Any], left_out: set[str]
) -> None:
    fields = {key: value for key, value in (FIELDS | changed).items() if key not in left_out}
    assume(json.dumps(fields, ensure_ascii=False).isprintable())
    for broken in rules_of(fields):
        [name] = broken.place
        assert broken.rule in REASONS
        assert broken.message.startswith("expected ")
        if name in left_out:
            assert broken.rule == "missing"
            assert broken.message == "expected a value, got nothing"
        else:
            assert is_about(broken, fields[str(name)]), broken


EVERY_RULE: dict[str, Any] = {
    "missing": {"close": ...},
    "float_type": {"close": "1"},
    "int_type": {"open_ms": 1.5},
    "string_type": {"source": 1},
    "finite_number": {"volume": float("nan")},
    "greater_than": {"open": 0},
    "greater_than_equal": {"volume": -1},
    "less_than": {"close_ms": END_MS},
    "less_than_equal": {"high": 1e31},
    "string_pattern_mismatch": {"symbol": "A,B"},
    "string_too_long": {"source": "x" * 65},
    "out_of_range": {"low": 1e-40},
    "inconsistent": {"high": 1.0},
}


def test_there_is_a_reason_for_every_rule_and_no_other() -> None:
    assert set(REASONS) == set(EVERY_RULE) | {"json_invalid", "model_type"}


def fields_breaking(rule: str) -> dict[str, Any]:
    changed = FIELDS | EVERY_RULE[rule]
    return {key: value for key, value in changed.items() if value is not ...}


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_the_codec_says_by_the_reason_which_rule_it_is(rule: str) -> None:
    fields = fields_breaking(rule)
    [broken] = rules_of(fields)
    assert broken.rule == rule
    with pytest.raises(InvalidCandle) as raised:
        decode_candle(b"AAPL", json.dumps(fields).encode(), now_ms=FIELDS["close_ms"])
    assert raised.value.reason is REASONS[rule]
    assert raised.value.detail == f"{broken.place[0]}: {broken.message}"


def errors_of_the_api(fields: dict[str, Any]) -> tuple[FieldError, ...]:
    """Return what ``POST /v1/forecasts`` says of a candle, and see that ``/predict`` agrees."""
    timed = {key: value for key, value in fields.items() if key in PRICES + TIMES}
    bare = {key: value for key, value in fields.items() if key in PRICES}
    body = {"histories": [{"interval": fields["interval"], "candles": [timed]}]}
    with pytest.raises(ProblemError) as raised:
        at_once(read_batch(json.dumps(body).encode()))
    errors = raised.value.problem.errors
    try:
        PredictRequest.model_validate_json(json.dumps({"history": [bare]}))
    except ValidationError as error:
        others = invalid_body(error).problem.errors
        assert [(other.rule, other.message) for other in others] == [
            (own.rule, own.message) for own in errors if not own.field.endswith("_ms")
        ]
    return errors


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_the_api_says_of_a_candle_what_the_codec_says(rule: str) -> None:
    fields = fields_breaking(rule)
    [broken] = rules_of(fields)
    if broken.place[0] not in PRICES + TIMES:
        return  # the API's candles have no symbol and no source
    [error] = errors_of_the_api(fields)
    assert error.field == f"histories[0].candles[0].{broken.place[0]}"
    assert (error.rule, error.message) == (broken.rule, broken.message)


def test_a_price_too_small_for_a_window_is_named() -> None:
    low = {"open": 1.0, "high": 1.0, "low": 1e-40, "close": 1.0}
    [error] = errors_of_the_api(FIELDS | low)
    assert error.rule == "out_of_range"
    assert error.field == "histories[0].candles[0].low"
    assert error.message == "expected at least 1e-30, got 1e-40"


@pytest.mark.parametrize("rule", sorted(set(EVERY_RULE) - {"missing", "float_type", "int_type"}))
def test_a_row_of_a_table_is_refused_for_the_same_reason(rule: str, tmp_path: Path) -> None:
    if rule in {"string_type", "string_too_long"}:
        return  # a table's rows have their file's name as source
    fields = fields_breaking(rule)
    [broken] = rules_of(fields)
    path = tmp_path / "candles.csv"
    with path.open("w", newline="") as stream:
        rows = csv.DictWriter(stream, ["symbol", *TIMES, *PRICES], extrasaction="ignore")
        rows.writeheader()
        rows.writerow(FIELDS | {"symbol": "GOOD"})
        rows.writerow(fields)
    [rejected] = from_file(path, "1d", ReadOptions(allow_bad_rows=True)).rejected
    assert rejected.reason is REASONS[rule]
    mending = "; --rename 'A,B=NAME'" if rule == "string_pattern_mismatch" else ""
    assert rejected.detail == f"{broken.place[0]}: {broken.message}{mending}"


def test_all_broken_rules_are_in_the_detail_and_the_first_gives_the_reason() -> None:
    with pytest.raises(ValidationError) as raised:
        Candle.model_validate(FIELDS | {"open": -1.0, "volume": float("inf")})
    refused = refusal(raised.value)
    assert refused.reason is REASONS["greater_than"]
    assert refused.detail == (
        "open: expected more than 0, got -1; volume: expected a finite number, got Infinity"
    )
