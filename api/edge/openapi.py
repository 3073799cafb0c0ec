"""What FastAPI cannot see of the routes, for the OpenAPI document: bodies, parameters, problems."""

from __future__ import annotations

from typing import Any, Final

from api.edge.problems import MEDIA_TYPE
from shared.candles import INTERVALS_MS

SCHEMAS: Final = "#/components/schemas/{model}"
"""Reference to the schema of a model."""


def refers(name: str) -> dict[str, Any]:
    """Return the reference to a model's schema."""
    return {"schema": {"$ref": SCHEMAS.format(model=name)}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: refers("Problem")}}


def _body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": refers(name)}}


def _parameter(name: str, where: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": description,
        "schema": schema,
    }


def _list(name: str, description: str, **item: Any) -> dict[str, Any]:
    array = _parameter(name, "query", description, type="array", items=item, minItems=1)
    return array | {"style": "form", "explode": False}


REFUSALS: Final[dict[str, Any]] = {
    "400": _problem("The body is empty or not JSON, or the client left."),
    "413": _problem("The body is too large."),
    "415": _problem("The body is not declared as plain JSON."),
    "422": _problem("The request breaks a rule; the problem names the field and the rule."),
    "503": _problem("Too many large bodies at once; Retry-After says when to come back."),
}
"""Problems of routes that read a body."""

ALWAYS: Final[dict[str, Any]] = {
    "400": _problem("Not a valid HTTP request."),
    "421": _problem("A host that is not served, where hosts are named."),
    "431": _problem("The head has too many bytes or headers."),
}
"""Problems of every route."""

COMMON: Final[dict[str, Any]] = {
    "401": _problem("No API key, or one that is not valid, where keys are in use."),
    "403": _problem("The key lacks the scope."),
    "429": _problem("Too many requests of this key; Retry-After says when to come back."),
}
"""Problems of routes that need a key."""

PREDICT: Final[dict[str, Any]] = {
    "requestBody": _body("PredictRequest"),
    "responses": REFUSALS,
}
"""Body and problems of ``POST /predict``."""

FORECASTS: Final[dict[str, Any]] = {
    "requestBody": _body("ForecastsRequest"),
    "responses": {"404": _problem("The stream has no such series, or too little."), **REFUSALS},
}
"""Body and problems of ``POST /v1/forecasts``."""

PROBE: Final[dict[str, Any]] = {
    "responses": {
        "503": {"description": "Not now.", "content": {"application/json": refers("ProbeAnswer")}}
    }
}
"""Problem of a probe."""

_STREAM_REFUSALS: Final[dict[str, Any]] = {
    "422": _problem("A parameter breaks a rule."),
    "503": _problem("The topics are not followed now; Retry-After says when to come back."),
}
_SYMBOLS: Final = _list("symbols", "by comma; by default all", type="string")
_INTERVAL: Final = _parameter(
    "interval", "query", "by default all, or the newest", type="string", enum=list(INTERVALS_MS)
)
_LIMIT: Final = _parameter(
    "limit", "query", "candles", type="integer", minimum=1, maximum=1000, default=100
)
_MOST_SCORES: Final = _parameter(
    "limit", "query", "scores of each step", type="integer", minimum=1, maximum=1000, default=100
)
_SYMBOL: Final = _parameter("symbol", "path", "as in the stream", type="string", example="AAPL")

STREAM: Final[dict[str, Any]] = {
    "parameters": [_SYMBOLS, _INTERVAL],
    "responses": _STREAM_REFUSALS,
}
"""Parameters and problems of routes for many series."""

SYMBOL: Final[dict[str, Any]] = {
    "parameters": [_SYMBOL, _INTERVAL],
    "responses": {"404": _problem("The stream has no such symbol."), **_STREAM_REFUSALS},
}
"""Parameters and problems of routes for one series."""

HISTORY: Final[dict[str, Any]] = SYMBOL | {"parameters": [_SYMBOL, _INTERVAL, _LIMIT]}
"""Parameters and problems of the route for the past of one series."""

RECORD: Final[dict[str, Any]] = SYMBOL | {"parameters": [_SYMBOL, _INTERVAL, _MOST_SCORES]}
"""Parameters and problems of the route for the scores of one series."""

_KINDS: Final = ("hello", "resumed", "reset", "candle", "forecast", "score", "dropped", "closing")
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "event": {"enum": list(_KINDS)},
        "data": {"type": "string", "description": "JSON: StreamCandle, Forecast, scores or {}"},
        "id": {"type": "string", "description": "to reconnect with, as Last-Event-ID"},
        "retry": {"type": "integer", "description": "milliseconds to wait before reconnecting"},
    },
    "additionalProperties": False,
}

EVENTS: Final[dict[str, Any]] = {
    "parameters": [
        _SYMBOLS,
        _INTERVAL,
        _list(
            "events",
            "by comma; by default all",
            type="string",
            enum=["candle", "forecast", "score"],
        ),
        _parameter("Last-Event-ID", "header", "of the last event received", type="string"),
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
"""Parameters, answers and problems of the event stream."""

_NAMES: Final = [_parameter("name", "path", "of the model, as in its card", type="string")]
_VERSIONS: Final = [*_NAMES, _parameter("version", "path", "of the model", type="string")]
_NOT_SERVED: Final[dict[str, Any]] = {"404": _problem("Another model is served.")}

MODEL: Final[dict[str, Any]] = {"parameters": _NAMES, "responses": _NOT_SERVED}
"""Parameters and problems of routes for the model."""

MODEL_VERSION: Final[dict[str, Any]] = MODEL | {"parameters": _VERSIONS}
"""Parameters and problems of routes for a version of the model."""

_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_JSON_LENGTH: Final = "length of the JSON, where tensors in binary follow it"

_INFER: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": refers("InferRequest"),
            "application/octet-stream": _BINARY,
        },
    },
    "responses": {
        "200": {
            "description": "The tensors, in JSON, or in binary after it.",
            "content": {
                "application/json": refers("InferAnswer"),
                "application/octet-stream": _BINARY,
            },
        },
        **REFUSALS,
        **_NOT_SERVED,
    },
}
_LENGTH: Final = _parameter(
    "Inference-Header-Content-Length", "header", _JSON_LENGTH, type="integer"
)

INFER: Final[dict[str, Any]] = _INFER | {"parameters": [*_NAMES, _LENGTH]}
"""Parameters, body and problems of inference."""

INFER_VERSION: Final[dict[str, Any]] = _INFER | {"parameters": [*_VERSIONS, _LENGTH]}
"""Parameters, body and problems of inference by a version of the model."""

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
"""Answers of ``GET /metrics``."""
