"""Settings of the producer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from producer.yahoo import INTERVALS, Span, default_poll_ms, why_impossible
from shared.candles import DAY_MS, INTERVALS_MS, MAX_CANDLES, MINUTE_MS, Interval
from shared.context import MAX_SYMBOLS, ContextSpec
from shared.files.table_settings import PATH, TableSettings
from shared.kafka import KafkaSettings
from shared.messages import describe
from shared.process import now_ms
from shared.settings import CommaSeparated, own
from shared.traces import TraceSettings

PROCESS: Final = "producer"
"""The process's name in its variables, log lines and metrics."""

WINDOW: Final = 512
"""Longest window of the built-in model, of half an hour and more."""

SHORT_MS: Final = 30 * MINUTE_MS
"""Of shorter candles it reads up to ``MAX_CANDLES``."""


def time_ms(text: str) -> int:
    """Return an ISO date or time in UTC epoch milliseconds; without a zone it is UTC.

    Raises:
        PydanticCustomError: when it is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        rule = "expected a date or time such as 2026-11-02 or 2026-11-02T14:30Z"
        raise PydanticCustomError("rule", "{rule}", {"rule": rule}) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _time(value: str | None) -> str | None:
    if value is not None:
        time_ms(value)
    return value


Time = Annotated[str | None, AfterValidator(_time)]
"""Date or time in ISO 8601, as a setting."""


class ProducerSettings(KafkaSettings, TableSettings, TraceSettings):
    """Publishes closed candles to Kafka, keyed by symbol.

    After a stop, even by kill -9, it resumes after the last candle in the topic.

    Examples:
      python -m producer                                  the bundled real candles, at once
      python -m producer --speed 50 --symbols AAPL,MSFT   50 candles a second
      python -m producer --path candles.csv --interval 1m
      python -m producer --path 'prices/*.csv' --timezone Europe/Warsaw
      python -m producer --source yfinance --symbols AAPL,^GSPC,BTC-USD --interval 1m
      python -m producer --source live --symbols-file nasdaq.txt --interval 1m
      python -m producer --source backfill --interval 1h --start 2026-01-01
      python -m producer --source live --interval 5m --context ^GSPC,^VIX --context-interval 1d
    """

    help_title: ClassVar[str] = "candles"
    help_topics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "context": (
            "context",
            "context_interval",
            "context_path",
        ),
        "replay": (
            "path",
            "again",
            "speed",
            "fallback",
        ),
        "Yahoo": (
            "start",
            "end",
            "poll_seconds",
            "idle_seconds",
            "once",
            "rate",
            "threads",
            "window",
            "history",
            "proxy",
            "ca_bundle",
            "cache_dir",
        ),
        "metrics and probes": (
            "metrics_host",
            "metrics_port",
        ),
    }

    model_config = own(PROCESS)

    source: Literal["replay", "yfinance", "live", "backfill"] = Field(
        "replay",
        description="replay: a finite history; yfinance: Yahoo's candles as they close; live: the "
        "same, and before each a provisional one from Yahoo's ticks; backfill: a past range of "
        "Yahoo's, once",
    )
    fallback: Literal["replay"] | None = Field(
        None, description="source to use instead when Yahoo cannot be reached at the start"
    )
    symbols: CommaSeparated = Field(
        (),
        description="symbols, by comma; by default every symbol of the replayed file, or "
        "AAPL,GOOG,IBM,MSFT",
    )
    symbols_file: Path | None = Field(
        None, description="text file of more symbols, one a line; # starts a comment"
    )
    interval: Interval = Field(
        "1d", description=f"length of the candles: {', '.join(INTERVALS_MS)}"
    )
    path: Path | None = Field(
        None,
        description=f"for replay: {PATH}; by default the bundled candles",
    )
    context: CommaSeparated = Field(
        (),
        description="symbols whose candles go to the context topic, by comma, such as ^GSPC,^VIX, "
        "for models that read a context; from the same source, before the candles where both are "
        f"of the past; {MAX_SYMBOLS} at most",
    )
    context_interval: Interval | None = Field(
        None, description="length of the context's candles; by default that of the candles"
    )
    context_path: Path | None = Field(
        None, description="for replay: file of the context's candles; by default --path"
    )
    again: bool = Field(
        default=False,
        description="for replay: publish also what is not newer than the topic, as corrections",
    )
    speed: float | None = Field(
        None, gt=0, description="for replay: candles a second; by default as fast as possible"
    )
    start: Time = Field(None, description="for backfill: first opening time, such as 2026-11-02")
    end: Time = Field(
        None, description="for backfill: opening time to end before; by default the present"
    )
    poll_seconds: float | None = Field(
        None,
        ge=1,
        description="for yfinance and live: time from one poll of a symbol to the next while its "
        "exchange is open; by default the interval, at most 300",
    )
    idle_seconds: float = Field(
        120.0,
        ge=1,
        description="for live: silence after which the stream counts as lost and is reconnected",
    )
    once: bool = Field(default=False, description="for yfinance: poll once and end")
    rate: float = Field(
        100.0, gt=0, le=1000, description="requests a second to Yahoo, of all symbols together"
    )
    threads: int = Field(
        16, ge=1, le=64, description="requests to Yahoo at once, each with its own connection"
    )
    window: int | None = Field(
        None,
        ge=1,
        le=MAX_CANDLES,
        description="candles to publish again after a split: at least the model's longest window; "
        f"by default {WINDOW}, of less than 30 minutes {MAX_CANDLES}",
    )
    history: int | None = Field(
        None,
        ge=1,
        le=MAX_CANDLES,
        description="newest candles to begin with for a symbol that the topic lacks; by default "
        "as many as --window",
    )
    buffer: int = Field(
        5000, ge=1, description="candles that may wait for Kafka before the source waits"
    )
    proxy: str | None = Field(
        None, description="for Yahoo: URL of an HTTP or SOCKS proxy on the way"
    )
    ca_bundle: Path | None = Field(
        None, description="for Yahoo: PEM file of the authorities to trust instead of the usual"
    )
    cache_dir: Path | None = Field(
        None,
        description="for Yahoo: folder that keeps its cookie for the next start; by default none",
    )
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    metrics_port: int = Field(
        9101, ge=0, le=65535, description="port of /metrics, /livez and /readyz; 0 takes a free one"
    )

    @property
    def window_candles(self) -> int:
        """Candles to publish again after a split."""
        by_default = MAX_CANDLES if INTERVALS_MS[self.interval] < SHORT_MS else WINDOW
        return self.window or by_default

    @property
    def poll_ms(self) -> int:
        """Time from poll to poll."""
        if self.poll_seconds is None:
            return default_poll_ms(self.interval)
        return round(self.poll_seconds * 1000)

    @property
    def burst(self) -> int:
        """Most requests at once after a pause: those of two seconds."""
        return max(round(2 * self.rate), 1)

    def all_symbols(self) -> tuple[str, ...]:
        """Return the symbols of flag and file, each once.

        Raises:
            OSError, UnicodeDecodeError: when the file cannot be read.
        """
        listed: list[str] = []
        if self.symbols_file is not None:
            lines = self.symbols_file.read_text(encoding="utf-8").splitlines()
            listed = [line.partition("#")[0].strip() for line in lines]
        return tuple(dict.fromkeys([*self.symbols, *filter(None, listed)]))

    def of_context(self) -> Self:
        """Return the settings of a source of the context's candles."""
        update: dict[str, object] = {
            "symbols": self.context,
            "symbols_file": None,
            "interval": self.context_interval or self.interval,
            "path": self.context_path or self.path,
            "speed": None,
        }
        if self.source == "live":
            update["source"] = "yfinance"  # a provisional candle is not a close
        return self.model_copy(update=update)

    def span(self, now_ms: int) -> Span:
        """Return the range of a backfill."""
        start_ms = time_ms(self.start) if self.start else now_ms
        return start_ms, time_ms(self.end) if self.end else now_ms

    @model_validator(mode="after")
    def _agree(self) -> Self:
        self._check_source()
        if not self.context:
            return self
        wanted = self.of_context()
        try:
            ContextSpec(symbols=wanted.symbols, interval=wanted.interval)
        except ValidationError as error:
            raise _inconsistent(f"context: {describe(error.errors()[0])}") from None
        try:
            wanted._check_source()  # noqa: SLF001 - its own
        except PydanticCustomError as error:
            raise _inconsistent(f"context: {error.message()}") from None
        return self

    def _check_source(self) -> None:
        replays = self.source == "replay" or self.fallback == "replay"
        if replays and self.path is None and self.interval != "1d":
            raise _inconsistent(f"interval: the bundled candles are 1d, got {self.interval!r}")
        if self.source != "replay" and self.interval not in INTERVALS:
            raise _inconsistent(
                f"interval: Yahoo has candles of {', '.join(INTERVALS)}, got {self.interval!r}"
            )
        if self.source == "live" and INTERVALS_MS[self.interval] >= DAY_MS:
            raise _inconsistent(f"interval: live makes candles below a day, got {self.interval!r}")
        if self.source == "backfill":
            self._check_range(now_ms())
        elif self.start is not None or self.end is not None:
            raise _inconsistent(f"start, end: only a backfill has a range, got {self.source!r}")
        if self.once and self.source != "yfinance":
            raise _inconsistent(f"once: only yfinance can poll once, got {self.source!r}")

    def _check_range(self, now_ms: int) -> None:
        if self.start is None:
            raise _inconsistent("start: a backfill needs the time where it begins")
        why = why_impossible(self.interval, *self.span(now_ms), now_ms)
        if why is not None:
            raise _inconsistent(f"start: {why}")


def _inconsistent(detail: str) -> PydanticCustomError:
    return PydanticCustomError("inconsistent", "{detail}", {"detail": detail})
