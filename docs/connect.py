"""Configurations of Kafka Connect: topics of Candlecast to Parquet and to a SQL table.

Messages carry no schema, which these sinks need. Connect's own ``JsonConverter`` takes one from
its configuration since Kafka 4.2 (KIP-1054); it is written here from the JSON Schema of the topic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]
"""A JSON Schema, or a part of one."""

TYPES: Final = {
    "boolean": "boolean",
    "integer": "int64",
    "number": "double",
    "string": "string",
}
"""Types of Connect by those of JSON Schema."""


def sink(name: str, topic: str, schema: Schema, settings: Mapping[str, str]) -> dict[str, Any]:
    """Return a connector as Connect's ``POST /connectors`` takes it.

    Args:
        name: the connector's name, and its consumer group's after ``connect-``.
        topic: what it reads.
        schema: JSON Schema of the topic's messages.
        settings: the sink's own.
    """
    return {
        "name": name,
        "config": {
            "topics": topic,
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter.schemas.enable": "true",
            "value.converter.schema.content": json.dumps(
                connect_schema(schema, schema), separators=(",", ":")
            ),
            "consumer.override.auto.offset.reset": "earliest",
            **settings,
        },
    }


def connect_schema(node: Schema, root: Schema) -> dict[str, Any]:
    """Return the schema of Connect for a JSON Schema; fields that are added later are left out."""
    if "$ref" in node:
        return connect_schema(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    if "anyOf" in node:
        [part] = [part for part in node["anyOf"] if part.get("type") != "null"]
        return connect_schema(part, root) | {"optional": True}
    if node["type"] == "array":
        return {"type": "array", "items": connect_schema(node["items"], root)}
    if "properties" in node:
        fields = [
            {"field": name}
            | connect_schema(part, root)
            | ({} if name in node["required"] else {"optional": True})
            for name, part in node["properties"].items()
        ]
        return {"type": "struct", "fields": fields}
    if node["type"] == "object":
        values = connect_schema(node["additionalProperties"], root)
        return {"type": "map", "keys": {"type": "string"}, "values": values}
    return {"type": TYPES[node["type"]]}


PARQUET: Final = {
    "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
    "tasks.max": "4",
    "iceberg.tables": "market.forecasts",
    "iceberg.tables.auto-create-enabled": "true",
    "iceberg.tables.evolve-schema-enabled": "true",  # columns of fields that are added
    "iceberg.catalog.type": "hadoop",
    "iceberg.catalog.warehouse": "${env:WAREHOUSE}",
    "iceberg.control.commit.interval-ms": "60000",  # new files for each partition, once a minute
}
"""Settings of Apache Iceberg's sink, whose tables are Parquet files."""

SQL: Final = {
    "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
    "tasks.max": "4",
    "connection.url": "${env:SQL_URL}",
    "connection.username": "${env:SQL_USER}",
    "connection.password": "${env:SQL_PASSWORD}",
    "collection.name.format": "candles",
    "insert.mode": "upsert",  # a correction replaces its candle, a repeat changes nothing
    "primary.key.mode": "record_value",
    "primary.key.fields": "symbol,interval,open_ms",
    "schema.evolution": "basic",  # makes the table, and the columns of fields that are added
}
"""Settings of Debezium's JDBC sink: PostgreSQL, MySQL, SQL Server, Oracle and others."""


def configurations(candles: Schema, forecasts: Schema) -> dict[str, dict[str, Any]]:
    """Return the configurations of ``examples/connect`` by file name."""
    return {
        "forecasts-to-parquet.json": sink(
            "candlecast-forecasts-parquet", "market.forecasts.v1", forecasts, PARQUET
        ),
        "candles-to-sql.json": sink("candlecast-candles-sql", "market.candles.v1", candles, SQL),
    }
