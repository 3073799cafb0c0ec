"""Traces: their identities, and that nothing of OpenTelemetry is there while they are off."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.traces import (
    HEADER,
    Context,
    TraceSettings,
    candle_trace,
    context_in,
    forecast_span,
    opened,
)

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONTEXT = Context(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_sampled=True)


def test_a_context_is_passed_on_as_w3c_says() -> None:
    assert CONTEXT.header == (HEADER, PARENT)
    assert context_in([("content-type", b"application/json"), (HEADER, PARENT)]) == CONTEXT
    later = PARENT.replace(b"00-", b"cc-", 1) + b"-what-comes-later"
    assert context_in([(HEADER, later)]) == CONTEXT
    assert context_in([(HEADER, PARENT[:-1] + b"0")]) == CONTEXT._replace(is_sampled=False)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"ff" + PARENT[2:],
        PARENT.upper(),
        PARENT[:-1],
        PARENT.replace(b"b7ad6b7169203331", b"0" * 16),
        PARENT.replace(b"0af7651916cd43dd8448eb211c80319c", b"0" * 32),
        PARENT.replace(b"b7ad", "b7aé".encode()),
    ],
)
def test_what_is_no_context_begins_a_trace(value: bytes | None) -> None:
    assert context_in([(HEADER, value)]) is None


def test_identities_follow_from_what_they_are_of() -> None:
    """So a score, in another process, finds the forecast that it is of."""
    trace = candle_trace("AAPL", "1d", 1_362_096_000_000)
    assert trace == candle_trace("AAPL", "1d", 1_362_096_000_000) < 2**128
    others = [("AAPL", "1h", 1_362_096_000_000), ("AAP", "L1d", 1_362_096_000_000)]
    assert trace not in {candle_trace(*other) for other in others}
    assert forecast_span("37359532b9fc56fdc03d7cd414b3a85d") == 0x37359532B9FC56FD
    assert forecast_span("0" * 32) == 1  # an identity is not 0


def test_off_is_nothing() -> None:
    with opened(TraceSettings.read([], ""), "worker") as traces:
        assert traces is None


@pytest.mark.parametrize(
    ("services", "part"),
    [
        ("producer.__main__, stream_app.__main__", "opentelemetry"),
        ("api.__main__", "opentelemetry.sdk"),  # FastAPI imports what declares spans
    ],
)
def test_services_import_nothing_that_sends_while_traces_are_off(services: str, part: str) -> None:
    code = (
        f"import sys, {services}; "
        f"print([name for name in sys.modules if name.startswith({part!r})])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
