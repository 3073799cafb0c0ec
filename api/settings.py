"""The API's settings."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from limits import RateLimitItem, parse
from pydantic import AfterValidator, Field

from api import PROCESS
from api.edge.keys import known_rate
from shared.kafka import KafkaSettings
from shared.model_store import ModelSettings
from shared.settings import CommaSeparated, own
from shared.traces import TraceSettings


class ApiSettings(KafkaSettings, ModelSettings, TraceSettings):
    """Answer forecasts over HTTP; "python -m api keys" makes and revokes its keys.

    Examples:
      python -m api                                       on http://127.0.0.1:8000
      python -m api --bootstrap kafka:9092 --port 8001 --model my-bundle
      python -m api keys create shop --file keys.json     prints a key, once
      python -m api --host 0.0.0.0 --keys keys.json --tls-certificate api.pem --tls-key api.key
    """

    help_title: ClassVar[str] = "serving"
    help_topics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "who may ask": (
            "keys",
            "without_keys",
            "rate",
            "allowed_hosts",
            "cors_origins",
        ),
        "limits": (
            "max_connections",
            "max_connections_an_address",
            "max_streams",
            "max_streams_a_client",
            "stream_seconds",
            "receive_seconds",
            "send_seconds",
        ),
        "TLS": (
            "tls_certificate",
            "tls_key",
            "tls_client_authorities",
        ),
    }

    model_config = own(PROCESS)

    host: str = Field("127.0.0.1", description="address to serve on")
    port: int = Field(8000, ge=0, le=65535, description="port to serve on; 0 takes a free one")
    lookback: int = Field(
        50_000, ge=0, description="newest messages of each topic that are read at the start"
    )
    keys: Path | None = Field(
        None, description="file of API keys: python -m api keys create NAME --file FILE"
    )
    without_keys: bool = Field(
        default=False,
        description="serve without keys beyond loopback; something else must guard the port",
    )
    rate: Annotated[str, AfterValidator(known_rate)] = Field(
        "200/second", description="requests of one key, unless it has its own rate"
    )
    allowed_hosts: CommaSeparated = Field(
        (), description="names in Host headers, by comma; by default any, or without keys loopback"
    )
    cors_origins: CommaSeparated = Field(
        (), description="origins whose pages may use the API, by comma; by default none"
    )
    access_log: bool = Field(default=True, description="write a line for each request")
    max_connections: int = Field(1_000, ge=1, description="connections at once")
    max_connections_an_address: int = Field(
        200, ge=1, description="connections at once of one address; behind a proxy, of all clients"
    )
    max_streams: int = Field(200, ge=1, description="event streams at once")
    max_streams_a_client: int = Field(
        20, ge=1, description="event streams at once of one key, without keys of one address"
    )
    stream_seconds: float = Field(
        3_600.0, gt=0, description="time after which an event stream ends; clients come back"
    )
    receive_seconds: float = Field(10.0, gt=0, description="time that a whole request may take")
    send_seconds: float = Field(10.0, gt=0, description="time for which a client may not read")
    tls_certificate: Path | None = Field(None, description="PEM file: serve over TLS")
    tls_key: Path | None = Field(None, description="PEM file of its private key")
    tls_client_authorities: Path | None = Field(
        None, description="PEM file: clients must show a certificate of these authorities"
    )

    @property
    def is_loopback(self) -> bool:
        """True when the address is reached from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def rate_limit(self) -> RateLimitItem:
        """The rate of keys that have no own."""
        return parse(self.rate)
