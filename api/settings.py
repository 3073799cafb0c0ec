"""The API's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shared.bundle import default_path
from shared.settings import ServiceSettings


class ApiSettings(ServiceSettings):
    """Answer forecasts over HTTP.

    Each flag is also an environment variable: --log-level is CANDLECAST_LOG_LEVEL.
    """

    host: str = Field("127.0.0.1", description="address to serve on")
    port: int = Field(8000, ge=0, le=65535, description="its port; 0 takes a free one")
    model: Path = Field(
        default_factory=default_path, description="folder of the model bundle (default: built in)"
    )
