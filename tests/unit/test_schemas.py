from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from pydantic import ValidationError

from docs import generate
from docs.marks import replace
from producer.target import EVENT_TYPE
from shared.candles import Candle, InvalidCandle, RejectReason
from shared.forecasts import Forecast
from shared.headers import cloud_event
from stream_app.publisher import dead_letter
from tests.candles import candle, ohlcv

DOCUMENT: dict[str, Any] = yaml.safe_load(generate.ASYNCAPI.read_text())


def content(name: str) -> dict[str, Any]:
    return dict(json.loads((generate.SCHEMAS / f"{name}.v1.json").read_text()))


def schema(name: str) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(content(name))
    return jsonschema.Draft202012Validator(content(name))


CANDLE, FORECAST = schema("candle"), schema("forecast")


def test_generated_files_are_current() -> None:
    outdated = generate.stale(generate.documents())
    assert not outdated, "stale: run make docs"


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert path in generate.stale({path: "new"})
    path.write_text("old")
    assert path in generate.stale({path: "new"})
    path.write_text("new")
    assert path not in generate.stale({path: "new"})


def test_only_what_is_between_the_marks_is_replaced() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    expected = "a\n<!-- x -->\nnew | \\1\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    assert replace(text, "x", "new | \\1") == expected


@given(ohlcv())
def test_every_candle_fits_its_schema(values: tuple[float, float, float, float, float]) -> None:
    names = ("open", "high", "low", "close", "volume")
    made = candle().model_copy(update=dict(zip(names, values, strict=True)))
    CANDLE.validate(json.loads(made.encode()))


@pytest.mark.parametrize(
    "changes",
    [{"close": 0}, {"volume": -1}, {"close": "1"}, {"symbol": "A,B"}, {"interval": "7m"},
     {"open_ms": -3_000_000_000_000}, {"open_ms": 0.5}, {"source": "x" * 65}],
)  # fmt: skip
def test_schema_and_type_refuse_the_same(changes: dict[str, Any]) -> None:
    value = json.loads(candle().encode()) | changes
    with pytest.raises(jsonschema.ValidationError):
        CANDLE.validate(value)
    with pytest.raises(ValidationError):
        Candle.model_validate_json(json.dumps(value))


def test_every_field_must_be_there_but_those_that_came_later() -> None:
    for name, model, later in (
        ("candle", Candle, set()),
        ("forecast", Forecast, {"model_interval", "context_as_of_ms", "feature_bins"}),
    ):
        assert set(content(name)["required"]) == set(model.model_fields) - later


def test_times_and_prices_tell_their_unit() -> None:
    properties = content("forecast")["$defs"]["Horizon"]["properties"]
    assert "UTC" in properties["due_ms"]["description"]
    assert "quote currency" in properties["predicted_close"]["description"]


def test_examples_fit_their_schemas() -> None:
    messages = DOCUMENT["components"]["messages"]
    CANDLE.validate(messages["candle"]["examples"][0]["payload"])
    FORECAST.validate(messages["forecast"]["examples"][0]["payload"])
    jsonschema.validate(messages["score"]["examples"][0]["payload"], content("score"))


def test_every_reference_of_the_document_resolves() -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            inside = [one for value in node.values() for one in references(value)]
            return [*inside, node["$ref"]] if "$ref" in node else inside
        return (
            [one for value in node for one in references(value)] if isinstance(node, list) else []
        )

    for reference in references(DOCUMENT):
        if reference.startswith("#/"):
            target: Any = DOCUMENT
            for part in reference.removeprefix("#/").split("/"):
                target = target[part]
        else:
            assert (generate.ASYNCAPI.parent / reference).exists()


def test_the_document_names_the_topics() -> None:
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    assert addresses == {
        "market.candles.v1",
        "market.forecasts.v1",
        "market.scores.v1",
        "market.context.v1",
        "market.candles.v1.dlq",
    }


def test_headers_of_events_fit_the_document() -> None:
    headers = dict(cloud_event("AAPL/1d/1", EVENT_TYPE, "candlecast/producer/replay", 1))
    described = DOCUMENT["components"]["messages"]["candle"]["headers"]
    jsonschema.validate({name: value.decode() for name, value in headers.items()}, described)


def test_headers_of_dead_letters_fit_the_document() -> None:
    message = SimpleNamespace(
        topic="market.candles.v1", partition=3, offset=42, key=b"k", value=b"v",
        headers=[("ce_id", b"1")],
    )  # fmt: skip
    error = InvalidCandle(RejectReason.NOT_JSON, "value: invalid JSON")
    _, _, sent = dead_letter(message, error)
    headers = {name: value.decode() for name, value in sent}
    assert headers["ce_id"] == "1"
    described = DOCUMENT["components"]["messages"]["deadLetter"]["headers"]
    jsonschema.validate(headers, described)
    assert set(headers) == {*described["required"], "ce_id"}
