# The part of Quix Streams that the benchmark uses; it lives in an environment of its own.

from collections.abc import Callable
from pathlib import Path
from typing import Any

class State:
    def get(self, key: Any, default: Any = ...) -> Any: ...
    def set(self, key: Any, value: Any) -> None: ...
    def get_bytes(self, key: Any, default: bytes | None = ...) -> bytes | None: ...
    def set_bytes(self, key: Any, value: bytes) -> None: ...

class Topic: ...

class StreamingDataFrame:
    def apply(
        self, func: Callable[..., Any], *, stateful: bool = ..., metadata: bool = ...
    ) -> StreamingDataFrame: ...
    def set_headers(self, func: Callable[..., Any]) -> StreamingDataFrame: ...
    def to_topic(self, topic: Topic) -> StreamingDataFrame: ...

class Application:
    def __init__(
        self,
        broker_address: str,
        *,
        consumer_group: str,
        auto_offset_reset: str,
        commit_interval: float = ...,
        state_dir: Path = ...,
        consumer_poll_timeout: float = ...,
        loglevel: str = ...,
    ) -> None: ...
    def topic(
        self,
        name: str,
        *,
        key_deserializer: str = ...,
        value_deserializer: str = ...,
        key_serializer: str = ...,
        value_serializer: str = ...,
    ) -> Topic: ...
    def dataframe(self, topic: Topic) -> StreamingDataFrame: ...
    def run(self) -> None: ...
