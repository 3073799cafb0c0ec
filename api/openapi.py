"""What FastAPI cannot see of the routes, for the OpenAPI document: bodies, problems, examples."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.access import scope_of
from api.bodies import MAX_HISTORIES, ForecastsRequest, PredictRequest, Problem
from api.inference import InferRequest
from api.problems import MEDIA_TYPE
from shared.candles import INTERVALS_MS

_SCHEMAS: Final = "#/components/schemas/{model}"


def _refers(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": _SCHEMAS.format(model=name)}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: _refers("Problem")}}


def _body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": _refers(name)}}


def _parameter(name: str, where: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": description,
        "schema": schema,
    }


_REFUSALS: Final[dict[str, Any]] = {
    "400": _problem("The body is empty or not JSON, or the client left."),
    "413": _problem("The body is too large."),
    "415": _problem("The body is not declared as plain JSON."),
    "422": _problem("The request breaks a rule; the problem names the field and the rule."),
    "503": _problem("Too many large bodies at once; Retry-After says when to come back."),
}

_COMMON: Final[dict[str, Any]] = {
    "401": _problem("No API key, or one that opens nothing, where keys are in use."),
    "403": _problem("The key lacks the scope."),
    "429": _problem("Too many requests of this key; Retry-After says when to come back."),
}

PREDICT: Final[dict[str, Any]] = {
    "requestBody": _body("PredictRequest"),
    "responses": _REFUSALS,
}
"""What ``POST /predict`` takes, and how it refuses."""

FORECASTS: Final[dict[str, Any]] = {
    "requestBody": _body("ForecastsRequest"),
    "responses": _REFUSALS,
}
"""What ``POST /v1/forecasts`` takes, and how it refuses."""

PROBE: Final[dict[str, Any]] = {
    "responses": {
        "503": {"description": "Not now.", "content": {"application/json": _refers("ProbeAnswer")}}
    }
}
"""How a probe fails."""

_STREAM_REFUSALS: Final[dict[str, Any]] = {
    "422": _problem("A parameter breaks a rule."),
    "503": _problem("The topics are not followed now; Retry-After says when to come back."),
}
_SYMBOLS: Final = _parameter("symbols", "query", "by comma; by default all", type="string")
_INTERVAL: Final = _parameter(
    "interval", "query", "by default all, or the newest", type="string", enum=list(INTERVALS_MS)
)
_LIMIT: Final = _parameter(
    "limit", "query", "candles", type="integer", minimum=1, maximum=1000, default=100
)
_SYMBOL: Final = _parameter("symbol", "path", "as in the stream", type="string", example="AAPL")

STREAM: Final[dict[str, Any]] = {
    "parameters": [_SYMBOLS, _INTERVAL],
    "responses": _STREAM_REFUSALS,
}
"""What asks for many series."""

SYMBOL: Final[dict[str, Any]] = {
    "parameters": [_SYMBOL, _INTERVAL],
    "responses": {"404": _problem("The stream has no such symbol."), **_STREAM_REFUSALS},
}
"""What asks for one series."""

HISTORY: Final[dict[str, Any]] = SYMBOL | {"parameters": [_SYMBOL, _INTERVAL, _LIMIT]}
"""What asks for the past of one series."""

_KINDS: Final = ("hello", "resumed", "reset", "candle", "forecast", "score", "dropped", "closing")
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "event": {"enum": list(_KINDS)},
        "data": {"type": "string", "description": "JSON: SeenCandle, Forecast, a score or {}"},
        "id": {"type": "string", "description": "to come back with, as Last-Event-ID"},
        "retry": {"type": "integer", "description": "milliseconds to wait before coming back"},
    },
    "additionalProperties": False,
}

EVENTS: Final[dict[str, Any]] = {
    "parameters": [
        _SYMBOLS,
        _INTERVAL,
        _parameter(
            "events",
            "query",
            "some of candle, forecast, score, by comma; by default all",
            type="string",
        ),
        _parameter("Last-Event-ID", "header", "of the last event that came", type="string"),
    ],
    "responses": {
        "200": {
            "description": "Server-sent events, each of which the schema describes.",
            "content": {"text/event-stream": {"schema": _EVENT}},
        },
        **_STREAM_REFUSALS,
        "429": _problem("Too many event streams of this client."),
    },
}
"""What asks for events."""

_NAMES: Final = [_parameter("name", "path", "of the model, as in its card", type="string")]
_VERSIONS: Final = [*_NAMES, _parameter("version", "path", "of the model", type="string")]
_NOT_SERVED: Final[dict[str, Any]] = {"404": _problem("Another model is served.")}

MODEL: Final[dict[str, Any]] = {"parameters": _NAMES, "responses": _NOT_SERVED}
"""What asks for the model."""

MODEL_VERSION: Final[dict[str, Any]] = MODEL | {"parameters": _VERSIONS}
"""What asks for a version of the model."""

_INFER_BODY: Final[dict[str, Any]] = {
    "requestBody": _body("InferRequest"),
    "responses": _REFUSALS | _NOT_SERVED,
}

INFER: Final[dict[str, Any]] = _INFER_BODY | {"parameters": _NAMES}
"""What asks the model."""

INFER_VERSION: Final[dict[str, Any]] = _INFER_BODY | {"parameters": _VERSIONS}
"""What asks a version of the model."""

METRICS: Final[dict[str, Any]] = {
    "responses": {
        "200": {
            "description": "Prometheus text, or OpenMetrics if asked for.",
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            },
        }
    }
}
"""What ``GET /metrics`` answers."""

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


def describe(app: FastAPI, window_length: int) -> None:
    """Complete the document of an application whose routes are all there."""
    document = app.openapi()
    models = [
        (PredictRequest, "validation"),
        (ForecastsRequest, "validation"),
        (InferRequest, "validation"),
        (Problem, "serialization"),
    ]
    schemas = models_json_schema(models, ref_template=_SCHEMAS)[1]["$defs"]  # type: ignore[arg-type]
    document["components"]["schemas"].update(schemas)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needed = scope_of(method.upper(), path)
            if needed is not None:
                operation["security"] = [{"key": []}, {}]
                operation["description"] += f"\n\nScope: {needed}."
                operation["responses"] = _COMMON | operation["responses"]
    _give_examples(document, window_length)


def _give_examples(document: dict[str, Any], window_length: int) -> None:
    schemas = document["components"]["schemas"]
    schemas["PredictRequest"]["properties"]["history"]["minItems"] = window_length
    schemas["History"]["properties"]["candles"]["minItems"] = window_length
    schemas["ForecastsRequest"]["properties"]["histories"]["maxItems"] = MAX_HISTORIES
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
                    "data": [list(one.values()) for one in candles],
                }
            ]
        },
    }
    for path, body in example.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        content["example"] = body
    post = document["paths"]["/predict"]["post"]
    post["responses"]["200"]["content"]["application/json"]["example"] = ANSWER_EXAMPLE
    post["responses"]["422"] = {
        "description": _REFUSALS["422"]["description"],
        "content": {MEDIA_TYPE: _refers("Problem") | {"example": PROBLEM_EXAMPLE}},
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
