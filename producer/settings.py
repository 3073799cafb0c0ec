"""The producer's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.candles import INTERVALS_MS
from shared.settings import CommaSeparated, KafkaSettings


def _known_interval(value: str) -> str:
    if value not in INTERVALS_MS:
        raise ValueError(f"expected one of {', '.join(INTERVALS_MS)}")
    return value


class ProducerSettings(KafkaSettings):
    """Publishes closed candles to Kafka, keyed by symbol.

    After a stop, even by kill -9, it goes on after the last candle in the topic. Every flag is
    also an environment variable: --poll-seconds is CANDLECAST_POLL_SECONDS.

    Examples:
      python -m producer                                  the bundled real candles, at once
      python -m producer --speed 50 --symbols AAPL,MSFT   50 candles a second
      python -m producer --path candles.csv --interval 1m
      python -m producer --source yfinance --symbols AAPL,^GSPC,BTC-USD --interval 1m
    """

    source: Literal["replay", "yfinance"] = Field(
        "replay", description="replay: a finite history; yfinance: Yahoo's candles as they close"
    )
    symbols: CommaSeparated = Field(
        (),
        description="symbols, by comma; by default all that the replayed file holds, or "
        "AAPL,GOOG,IBM,MSFT",
    )
    interval: Annotated[str, AfterValidator(_known_interval)] = Field(
        "1d", description=f"length of the candles: {', '.join(INTERVALS_MS)}"
    )
    path: Path | None = Field(
        None,
        description="for replay: CSV or Parquet file with the columns symbol, date (or open_ms), "
        "open, high, low, close, volume, and perhaps adj_close; by default the bundled candles",
    )
    speed: float | None = Field(
        None, gt=0, description="for replay: candles a second; by default as fast as it goes"
    )
    poll_seconds: float = Field(
        60.0, ge=1, description="for yfinance: time from one poll of all symbols to the next"
    )
    once: bool = Field(default=False, description="for yfinance: poll once and end")
    proxy: str | None = Field(
        None, description="for yfinance: URL of an HTTP or SOCKS proxy on the way to Yahoo"
    )
    ca_bundle: Path | None = Field(
        None, description="for yfinance: PEM file of the authorities to trust instead of the usual"
    )
    cache_dir: Path | None = Field(
        None,
        description="for yfinance: folder for Yahoo's cookie and time zones, one a process; "
        "by default a temporary one",
    )
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    metrics_port: int = Field(
        9101, ge=0, le=65535, description="port of /metrics, /livez and /readyz; 0 takes a free one"
    )

    @model_validator(mode="after")
    def _bundled_is_daily(self) -> Self:
        if self.source == "replay" and self.path is None and self.interval != "1d":
            raise PydanticCustomError(
                "inconsistent",
                "{detail}",
                {"detail": f"interval: the bundled candles are 1d, got {self.interval!r}"},
            )
        return self
