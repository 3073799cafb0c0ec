"""What FastAPI cannot see of the routes, for the OpenAPI document: bodies, problems, examples."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.bodies import PredictRequest, Problem
from api.problems import MEDIA_TYPE

_SCHEMAS: Final = "#/components/schemas/{model}"


def _refers(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": _SCHEMAS.format(model=name)}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: _refers("Problem")}}


PREDICT: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": _refers("PredictRequest")}},
    "responses": {
        "400": _problem("The body is empty or not JSON."),
        "413": _problem("The body is too large."),
        "415": _problem("The body is not declared as plain JSON."),
        "422": _problem("The history breaks a rule; the problem names the field and the rule."),
    },
}
"""What ``POST /predict`` takes, and how it refuses."""

PROBE: Final[dict[str, Any]] = {
    "responses": {
        "503": {"description": "Not now.", "content": {"application/json": _refers("ProbeAnswer")}}
    }
}
"""How a probe fails."""

PROBLEM_EXAMPLE: Final[dict[str, Any]] = {
    "type": "about:blank",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "history[17].high: expected at least low 101.5, got 99",
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
    models = [(PredictRequest, "validation"), (Problem, "serialization")]
    schemas = models_json_schema(models, ref_template=_SCHEMAS)[1]["$defs"]  # type: ignore[arg-type]
    document["components"]["schemas"].update(schemas)
    history = document["components"]["schemas"]["PredictRequest"]["properties"]["history"]
    history["minItems"] = window_length
    post = document["paths"]["/predict"]["post"]
    post["requestBody"]["content"]["application/json"]["example"] = {
        "history": example_history(window_length)
    }
    post["responses"]["200"]["content"]["application/json"]["example"] = ANSWER_EXAMPLE
    post["responses"]["422"]["content"][MEDIA_TYPE]["example"] = PROBLEM_EXAMPLE


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
