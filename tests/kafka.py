"""Settings of a Kafka that a test has."""

from __future__ import annotations

from shared.kafka import KafkaSettings


def kafka_at(bootstrap: str) -> KafkaSettings:
    """Return the settings of Kafka at an address, all others by default."""
    return KafkaSettings.read(["--bootstrap", bootstrap], "tests")
