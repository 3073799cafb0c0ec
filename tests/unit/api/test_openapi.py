from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from api.openapi import ANSWER_EXAMPLE, PROBLEM_EXAMPLE
from tests.unit.api.client import LENGTH, application, call, history, predict

APP = application()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    answer = call(APP, "GET", "/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def valid(document: dict[str, Any], name: str, value: object) -> None:
    """Check a value against a schema of the document, every reference resolved."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_docs_show_the_document() -> None:
    answer = call(APP, "GET", "/docs")
    assert answer.status_code == 200
    assert "/openapi.json" in answer.text


def test_every_path_is_described(document: dict[str, Any]) -> None:
    assert set(document["paths"]) >= {"/", "/predict", "/livez", "/readyz", "/metrics"}
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["description"]


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    openapi_spec_validator.validate(document)  # Redocly and Spectral: test_generated_clients.py


def test_operation_ids_make_names_of_methods(document: dict[str, Any]) -> None:
    ids = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(ids) == len(set(ids))
    assert {"predict", "create_forecasts", "get_forecast", "stream_events", "infer"} <= set(ids)
    for name in ids:
        assert re.fullmatch(r"[a-z]+(_[a-z]+){0,4}", name), name


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    names = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_request_example_is_answered(document: dict[str, Any]) -> None:
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    valid(document, "PredictRequest", content["example"])
    answer = call(APP, "POST", "/predict", json=content["example"])
    assert answer.status_code == 200
    valid(document, "PredictAnswer", answer.json())


def test_answers_have_their_schemas(document: dict[str, Any]) -> None:
    responses = document["paths"]["/predict"]["post"]["responses"]
    refusals = {"400", "401", "403", "413", "415", "421", "422", "429", "431", "503"}
    assert set(responses) == {"200", *refusals}
    valid(document, "PredictAnswer", ANSWER_EXAMPLE)
    valid(document, "Problem", PROBLEM_EXAMPLE)
    valid(document, "HealthAnswer", call(APP, "GET", "/").json())
    valid(document, "ProbeAnswer", call(APP, "GET", "/livez").json())


def test_the_problem_example_is_what_comes(document: dict[str, Any]) -> None:
    candles = history()
    candles[17] |= {"low": 101.5, "high": 99, "open": 101.5, "close": 101.5}
    answer = predict(APP, candles).json()
    assert answer == PROBLEM_EXAMPLE
    valid(document, "Problem", answer)


def test_the_schema_refuses_what_the_api_refuses(document: dict[str, Any]) -> None:
    for bad in (history(LENGTH - 1), [*history(), {}], [*history(), history()[0] | {"x": 1}]):
        with pytest.raises(jsonschema.ValidationError):
            valid(document, "PredictRequest", {"history": bad})
        assert predict(APP, bad).status_code == 422
