"""A reader of the last release reads the messages of now, and the other way round."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from docs import compatibility, generate
from docs.compatibility import Contract, changes, released, schema_changes
from shared.candles import Candle
from shared.forecasts import Forecast
from shared.messages import Message
from shared.score_messages import Scores

DOCS = generate.ROOT / "docs"
THEN = Contract.read(released(DOCS))
NOW = Contract.read(DOCS)
FORECAST: dict[str, Any] = json.loads((generate.SCHEMAS / "forecast.v1.json").read_text())


def test_nothing_has_changed_that_a_reader_of_the_last_release_could_not_bear() -> None:
    assert compatibility.faults(DOCS) == []
    assert compatibility.main() == 0


def test_messages_of_now_fit_the_last_release_and_its_messages_are_read_now() -> None:
    types: dict[str, type[Message]] = {"candle": Candle, "forecast": Forecast, "score": Scores}
    for name, message in THEN.asyncapi["components"]["messages"].items():
        if name not in types:
            continue
        schema = THEN.schemas[f"{name}.v1.json"]
        for example in NOW.asyncapi["components"]["messages"][name]["examples"]:
            jsonschema.validate(example["payload"], schema)
        for example in message["examples"]:
            types[name].model_validate_json(json.dumps(example["payload"]))


def horizon(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"]["Horizon"]
    return found


def put(part: dict[str, Any], **values: Any) -> None:
    part.update(values)


HARMS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda s: s["properties"].pop("last_close"), "forecast.last_close: properties: expected"),
    (lambda s: s["required"].remove("id"), "forecast.id: required: expected a field that is alw"),
    (lambda s: s["required"].append("unit"), "forecast.unit: required: expected a field with a"),
    (lambda s: put(s["properties"]["as_of_ms"], type="string"), "expected integer, got string"),
    (lambda s: put(s["properties"]["as_of_ms"], type="number"), "expected integer, got number"),
    (
        lambda s: put(horizon(s)["properties"]["volatility"], type="integer"),
        "forecast.horizons[].volatility: type: expected number, got integer",
    ),
    (
        lambda s: put(horizon(s)["properties"]["step"], anyOf=[{"type": "integer"}, {}]),
        "forecast.horizons[].step: type: expected integer, got any or integer",
    ),
    (
        lambda s: put(horizon(s)["properties"]["quantiles"], additionalProperties={"type": "null"}),
        "forecast.horizons[].quantiles{}: type: expected number, got null",
    ),
    (lambda s: s["properties"]["interval"]["enum"].remove("1h"), "enum: expected 1h, got"),
    (lambda s: put(s["properties"]["id"], enum=["a"]), 'forecast.id: enum: expected any value, g'),
    (lambda s: put(s["properties"]["id"], pattern="^a"), "pattern: expected none, got ^a"),
    (lambda s: put(s["properties"]["id"], maxLength=9), "maxLength: expected 64, got 9"),
    (lambda s: put(s["properties"]["id"], minLength=9), "minLength: expected none, got 9"),
    (lambda s: s["properties"]["horizons"].pop("minItems"), "minItems: expected 1, got none"),
    (lambda s: put(s, additionalProperties=False), "additionalProperties: expected what was"),
    (lambda s: put(s, **{"$id": "urn:other"}), "$id: expected"),
]  # fmt: skip


@pytest.mark.parametrize(("harm", "words"), HARMS)
def test_a_harmful_change_names_the_field_and_how_to_mend_it(
    harm: Callable[[dict[str, Any]], object], words: str
) -> None:
    now = copy.deepcopy(FORECAST)
    harm(now)
    [line] = [str(change) for change in schema_changes("forecast", FORECAST, now)]
    assert words in line
    assert "market.forecasts.v2" in line


def test_what_is_added_or_wider_harms_nobody() -> None:
    now = copy.deepcopy(FORECAST)
    now["properties"]["model_interval"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    horizon(now)["properties"]["shortfall"] = {"type": "object"}
    now["properties"]["interval"]["enum"].append("2h")
    put(now["properties"]["id"], maxLength=99, title="Another", description="other words")
    put(now["properties"]["horizons"], maxItems=99)
    assert [*schema_changes("forecast", FORECAST, now)] == []


def test_a_topic_a_header_and_a_key_may_not_change() -> None:
    asyncapi: Any = copy.deepcopy(NOW.asyncapi)
    asyncapi["channels"]["forecasts"]["address"] = "market.forecasts.v2"
    del asyncapi["channels"]["scores"]
    asyncapi["components"]["messages"]["candle"]["headers"]["properties"].pop("ce_time")
    asyncapi["components"]["messages"]["candle"]["contentType"] = "application/avro"
    asyncapi["components"]["messages"]["score"]["bindings"]["kafka"]["key"]["type"] = "integer"
    found = {
        (change.place, change.rule) for change in changes(NOW, Contract(asyncapi, NOW.schemas))
    }
    assert found == {
        ("market.forecasts.v1", "topic"),
        ("market.scores.v1", "topic"),
        ("market.scores.v1: score", "message"),
        ("candle", "contentType"),
        ("candle headers.ce_time", "properties"),
        ("score key", "type"),
    }


def test_an_exception_that_is_not_needed_is_a_fault(tmp_path: Path) -> None:
    folder = tmp_path / "released" / "1.0"
    shutil.copytree(DOCS / "schemas", tmp_path / "schemas")
    shutil.copy(DOCS / "asyncapi.yaml", tmp_path)
    compatibility.keep(tmp_path, "1.0")
    (folder / "accepted.yaml").write_text(yaml.safe_dump({"forecast.id": {"type": "why"}}))
    [line] = compatibility.faults(tmp_path)
    assert line.startswith("forecast.id: type: accepted.yaml accepts a change that is not there")
