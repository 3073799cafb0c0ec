#!/usr/bin/env python
"""Generates documents from the code: JSON Schemas, AsyncAPI, lists of features and of files.

``python docs/generate.py`` writes the files, ``--check`` fails when one is stale.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import yaml

from producer.target import CONTEXT_TYPE, EVENT_TYPE
from shared import permissions
from shared.candles import INTERVALS_MS, Candle, RejectReason
from shared.drift import Drift
from shared.forecasts import Forecast, Horizon
from shared.headers import cloud_event
from shared.kafka import KafkaSettings
from shared.messages import Message
from shared.score_messages import Correction, HorizonScore, Scores
from shared.topics import DEFAULT_GROUP, Topic, all_topics, context_topic, market_topics
from shared.traces import HEADER as TRACE_HEADER
from stream_app.publisher import FORECAST_TYPE, SCORE_TYPE
from trainer.features import FEATURES

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # of a script only its own folder is on the path

from deploy import dashboards  # noqa: E402
from docs import connect, reference  # noqa: E402
from docs.marks import replace  # noqa: E402

ARCHITECTURE: Final = ROOT / "docs" / "architecture.md"
OPERATIONS: Final = ROOT / "docs" / "operations.md"
CHART: Final = ROOT / "deploy" / "helm" / "candlecast"
KUBERNETES: Final = ROOT / "docs" / "kubernetes.md"
DASHBOARDS: Final = ROOT / "deploy" / "grafana" / "dashboards"
CONNECT: Final = ROOT / "examples" / "connect"
DECISIONS: Final = ROOT / "docs" / "decisions"
SCHEMAS: Final = ROOT / "docs" / "schemas"
ASYNCAPI: Final = ROOT / "docs" / "asyncapi.yaml"
FEATURES_PAGE: Final = ROOT / "docs" / "features.md"

PACKAGES: Final = ("producer", "stream_app", "api", "trainer", "shared", "local", "benchmarks")

CANDLE: Final = Candle(
    symbol="AAPL",
    interval="1d",
    open_ms=1_362_009_600_000,
    close_ms=1_362_096_000_000,
    open=444.05,
    high=447.87,
    low=441.4,
    close=441.4,
    volume=11_518_400,
    source="replay",
)
FORECAST: Final = Forecast(
    id="37359532b9fc56fdc03d7cd414b3a85d",
    symbol=CANDLE.symbol,
    interval=CANDLE.interval,
    as_of_ms=CANDLE.close_ms,
    last_close=CANDLE.close,
    model_version="lstm-0123456789ab",
    made_at_ms=1_362_096_000_007,
    horizons=(
        Horizon(
            step=1,
            due_ms=CANDLE.close_ms + 86_400_000,
            predicted_close=441.62,
            quantiles={"0.01": 418.9, "0.025": 423.4, "0.05": 427.3, "0.5": 441.62, "0.95": 455.8},
            volatility=0.0192,
            raw_quantiles={
                "0.01": 416.8,
                "0.025": 421.7,
                "0.05": 425.9,
                "0.5": 441.62,
                "0.95": 457.4,
            },
            expected_shortfall={"0.01": 414.04, "0.025": 418.49},
        ),
    ),
)
SCORES: Final = Scores(
    id="9b2c66a8d1f34c0f8e5a7d43c1b20f6e",
    symbol=CANDLE.symbol,
    interval=CANDLE.interval,
    open_ms=CANDLE.open_ms + 86_400_000,
    close_ms=CANDLE.close_ms + 86_400_000,
    close=430.47,
    corrected=False,
    made_at_ms=1_362_182_400_009,
    horizons=(
        HorizonScore(
            forecast_id=FORECAST.id,
            step=1,
            as_of_ms=FORECAST.as_of_ms,
            model_version=FORECAST.model_version,
            last_close=FORECAST.last_close,
            predicted_close=441.62,
            error=-0.025574,
            persistence_error=-0.025076,
            pinball=0.007329,
            raw_pinball=0.007512,
            baseline_pinball=0.007904,
            qlike=-6.1997,
            pit=0.1496,
            raw_pit=0.1831,
            inside={"90": True},
            raw_inside={"90": True},
            correction=Correction(
                settled=812,
                lower=0.96435,
                upper=1.01274,
                offsets={"0.05": -0.01831, "0.5": 0.0, "0.95": 0.00746},
            ),
        ),
    ),
    drift=Drift(evidence=18412.6, drifting=3, shift=-0.31, spread=1.72),
)


def documents() -> dict[Path, str]:
    """Return every generated file and what it should hold."""
    contents = {
        SCHEMAS / "candle.v1.json": _json(schema(Candle, EVENT_TYPE)),
        SCHEMAS / "forecast.v1.json": _json(schema(Forecast, FORECAST_TYPE)),
        SCHEMAS / "score.v1.json": _json(schema(Scores, SCORE_TYPE)),
        ASYNCAPI: yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True, width=100),
        ROOT / "docs" / "settings.md": reference.settings_page(),
        ROOT / "docs" / "metrics.md": reference.metrics_page(),
        ROOT / ".env.example": reference.env_example(),
        ROOT / "docs" / "errors.md": reference.errors_page(ROOT),
    }
    sinks = connect.configurations(schema(Candle, EVENT_TYPE), schema(Forecast, FORECAST_TYPE))
    contents |= {CONNECT / name: _json(content) for name, content in sinks.items()}
    contents |= {
        DASHBOARDS / f"{board.uid}.json": dashboards.as_json(board) for board in dashboards.ALL
    }
    if FEATURES_PAGE.exists():
        contents[FEATURES_PAGE] = replace(FEATURES_PAGE.read_text(), "features", feature_list())
    page = replace(ARCHITECTURE.read_text(), "contracts", contracts())
    contents[ARCHITECTURE] = replace(page, "files", file_tree())
    page = replace(OPERATIONS.read_text(), "acls", acls())
    contents[OPERATIONS] = replace(page, "topics", topic_settings())
    contents[KUBERNETES] = replace(KUBERNETES.read_text(), "values", chart_values())
    index = DECISIONS / "README.md"
    contents[index] = replace(index.read_text(), "decisions", decisions())
    return contents


def schema(model: type[Message], event_type: str) -> dict[str, Any]:
    """Return the JSON Schema of a message type, described by the comments beside its fields."""
    document = model.model_json_schema()
    parts = [(document, model)]
    parts += [
        (document["$defs"][nested.__name__], nested)
        for nested in (Horizon, HorizonScore, Correction)
        if nested.__name__ in document.get("$defs", {})
    ]
    for part, cls in parts:
        for field, comment in comments(cls).items():
            part["properties"][field].setdefault("description", comment)
        if "interval" in part["properties"]:
            part["properties"]["interval"]["enum"] = list(INTERVALS_MS)
        if "model_interval" in part["properties"]:
            part["properties"]["model_interval"]["anyOf"][0]["enum"] = list(INTERVALS_MS)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:candlecast:{event_type}",
    }
    return head | document


def comments(model: type[Message]) -> dict[str, str]:
    """Return the comment beside each field of a message type, inherited ones first."""
    descriptions: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, Message):
            descriptions |= re.findall(
                r"^    (\w+): [^#\n]+  # (.+)$", inspect.getsource(cls), re.MULTILINE
            )
    return descriptions


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document: topics, keys, headers, messages."""
    settings = KafkaSettings.model_construct()  # by default
    candles, forecasts, scores, dead_letters = market_topics(settings)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Candlecast",
            "version": "1.0.0",
            "description": "Closed candles in, forecasts and their scores out. Times are UTC epoch "
            "milliseconds, prices are in the quote currency. Delivery is at least once: drop an "
            "id seen before.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "candles": _channel(candles, "candle", "Closed candles, in order by symbol."),
            "forecasts": _channel(forecasts, "forecast", "A forecast for each candle of a full "
                                  "window, in order by symbol."),
            "scores": _channel(scores, "score", "The scores of the forecasts that a candle has "
                               "settled, in order by symbol."),
            "context": _channel(context_topic(settings), "context", "Closed candles of the symbols "
                                "that models read as context; compacted."),
            "deadLetters": _channel(dead_letters, "deadLetter",
                                    "Messages that are not valid candles."),
        },
        "operations": {
            "publishCandle": _operation("send", "candles", "The producer publishes a candle."),
            "takeCandle": _operation("receive", "candles", "The worker takes a candle."),
            "publishContext": _operation("send", "context", "The producer publishes a candle of "
                                         "the context."),
            "followContext": _operation("receive", "context", "Worker and API read all of it where "
                                        "a model reads a context, and follow it."),
            "publishForecast": _operation("send", "forecasts", "The worker publishes a forecast."),
            "publishScores": _operation("send", "scores", "The worker publishes what a candle "
                                        "settled."),
            "rejectCandle": _operation("send", "deadLetters", "The worker puts a message aside."),
        },
        "components": {
            "messages": {
                "candle": _message("candle", EVENT_TYPE, CANDLE),
                "context": _message("candle", CONTEXT_TYPE, CANDLE, "symbol, interval and "
                                    "open_ms, as in ^GSPC|1d|1362009600000"),
                "forecast": _message("forecast", FORECAST_TYPE, FORECAST),
                "score": _message("score", SCORE_TYPE, SCORES),
                "deadLetter": _dead_letter(),
            }
        },
    }  # fmt: skip


def _channel(topic: Topic, message: str, description: str) -> dict[str, Any]:
    return {
        "address": topic.name,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "replicas": topic.replication,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
    }


def _message(
    name: str, event_type: str, example: Message, key: str = "the symbol, in UTF-8"
) -> dict[str, Any]:
    return {
        "name": name,
        "summary": (type(example).__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        "headers": _event_headers(event_type),
        "payload": {"$ref": f"./schemas/{name}.v1.json"},
        "examples": [{"payload": example.model_dump(mode="json")}],
        "bindings": {"kafka": _key({"type": "string", "description": key})},
    }


def _event_headers(event_type: str) -> dict[str, Any]:
    """Return the schema of the headers that every event of a type has."""
    fixed = {"content-type", "ce_specversion", "ce_type"}
    properties = {name: {"type": "string"} for name, _ in cloud_event("", event_type, "", 0)}
    for name, value in cloud_event("", event_type, "", 0):
        if name in fixed:
            properties[name]["const"] = value.decode()
    properties["ce_time"]["format"] = "date-time"
    required = list(properties)
    properties[TRACE_HEADER] = {
        "type": "string",
        "description": "W3C Trace Context, where traces are on",
    }
    return {"type": "object", "properties": properties, "required": required}


def _dead_letter() -> dict[str, Any]:
    about: dict[str, dict[str, Any]] = {
        "candlecast-topic": {"description": "topic that the message came from"},
        "candlecast-partition": {"pattern": "^[0-9]+$"},
        "candlecast-offset": {"pattern": "^[0-9]+$"},
        "candlecast-reason": {"enum": [str(reason) for reason in RejectReason]},
        "candlecast-detail": {"description": "field, rule and the value that breaks it"},
    }
    return {
        "name": "deadLetter",
        "summary": "The original message, its key, value and headers untouched.",
        "headers": {
            "type": "object",
            "properties": {name: {"type": "string"} | more for name, more in about.items()},
            "required": list(about),
        },
        "payload": {"description": "the original bytes, whatever they are"},
        "bindings": {"kafka": _key({"description": "the original key"})},
    }


def _key(key: dict[str, Any]) -> dict[str, Any]:
    return {"key": key, "bindingVersion": "0.5.0"}


def feature_list() -> str:
    """Return every feature with its docstring and its plot."""
    parts = []
    for name, known in FEATURES.items():
        text = inspect.getdoc(known.function)
        parts.append(
            f"### {name}\n\n{text}\n\nLookback: {known.lookback}.\n\n"
            f"![{name}](images/features/{name}.svg)\n"
        )
    return "\n".join(parts).rstrip()


def acls() -> str:
    """Return what each service must be allowed, as a table."""
    settings = KafkaSettings.model_construct()
    rows = ["| service | resource | operations |", "|---|---|---|"]
    for service, needed in permissions.SERVICES.items():
        by_resource: dict[str, list[str]] = {}
        for permission in needed(settings, DEFAULT_GROUP):
            resource = f"{permission.resource} `{permission.name}`"
            by_resource.setdefault(resource, []).append(permission.operation)
        rows += [
            f"| {service} | {resource} | {', '.join(operations)} |"
            for resource, operations in by_resource.items()
        ]
    return "\n".join(rows)


def chart_values() -> str:
    """Return the chart's values with their comments, as a block."""
    return f"```yaml\n{(CHART / 'values.yaml').read_text()}```"


def topic_settings() -> str:
    """Return the topics and their settings, as a table."""
    settings = KafkaSettings.model_construct()
    rows = ["| topic | partitions | replicas | settings |", "|---|---|---|---|"]
    for topic in all_topics(settings):
        config = ", ".join(f"`{name}={value}`" for name, value in topic.config.items())
        rows.append(f"| `{topic.name}` | {topic.partitions} | {topic.replication} | {config} |")
    return "\n".join(rows)


def file_tree() -> str:
    """Return the packages' files, each with the first line of its docstring."""
    lines = ["```text"]
    for package in PACKAGES:
        lines.append(_leaf(f"{package}/", ROOT / package / "__init__.py"))
        lines += [
            _leaf(f"  {path.relative_to(ROOT / package)}", path)
            for path in sorted((ROOT / package).rglob("*.py"))
            if path.name != "__init__.py"
        ]
    return "\n".join([*lines, "```"])


def _leaf(name: str, path: Path) -> str:
    first, *_ = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines() or [""]
    return f"{name:<39} {first}".rstrip()


def contracts() -> str:
    """Return the import contracts of ``pyproject.toml`` as a list."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return "\n".join(f"- {item['name']}." for item in project["tool"]["importlinter"]["contracts"])


def decisions() -> str:
    """Return a table of the decisions: number, title and date, newest last."""
    rows = ["| decision | date |", "|---|---|"]
    for path in sorted(DECISIONS.glob("[0-9]*.md")):
        title, _, date, *_ = path.read_text().splitlines()
        rows.append(f"| [{title.removeprefix('# ')}]({path.name}) | {date} |")
    return "\n".join(rows)


def stale(wanted: dict[Path, str]) -> list[Path]:
    """Return the files that do not hold what they should, and schemas that nothing makes."""
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    made = [*SCHEMAS.glob("*"), *DASHBOARDS.glob("*"), *CONNECT.glob("*")]
    return old + [path for path in made if path not in wanted]


def main() -> int:
    """Write or check the files; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    wanted = documents()
    outdated = stale(wanted)
    if parser.parse_args().check:
        for path in outdated:
            print(f"{path.relative_to(ROOT)} is stale: run make docs", file=sys.stderr)
        return 1 if outdated else 0
    SCHEMAS.mkdir(exist_ok=True)
    DASHBOARDS.mkdir(parents=True, exist_ok=True)
    CONNECT.mkdir(parents=True, exist_ok=True)
    for path in outdated:
        if path in wanted:
            path.write_text(wanted[path])
        else:
            path.unlink()
    return 0


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
