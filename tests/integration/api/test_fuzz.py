"""Schemathesis over the whole OpenAPI document: no answer that the document does not describe."""

from __future__ import annotations

from typing import Any, Final

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from api.stream.routes import StreamLimits
from tests.candles import walk
from tests.streams import published
from tests.unit.api.client import application
from tests.unit.api.stream.test_market import play

load_all_checks()

BEYOND_SCHEMAS: Final = {
    "int_type",  # 1.0 is an integer there
    "inconsistent",  # prices of a candle, or its times, contradict each other
    "missing",  # times without an interval, or of some candles alone
    "not_rising",
    "other_interval",
    "too_near",
    "not_finite",  # candles of which the model makes no finite number
    "shape",
}
"""Rules between fields, which JSON Schema cannot say."""


def make_app() -> Any:
    market = Market()
    candles = walk(30)
    play(market, candles, published(candles))
    live = StreamView(market, Hub(), connected=True, detail="following", lag=0)
    return application(live=live, streams=StreamLimits(longest_s=0.02))  # an end to every stream


schema = schemathesis.openapi.from_asgi("/openapi.json", make_app())


@schema.parametrize()
# pytest 9.2 takes the operations of Schemathesis 4.32 for one test unless there is a parameter
@pytest.mark.parametrize("round_", [1])
@settings(max_examples=12, deadline=None)
def test_every_operation_answers_as_described(case: Any, round_: int) -> None:
    del round_
    answer = case.call()
    checks = CHECKS.get_all()
    if answer.status_code == 422 and _rules(answer.json()) <= BEYOND_SCHEMAS:
        checks.remove(positive_data_acceptance)
    case.validate_response(answer, checks=checks)


def _rules(problem: dict[str, Any]) -> set[str]:
    return {error["rule"] for error in problem["errors"]}
