"""The settings of the whole system on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import CliSubCommand, SettingsConfigDict

from shared import permissions
from shared.candles import Interval
from shared.files.table_settings import PATH, TableSettings
from shared.kafka import KafkaSettings
from shared.model_store import ModelSettings
from shared.settings import CommaSeparated, ServiceSettings, own
from shared.topics import DEFAULT_GROUP

PROCESS: Final = "local"
"""The process's name in its variables and log lines."""

WATCHING_SPEED: Final = 100.0
"""Candles a second when a person watches: quick, and still a stream."""

TRAINING_SPEED: Final = 50.0
"""The same with ``--live-training``: half a year of the bundled candles passes in a training."""


KAFKA_PORT: Final = 9092
API_PORT: Final = 8000
WORKER_PORT: Final = 9102
PRODUCER_PORT: Final = 9101
"""Ports that the documents name, taken where they are free."""


class BrokerSettings(ServiceSettings):
    """Run an embedded Apache Kafka until Ctrl-C, and print its address."""

    help_title: ClassVar[str] = "broker"

    model_config = own(PROCESS)

    data_dir: Path | None = Field(
        None, description="folder that keeps topics and logs; by default a temporary one"
    )
    kafka_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Kafka's port; by default 9092, where that is taken a free one",
    )
    secure: bool = Field(
        default=False,
        description="lock Kafka: TLS, a user with a password for each service, and the least that "
        "each may do; secrets are in the folder secrets beside the topics",
    )


class AclSettings(KafkaSettings):
    """Print the commands that allow each service what it needs, and no more.

    The user of a service has its name. With --apply they are allowed at once, by the user of
    these settings, who may alter ACLs.

    Example:
      python -m local acls --services worker,api
    """

    help_title: ClassVar[str] = "what is allowed"

    model_config = own(PROCESS, "acls")

    services: CommaSeparated = Field(
        tuple(permissions.SERVICES), description="services, by comma: topics is who makes topics"
    )
    group: str = Field(DEFAULT_GROUP, description="the worker's consumer group")
    principal: str = Field(
        "{service}", description="the user's name in Kafka, as in CN={service},O=Example"
    )
    apply: bool = Field(default=False, description="allow it instead of printing commands")

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = set(self.services) - set(permissions.SERVICES)
        if unknown:
            rule = (
                f"services: expected some of {', '.join(permissions.SERVICES)}, got "
                f"{', '.join(sorted(unknown))}"
            )
            raise PydanticCustomError("inconsistent", "{rule}", {"rule": rule})
        return self

    def needed(self, service: str) -> list[permissions.Permission]:
        """Return what a service needs."""
        return permissions.SERVICES[service](self, self.group)


class KafkaCommand(BrokerSettings):
    """Run an embedded Apache Kafka until Ctrl-C, and print its address.

    Example:
      python -m local kafka --brokers 3
    """

    brokers: int = Field(
        1,
        ge=1,
        le=9,
        description="brokers; from three on each partition has three replicas, two of which must "
        "have a message, for topics that services make with --replication 3",
    )

    @model_validator(mode="after")
    def _locked_alone(self) -> Self:
        if self.secure and self.brokers > 1:
            rule = f"brokers: --secure locks one broker, got {self.brokers}"
            raise PydanticCustomError("inconsistent", "{rule}", {"rule": rule})
        return self


class LocalSettings(BrokerSettings, ModelSettings, TableSettings):
    """Run everything on this machine: Kafka, worker, API and producer; Ctrl-C ends it."""

    help_title: ClassVar[str] = "candles"
    help_topics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "end and output": (
            "exit_when_done",
            "json_summary",
            "stall_seconds",
        ),
        "ports": (
            "api_port",
            "worker_port",
            "producer_port",
        ),
    }

    model_config = own(PROCESS) | SettingsConfigDict(cli_shortcuts={"json-summary": "json"})

    source: Literal["replay", "yfinance", "live"] = Field(
        "replay",
        description="replay: a finite history; yfinance: Yahoo's candles as they close; live: the "
        "same, and provisional ones from ticks before them",
    )
    fallback: Literal["replay"] | None = Field(
        None, description="what stands in for Yahoo if it cannot be reached at the start"
    )
    symbols: CommaSeparated = Field((), description="symbols, by comma; by default the source's")
    interval: Interval = Field("1d", description="length of the candles, such as 1m or 1d")
    history: int = Field(
        500,
        ge=1,
        le=2000,
        description="for yfinance and live: newest candles that a symbol begins with; beyond "
        "the model's window each gives a forecast at once",
    )
    path: Path | None = Field(None, description=f"{PATH}; by default the bundled candles")
    context: CommaSeparated = Field(
        (),
        description="symbols whose candles go to the context topic, by comma, such as ^GSPC,^VIX, "
        "for models that read a context",
    )
    context_interval: Interval | None = Field(
        None, description="length of the context's candles; by default that of the candles"
    )
    context_path: Path | None = Field(
        None, description="file of the context's candles; by default --path"
    )
    speed: float | None = Field(
        None,
        gt=0,
        description=f"candles a second of a replay; by default {WATCHING_SPEED:g}, with "
        "--exit-when-done as fast as it goes",
    )
    live_training: bool = Field(
        default=False,
        description="begin with a weak model, and let a trainer train, judge and promote others "
        f"while the replay runs, at {TRAINING_SPEED:g} candles a second by default; needs the "
        "extra train",
    )
    exit_when_done: bool = Field(
        default=False, description="end once every candle has its forecast; fail if one has none"
    )
    json_summary: bool = Field(
        default=False,
        description="print one JSON object at the end, and nothing else on standard output",
    )
    stall_seconds: float = Field(
        60.0, gt=0, description="for --exit-when-done: give up after so long without progress"
    )
    api_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="the API's port; by default 8000, where that is taken a free one",
    )
    worker_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="port of the worker's metrics; by default 9102, or a free one",
    )
    producer_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="port of the producer's metrics; by default 9101, or a free one",
    )

    @property
    def replay_speed(self) -> float | None:
        """Candles a second of a replay; None as fast as it goes."""
        if self.speed is not None:
            return self.speed
        if self.live_training:
            return TRAINING_SPEED
        return None if self.exit_when_done else WATCHING_SPEED

    @model_validator(mode="after")
    def _trains_on_a_replay(self) -> Self:
        if self.live_training and (self.source != "replay" or "model" in self.model_fields_set):
            rule = "live_training: it replays, from a first model of its own, without --model"
            raise PydanticCustomError("inconsistent", "{rule}", {"rule": rule})
        return self


class LocalCommand(LocalSettings):
    """Run everything on this machine: Kafka, worker, API and producer; Ctrl-C ends it.

    Examples:
      python -m local                                     bundled candles, 100 a second
      python -m local --path prices.csv --model my-bundle your candles, your model
      python -m local --exit-when-done --json             as a script wants it
      python -m local --live-training                     train, judge and swap while it runs
      python -m local --source yfinance --interval 1m --symbols AAPL,BTC-USD
      python -m local kafka --data-dir kafka-data         Kafka alone, kept
    """

    kafka: CliSubCommand[KafkaCommand] = Field(description="run the embedded Kafka alone")
    acls: CliSubCommand[AclSettings] = Field(
        description="print or make what each service must be allowed in a Kafka with ACLs"
    )
