"""Settings that all services share; each service adds its own and reads them in ``__main__``.

Every setting is a flag and an environment variable: ``metrics_port`` is ``--metrics-port`` and
``CANDLECAST_METRICS_PORT``; the flag wins.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from shared.messages import describe

ENV_PREFIX: Final = "CANDLECAST_"


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list):  # a flag given several times
        return tuple(part for item in value for part in _split(item))  # type: ignore[attr-defined]
    return value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def _known_level(value: str) -> str:
    name = value.upper()
    if name not in logging.getLevelNamesMapping():
        raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
    return name


class ServiceSettings(BaseSettings):
    """What every process has; ``read`` is the only way in."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_enforce_required=False,
        extra="ignore",
        frozen=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        # --help shows the docstring, which Python before 3.13 leaves indented
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "")

    log_level: Annotated[str, AfterValidator(_known_level)] = Field(
        "INFO", description="least severe log level shown: DEBUG, INFO, WARNING or ERROR"
    )

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Return the settings from flags and environment; exit with 2 and a clear line if bad."""
        # pydantic-settings takes these from the class, and has no argument for the program's name
        options: dict[str, Any] = {"_cli_parse_args": list(argv), "_cli_prog_name": prog}
        try:
            return cls(**options)
        except ValidationError as error:
            lines = [describe(one) for one in error.errors(include_url=False)]
        except SettingsError as error:
            lines = [str(error)]
        for line in lines:
            print(f"{prog}: {line}", file=sys.stderr)
        raise SystemExit(2)


class KafkaSettings(ServiceSettings):
    """Where Kafka is, and the names of the topics."""

    bootstrap: str = Field("127.0.0.1:9092", description="Kafka's host:port, several by comma")
    candles_topic: str = Field("market.candles.v1", description="topic of closed candles")
    forecasts_topic: str = Field("market.forecasts.v1", description="topic of forecasts")
    partitions: int = Field(
        8, ge=1, le=1024, description="partitions of the candles, forecasts and window topics"
    )
    replication: int = Field(1, ge=1, le=7, description="replicas of each partition")

    @property
    def dlq_topic(self) -> str:
        """The dead-letter topic of the candles."""
        return f"{self.candles_topic}.dlq"


def configure_logging(level: str) -> None:
    """Send log lines of this process to standard error; called once, in ``__main__``."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
