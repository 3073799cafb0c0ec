"""The OpenAPI document completed: schemas of bodies, security and examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from api.edge.openapi import ALWAYS, COMMON, REFUSALS, SCHEMAS, refers
from api.edge.problems import MEDIA_TYPE, Problem
from api.edge.routing import OPEN, GuardedRoute
from api.forecast.bodies import MAX_HISTORIES, ForecastsRequest, PredictRequest
from api.forecast.inference import InferAnswer, InferRequest
from shared.candles import DAY_MS

PROBLEM_EXAMPLE: Final[dict[str, Any]] = {
    "type": "about:blank",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "history[17].high: expected at least low 101.5, got 99",
    "error": "history[17].high: expected at least low 101.5, got 99",
    "errors": [
        {
            "field": "history[17].high",
            "rule": "inconsistent",
            "message": "expected at least low 101.5, got 99",
        }
    ],
}

ANSWER_EXAMPLE: Final[dict[str, Any]] = {
    "predicted_close": 279.52,
    "last_close": 278.9,
    "latency_ms": 0.61,
    "model_version": "lstm-0123456789ab",
    "horizons": [
        {
            "step": 1,
            "predicted_close": 279.52,
            "quantiles": {"0.05": 271.1, "0.5": 279.52, "0.95": 287.4},
            "volatility": 0.0171,
        }
    ],
}


INFO: Final[dict[str, Any]] = {
    "title": "Candlecast",
    "version": "1",
    "description": "Forecasts of market prices: a distribution for each horizon, on demand and "
    "from the stream. Errors are problem documents (RFC 9457).",
    "contact": {"name": "The Candlecast developers"},
    "license": {"name": "MIT", "identifier": "MIT"},
}

TAGS: Final = (
    {"name": "forecasts", "description": "Forecasts of candles that the client brings."},
    {"name": "status", "description": "Health, model and metrics of this process."},
    {"name": "stream", "description": "What the stream has forecast, and how good that was."},
    {"name": "open inference protocol", "description": "The model by KServe's version 2."},
)


def complete(
    document: dict[str, Any],
    routes: Sequence[GuardedRoute],
    window_length: int,
    longest_step: int,
) -> dict[str, Any]:
    """Return FastAPI's document of these routes with all that it cannot know added."""
    document |= {"info": INFO, "tags": list(TAGS), "servers": [{"url": "/"}]}
    models = [
        (PredictRequest, "validation"),
        (ForecastsRequest, "validation"),
        (InferRequest, "validation"),
        (InferAnswer, "serialization"),
        (Problem, "serialization"),
    ]
    schemas = models_json_schema(models, ref_template=SCHEMAS)[1]["$defs"]  # type: ignore[arg-type]
    document["components"]["schemas"].update(schemas)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for guarded in routes:
        operations = document["paths"].get(guarded.route.path_format, {})
        operation = operations.get(guarded.method.lower())
        if operation is None:
            continue
        problems = dict(ALWAYS)
        operation["security"] = []
        if guarded.scope is not OPEN:
            problems |= COMMON
            operation["security"] = [{"key": []}, {}]
            operation["description"] += f"\n\nScope: {guarded.scope}."
        answers = problems | operation["responses"]
        operation["responses"] = {status: answers[status] for status in sorted(answers)}
    _give_bounds(document["components"]["schemas"], window_length, longest_step)
    _give_examples(document, window_length)
    return document


def _give_bounds(schemas: dict[str, Any], window_length: int, longest_step: int) -> None:
    schemas["PredictRequest"]["properties"]["history"]["minItems"] = window_length
    schemas["CandleHistory"]["properties"]["candles"]["minItems"] = window_length
    request = schemas["ForecastsRequest"]["properties"]
    request["histories"]["maxItems"] = MAX_HISTORIES
    request["horizons"]["anyOf"][0]["items"]["maximum"] = longest_step


def _give_examples(document: dict[str, Any], window_length: int) -> None:
    candles = example_history(window_length)
    example = {
        "/predict": {"history": candles},
        "/v1/forecasts": {"histories": [{"symbol": "AAPL", "interval": "1d", "candles": candles}]},
        "/v2/models/{name}/infer": {
            "inputs": [
                {
                    "name": "candles",
                    "shape": [1, window_length, 5],
                    "datatype": "FP64",
                    "data": [[list(candle.values()) for candle in candles]],
                },
                {
                    "name": "open_ms",
                    "shape": [1, window_length],
                    "datatype": "INT64",
                    "data": [[day * DAY_MS for day in range(window_length)]],
                },
            ]
        },
    }
    for path, body in example.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        content["example"] = body
    post = document["paths"]["/predict"]["post"]
    post["responses"]["200"]["content"]["application/json"]["example"] = ANSWER_EXAMPLE
    post["responses"]["422"] = {
        "description": REFUSALS["422"]["description"],
        "content": {MEDIA_TYPE: refers("Problem") | {"example": PROBLEM_EXAMPLE}},
    }


def example_history(length: int) -> list[dict[str, float]]:
    """Return a made-up history that ``POST /predict`` answers, oldest candle first."""
    closes = [round(250 + 0.4 * day + 6 * math.sin(day / 5), 2) for day in range(length + 1)]
    return [
        {
            "open": opened,
            "high": round(max(opened, close) + 1.3, 2),
            "low": round(min(opened, close) - 1.7, 2),
            "close": close,
            "volume": 110_000_000 + 1_000_000 * (day % 7),
        }
        for day, (opened, close) in enumerate(pairwise(closes))
    ]
