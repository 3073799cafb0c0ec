"""Schemathesis over the whole OpenAPI document: no answer that the document does not describe."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from api.stream.routes import StreamLimits
from tests.candles import walk
from tests.streams import published
from tests.unit.api.client import application
from tests.unit.api.stream.test_market import play

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


def make_app() -> Any:
    market = Market()
    candles = walk(30)
    play(market, candles, published(candles))
    live = StreamView(market, Hub(), connected=True, detail="following", lag=0)
    return application(live=live, streams=StreamLimits(longest_s=0.02))  # an end to every stream


schema = schemathesis.openapi.from_asgi("/openapi.json", make_app())


@schema.parametrize()
@settings(max_examples=12, deadline=None)
def test_every_operation_answers_as_described(case: Any) -> None:
    case.call_and_validate(checks=list(CHECKS))
