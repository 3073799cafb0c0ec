"""The worker's settings, and those of its commands on dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar, Final, Literal

from pydantic import Field
from pydantic_settings import CliSubCommand

from shared.candles import INTERVALS_MS, MAX_CANDLES
from shared.forecaster import Models, longest
from shared.kafka import KafkaSettings
from shared.model_store import ModelSettings
from shared.settings import CommandGroup, CommaSeparated, own
from shared.topics import DEFAULT_GROUP, changelog_of
from shared.traces import TraceSettings
from stream_app.rules import MAX_SERIES, Rules

PROCESS: Final = "worker"
"""The process's name in its variables, log lines and metrics."""


class GroupSettings(KafkaSettings):
    """The workers of one group."""

    model_config = own(PROCESS)

    group: str = Field(
        DEFAULT_GROUP, description="consumer group, and the prefix of the window table's topic"
    )

    @property
    def changelog_topic(self) -> str:
        """The compacted topic that the windows are recovered from."""
        return changelog_of(self.group)


class WorkerSettings(GroupSettings, ModelSettings, TraceSettings):
    """Forecast every closed candle of the candles topic.

    Start several workers of one group to share the partitions among them.
    """

    help_title: ClassVar[str] = "worker"
    help_topics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "metrics and probes": (
            "metrics_host",
            "metrics_port",
        ),
        "batches and patience": (
            "max_batch",
            "commit_seconds",
            "session_seconds",
            "stall_seconds",
            "context_wait_seconds",
            "rebuild_messages",
            "when_recreated",
        ),
    }

    model_config = own(PROCESS)

    window: int | None = Field(
        None,
        ge=2,
        le=MAX_CANDLES,
        description="newest candles kept of each series; by default what the models need",
    )
    when_recreated: Literal["stop", "begin"] = Field(
        "stop",
        description="for a candles topic that was deleted and created again: stop, or forget the "
        "windows of the one before and begin at its beginning",
    )
    rebuild_messages: int = Field(
        2_000_000,
        ge=0,
        description="most messages of a partition that are read again to rebuild lost windows",
    )
    context_wait_seconds: float = Field(
        2.0,
        ge=0,
        le=30,
        description="longest wait of a candle for a context candle of the same close, where its "
        "model reads a context; then the one before is used",
    )
    max_series: int = Field(
        MAX_SERIES,
        ge=1,
        description="most series of a worker, a symbol at an interval; candles of others become "
        "dead letters. 10,000 full daily windows are 190 MB",
    )
    forget_days: float = Field(
        0.0,
        ge=0,
        description="days without a candle after which a series is forgotten, by the broker's "
        "clock; 0 forgets none",
    )
    allow_symbols: CommaSeparated = Field(
        (), description="symbols that are taken, by comma, such as AAPL,*-USD; by default all"
    )
    off_grid_sources: CommaSeparated = Field(
        (),
        description="sources whose intraday candles may open off the whole minute, by comma",
    )
    strict_interval: bool = Field(
        default=False,
        description="put candles aside (no_model) whose interval the model was not trained on; "
        "by default their forecasts are marked with model_interval",
    )
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    metrics_port: int = Field(
        9102, ge=0, le=65535, description="port of /metrics, /livez and /readyz; 0 takes a free one"
    )
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

    def rules(self, models: Models) -> Rules:
        """Return which series are taken, where that matters by the models that are served."""
        strict = models if self.strict_interval else None
        return Rules(self.allow_symbols, frozenset(self.off_grid_sources), self.max_series, strict)

    def capacities(self, models: Models) -> dict[str, int]:
        """Return the most candles in a stored window of each interval: as many as models read."""
        least = self.window or 0
        return {name: max(least, longest(models.all(), (name,))) for name in INTERVALS_MS}

    def capacity(self, models: Models) -> int:
        """Return the most candles in a stored window of any interval."""
        return max(self.capacities(models).values())


class LetterSettings(KafkaSettings):
    """The dead letters that a command is about: those that pass every filter given."""

    help_title: ClassVar[str] = "which dead letters"

    model_config = own(PROCESS, "dlq")

    reason: CommaSeparated = Field((), description="only these reasons, by comma")
    symbols: CommaSeparated = Field((), description="only messages with these keys, by comma")
    since: datetime | None = Field(None, description="only rejected since then (ISO 8601, UTC)")
    partition: int | None = Field(None, ge=0, description="only of this dead-letter partition")
    offset: int | None = Field(None, ge=0, description="only the one at this dead-letter offset")
    limit: int = Field(1000, ge=1, description="at most so many, the oldest first")

    @property
    def since_ms(self) -> int | None:
        """``since`` as UTC epoch milliseconds; a time without a zone is UTC."""
        if self.since is None:
            return None
        aware = self.since if self.since.tzinfo is not None else self.since.replace(tzinfo=UTC)
        return int(aware.timestamp() * 1000)


class ListSettings(LetterSettings):
    """List dead letters, a line for each, and count them by reason.

    Example:
      python -m stream_app dlq list --reason not_json
    """


class ShowSettings(LetterSettings):
    """Show dead letters whole, as JSON lines.

    Example:
      python -m stream_app dlq show --partition 3 --offset 17
    """


class ReplaySettings(LetterSettings):
    """Send the original keys, values and headers back to the candles topic.

    Dead letters stay where they are; one that is still invalid comes back as a new one.

    Example:
      python -m stream_app dlq replay --symbols AAPL --since 2026-01-31T12:00 --dry-run
    """

    dry_run: bool = Field(default=False, description="only say what would be sent")


class SkipSettings(GroupSettings):
    """Have the workers put a message aside unread, at their next start.

    For a message that ends them whatever is done; the worker's last log lines name it.

    Example:
      python -m stream_app dlq skip --partition 3 --offset 1017
    """

    model_config = own(PROCESS, "dlq", "skip")

    partition: int = Field(ge=0, description="partition of the candles topic")
    offset: int = Field(ge=0, description="offset there")


DlqSettings = LetterSettings | SkipSettings
"""The settings of a command on dead letters."""


class DlqCommands(CommandGroup):
    """Look at dead letters, and send them back once their cause is gone.

    Examples:
      python -m stream_app dlq list --reason not_json
      python -m stream_app dlq replay --symbols AAPL --dry-run
    """

    list: CliSubCommand[ListSettings] = Field(description="a line for each, and counts by reason")
    show: CliSubCommand[ShowSettings] = Field(description="each whole, as JSON lines")
    replay: CliSubCommand[ReplaySettings] = Field(description="send them to the candles topic")
    skip: CliSubCommand[SkipSettings] = Field(description="put a message aside unread")

    @property
    def chosen(self) -> DlqSettings:
        """The settings of the command that was given."""
        commands = (self.list, self.show, self.replay, self.skip)
        return next(given for given in commands if given is not None)


class WorkerCommand(WorkerSettings):
    """Forecast every closed candle of the candles topic.

    Start several workers of one group to share the partitions among them.

    Examples:
      python -m stream_app
      python -m stream_app --bootstrap kafka:9092 --model my-bundle
      python -m stream_app dlq list                       what was rejected, and why
    """

    dlq: CliSubCommand[DlqCommands] = Field(description="look at dead letters, and send them back")
