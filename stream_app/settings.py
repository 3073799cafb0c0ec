"""The worker's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shared.bundle import default_path
from shared.candles import MAX_CANDLES
from shared.forecaster import Models
from shared.settings import KafkaSettings


class WorkerSettings(KafkaSettings):
    """Forecast every closed candle of the candles topic.

    Each flag is also an environment variable: --metrics-port is CANDLECAST_METRICS_PORT.
    Start several workers of one group to share the partitions among them. Dead letters are
    looked at and sent back by "python -m stream_app dlq list|show|replay".
    """

    group: str = Field(
        "candlecast", description="consumer group, and the prefix of the window table's topic"
    )
    model: Path = Field(
        default_factory=default_path, description="folder of the model bundle (default: built in)"
    )
    window: int | None = Field(
        None,
        ge=2,
        le=MAX_CANDLES,
        description="newest candles kept of each series; by default what the models need",
    )
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    metrics_port: int = Field(9102, ge=0, le=65535, description="its port; 0 takes a free one")
    max_batch: int = Field(
        512, ge=1, le=8192, description="most messages handled by one model call"
    )
    commit_seconds: float = Field(1.0, gt=0, description="time between commits of the offsets")
    session_seconds: float = Field(
        10.0, ge=6, description="silence after which the broker gives the partitions to others"
    )

    stall_seconds: float = Field(
        60.0, gt=0, description="uncommitted work this old makes /livez fail"
    )

    def capacity(self, models: Models) -> int:
        """Return the most candles in a stored window: never fewer than the models need."""
        return max(self.window or 0, models.window_length)

    @property
    def changelog_topic(self) -> str:
        """The compacted topic that the windows are recovered from."""
        return f"{self.group}-windows-changelog"
