from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from api.edge.problems import ProblemError
from api.edge.requests import MAX_BODY_BYTES
from api.edge.slicing import at_once
from api.forecast.batch import read_batch
from api.forecast.bodies import ForecastsRequest
from api.forecast.histories import MAX_ARRAY_BYTES
from tests.unit.api.client import history

CANDLE = b'{"open":1,"high":2,"low":1,"close":2,"volume":0}'
GOOD = json.dumps({"histories": [{"symbol": "A", "candles": history(3)}], "horizons": [1]}).encode()


def errors_of(body: bytes) -> list[tuple[str, str]]:
    with pytest.raises(ProblemError) as raised:
        at_once(read_batch(body))
    assert raised.value.problem.status in {400, 422}
    return [(error.field, error.rule) for error in raised.value.problem.errors]


def accepts(body: bytes) -> ForecastsRequest | None:
    try:
        return ForecastsRequest.model_validate_json(body)
    except ValidationError:
        return None


values = st.recursive(
    st.one_of(
        st.none(), st.integers(-3, 3), st.sampled_from(["", "A", "[{}]", "]", "[", '"', "\\"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["candles", "symbol", "open", "[{", "}]"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
candles = st.lists(st.sampled_from(history(4)), max_size=3)
histories = st.fixed_dictionaries(
    {"candles": st.one_of(candles, values)},
    optional={
        "symbol": st.one_of(st.sampled_from(["A", "BRK.B", "^GSPC", "[{}]", 7, None]), values),
        "x": values,
    },
)
bodies: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"histories": st.one_of(st.lists(histories, max_size=3), values)},
    optional={"horizons": st.sampled_from([[1], [1, 2], [], [[{}]], None]), "y": values},
)


@settings(max_examples=400)
@given(bodies, st.sampled_from([None, 1]))
def test_pieces_accept_just_what_the_whole_does(body: Any, indent: int | None) -> None:
    """The whole body, read by pydantic, is the oracle."""
    text = json.dumps(body, indent=indent).encode()
    expected = accepts(text)
    if expected is None or not expected.histories or not all(x.candles for x in expected.histories):
        errors_of(text)
        return
    batch = at_once(read_batch(text))
    assert batch.horizons == expected.horizons
    for got, history_ in zip(batch.histories, expected.histories, strict=True):
        assert got.symbol == history_.symbol
        rows = [[x.open, x.high, x.low, x.close, x.volume] for x in history_.candles]
        np.testing.assert_array_equal(got.candles, rows)


def test_a_spoilt_byte_never_changes_what_is_accepted() -> None:
    chance = random.Random(3)
    accepted = 0
    for _ in range(3_000):
        spoilt = bytearray(GOOD)
        spoilt[chance.randrange(len(spoilt))] = chance.choice(b'[]{}",:\\0 #x')
        expected = accepts(bytes(spoilt))
        try:
            batch = at_once(read_batch(bytes(spoilt)))
        except ProblemError:
            assert expected is None, spoilt
            continue
        assert expected is not None, spoilt
        accepted += 1
        first = expected.histories[0]
        assert batch.histories[0].symbol == first.symbol
        assert batch.histories[0].candles[-1, 3] == first.candles[-1].close
    assert accepted > 100


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (b'{"histories": [{"candles": [%s, {}]}]}' % CANDLE, "histories[0].candles[1].open",
         "missing"),
        (b'{"histories": [{"candles": "#0"}]}', "histories[0].candles", "tuple_type"),
        (b'{"histories": [{"candles": [%s], "symbol": "[{}]"}]}' % CANDLE, "histories[0].symbol",
         "string_pattern_mismatch"),
        (b'{"histories": [{"candles": [%s]}], "horizons": [%s]}' % (CANDLE, CANDLE), "horizons[0]",
         "int_type"),
        (b'{"histories": [{"candles": [%s]}]' % CANDLE, "body", "json_invalid"),
        (b'{"histories": [{"candles": [%s,]}]}' % CANDLE, "histories[0].candles", "json_invalid"),
        (b'{"histories": ' + b"[" * 60_000 + b"]" * 60_000 + b"}", "body", "json_invalid"),
        (b'{"histories": [%s]}' % (b'{"candles": []},' * 10_001), "body", "too_long"),
        (b'{"histories": [%s]}' % (b'{"candles" :1},' * 10_001), "body", "too_long"),
        (b'{"histories": [{"symbol": [{}], "candles": [%s]}]}' % CANDLE, "histories[0].symbol",
         "string_type"),
        (b'{"histories": [{"candles": [no JSON], "candles": [%s]}]}' % CANDLE, "body",
         "unread_array"),
        (b'{"histories": [{"candles": [%s], "symbol": "a\\"candles": [1]}]}' % CANDLE, "body",
         "json_invalid"),
        (b'{"histories": [{"candles": [%s], "a\\"candles": [1]}]}' % CANDLE,
         'histories[0].a"candles', "extra_forbidden"),
        (b'{"histories": [{"c\\u0061ndles": [%s, {}]}]}' % CANDLE, "histories[0].candles[1].open",
         "missing"),
        (b'{"histories": "' + b"x" * 2 * MAX_BODY_BYTES + b'"}', "body", "too_large"),
        (b'{"histories": [{"candles": [%s]}]}' % (CANDLE + b"," + b" " * MAX_ARRAY_BYTES + CANDLE),
         "histories[0].candles", "too_large"),
    ],
)  # fmt: skip
def test_what_is_odd_is_named(body: bytes, field: str, rule: str) -> None:
    assert errors_of(body)[0] == (field, rule)


def test_no_piece_of_a_large_body_is_large() -> None:
    candle = history(1)[0]
    body = json.dumps({"histories": [{"candles": [candle] * 100}] * 300}).encode()
    steps = sum(1 for _ in read_batch(body))
    assert steps == 2 * 300 + 1  # to find each array and to read it; the rest of the body
