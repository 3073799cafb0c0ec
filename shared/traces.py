"""Traces by OpenTelemetry, off by default: from a candle to its forecast to its scores.

A candle's trace has an id that follows from its series and its close, and its forecast's span one
that follows from the forecast's id. So a score finds the span of what it scores candles later, in
another process or after a restart, and nothing is kept for it. Processes tell each other by the
header ``traceparent`` (W3C Trace Context).
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pydantic import Field

from shared.settings import ServiceSettings

HEADER: Final = "traceparent"

CLOSE_S: Final = 2.0
"""Longest wait at the end of a process for a collector to take the last spans."""

_PARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_SAMPLED: Final = 1

Attributes = Mapping[str, str | int | float | bool]


class TraceSettings(ServiceSettings):
    """The setting that turns traces on."""

    traces: bool = Field(
        default=False,
        description="send traces by OTLP over HTTP; OTEL_EXPORTER_OTLP_ENDPOINT says where to, "
        "OTEL_TRACES_SAMPLER how many; needs candlecast[traces]",
    )


class SpanKind(StrEnum):
    """Kinds of spans, by their names in OpenTelemetry."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Context(NamedTuple):
    """The identity of a span."""

    trace_id: int  # 128 bits, not 0
    span_id: int  # 64 bits, not 0
    is_sampled: bool

    @property
    def header(self) -> tuple[str, bytes]:
        """The header that passes it on."""
        value = b"00-%032x-%016x-%02x" % (self.trace_id, self.span_id, self.is_sampled)
        return HEADER, value


def context_in(headers: Iterable[tuple[str, bytes | None]]) -> Context | None:
    """Return the context that headers pass on; None where there is none that is valid."""
    for name, value in headers:
        found = _PARENT.fullmatch(value) if name == HEADER and value else None
        if found:
            trace_id, span_id, flags = (int(part, 16) for part in found.groups())
            if trace_id and span_id:
                return Context(trace_id, span_id, bool(flags & _SAMPLED))
    return None


def candle_trace(symbol: str, interval: str, close_ms: int) -> int:
    """Return the id of the trace of a candle, of its forecast and of that one's scores."""
    name = f"{symbol}\0{interval}\0{close_ms}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest()) or 1


def forecast_span(forecast_id: str) -> int:
    """Return the id of the span in which a forecast was made."""
    return int(forecast_id[:16], 16) or 1


def new_id(bits: int = 64) -> int:
    """Return an id by chance."""
    return random.getrandbits(bits) or 1


class Traces:
    """Takes spans that have ended, and sends them in a thread of its own."""

    def __init__(self, process: str) -> None:
        """Read OpenTelemetry's own variables; raises ``ImportError`` without the extra."""
        from opentelemetry import trace  # noqa: PLC0415 - of the extra "traces"
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import Decision  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        # OTEL_SERVICE_NAME wins over it
        resource = Resource.create({"service.name": f"candlecast-{process}"})
        self._api, self._span = trace, ReadableSpan
        self._sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
        self._is_sampled = Decision.RECORD_AND_SAMPLE
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        self._common: dict[str, Any] = {
            "resource": resource,
            "instrumentation_scope": InstrumentationScope("candlecast"),
        }

    def begin(
        self, trace_id: int, span_id: int | None = None, *, parent: Context | None = None
    ) -> Context:
        """Return the identity of a span that begins, sampled as OTEL_TRACES_SAMPLER says."""
        given = None
        if parent is not None:
            remote = self._api.NonRecordingSpan(self._context(parent, is_remote=True))
            given = self._api.set_span_in_context(remote)
        decision = self._sampler.should_sample(given, trace_id, "").decision
        return Context(trace_id, span_id or new_id(), decision is self._is_sampled)

    def end(
        self,
        name: str,
        kind: SpanKind,
        context: Context,
        began_ns: int,
        *,
        parent: Context | None = None,
        links: Sequence[Context] = (),
        attributes: Attributes | None = None,
        is_error: bool = False,
    ) -> None:
        """Hand on a span that ends now; of one that is not sampled nothing is sent."""
        if not context.is_sampled:
            return
        code = self._api.StatusCode.ERROR if is_error else self._api.StatusCode.UNSET
        self._processor.on_end(
            self._span(
                name,
                self._context(context),
                None if parent is None else self._context(parent, is_remote=True),
                attributes=attributes,
                links=[self._api.Link(self._context(link, is_remote=True)) for link in links],
                kind=self._api.SpanKind[kind],
                status=self._api.Status(code),
                start_time=began_ns,
                end_time=time.time_ns(),
                **self._common,
            )
        )

    def close(self) -> None:
        """Send what is left, for as long as ``CLOSE_S``."""
        last = threading.Thread(target=self._processor.shutdown, daemon=True)
        last.start()
        last.join(CLOSE_S)

    def _context(self, context: Context, *, is_remote: bool = False) -> Any:
        flags = self._api.TraceFlags(_SAMPLED if context.is_sampled else 0)
        return self._api.SpanContext(context.trace_id, context.span_id, is_remote, flags)


@contextmanager
def opened(settings: TraceSettings, process: str) -> Iterator[Traces | None]:
    """Yield where a process hands its spans; None where traces are off."""
    if not settings.traces:
        yield None
        return
    traces = Traces(process)
    try:
        yield traces
    finally:
        traces.close()
