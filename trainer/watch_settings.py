"""Settings of ``trainer watch``, and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from shared.candles import known_interval
from shared.kafka import KafkaSettings
from shared.model_store import ModelSettings as StoreModelSettings
from shared.settings import CommaSeparated, own
from trainer.gate import Rule
from trainer.settings import PROCESS, Tracked


def _intervals(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(known_interval(value) for value in values)


class WatchSettings(StoreModelSettings, KafkaSettings, Tracked):
    """Trains challengers on the stream, and promotes those that prove better.

    Reads the candles topic, and trains when an interval has enough candles and no champion of its
    own, and then again --every-hours, or once the scores say that the champion's forecasts drift.
    A challenger is trained on the candles before the newest --test-share, and held against the
    champion on those; with --shadow it is trained on all, and held against it on those that come.
    It must save --margin of the pinball loss beyond chance, its volatility and coverage not worse,
    no symbol harmed. Each training is a run in MLflow; how it trains is what [trainer.fit] of a
    settings file says, context included, which then comes of the context topic.

    Examples:
      python -m trainer watch
      python -m trainer watch --intervals 5m,1h --every-hours 24 --models s3://bucket/models
      python -m trainer watch --shadow 500           forecast beside the champion before the gate
      python -m trainer watch --once --dry-run        look once, and only say what would be promoted
    """

    help_title: ClassVar[str] = "watch"

    model_config = own(PROCESS, "watch")

    snapshots: Path = Field(
        Path("snapshots"), description="folder that keeps what was read of the topic, as Parquet"
    )
    intervals: Annotated[CommaSeparated, AfterValidator(_intervals)] = Field(
        (), description="intervals to train for, by comma; by default all in the topic"
    )
    symbols: CommaSeparated = Field((), description="symbols to train on, by comma; default: all")
    every_hours: float = Field(
        24, gt=0, description="hours from one training of an interval to the next"
    )
    cooldown_hours: float = Field(
        6,
        gt=0,
        description="the same while an interval has no champion of its own, or its forecasts drift",
    )
    drift_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of an interval's series, at least, that a drift must have to train "
        "before its time; 0 does not look at the scores",
    )
    shadow: int = Field(
        0,
        ge=0,
        description="candles of a series that a challenger forecasts beside the champion before "
        "the gate; 0 keeps the newest --test-share from its training instead",
    )
    max_runs: int = Field(4, ge=1, description="most trainings of an interval in 24 hours")
    min_windows: int = Field(
        5000, ge=100, description="fewest windows; with fewer the built-in model serves better"
    )
    test_share: float = Field(
        0.2, gt=0, lt=0.9, description="newest share of the candles, kept for the gate"
    )
    margin: float = Field(
        0.003, ge=0, lt=1, description="share of the champion's pinball loss to save at least"
    )
    max_hours: float = Field(12, gt=0, description="hours of a training after which /livez fails")
    poll_seconds: float = Field(60, gt=0, description="seconds between two looks at the stream")
    kept_attempts: int = Field(100, ge=1, le=1000, description="trainings kept in the journal")
    once: bool = Field(default=False, description="look once and end")
    dry_run: bool = Field(default=False, description="promote nothing")
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    metrics_port: int = Field(
        9103, ge=0, le=65535, description="port of /metrics, /livez and /readyz; 0 takes a free one"
    )

    @property
    def rule(self) -> Rule:
        """What a challenger must hold."""
        return Rule(margin=self.margin)
