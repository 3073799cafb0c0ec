"""One trace from a candle to its forecast to its scores, from real processes to a collector."""

from __future__ import annotations

import gzip
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from local.ports import free_ports
from shared.forecasts import Forecast
from shared.traces import HEADER, Context, candle_trace, context_in, forecast_span
from tests.candles import walk
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import read
from tests.integration.workers import WorkerTopics, launch_worker, wait_ready
from tests.recipes import Recipe

pytestmark = pytest.mark.integration

REQUEST: Any = ExportTraceServiceRequest  # protobuf's functions have no types
CANDLES = walk(12)
CALLER = Context(0xABC, 0xDEF, is_sampled=True)


class Collector:
    """Takes spans by OTLP over HTTP, as a collector of OpenTelemetry does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: dict[bytes, str] = {}  # by span
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(REQUEST.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def take(self, request: Any) -> None:
        """Keep the spans of a request."""
        for part in request.resource_spans:
            names = {a.key: a.value.string_value for a in part.resource.attributes}
            for scope in part.scope_spans:
                self.spans += scope.spans
                self.services |= {span.span_id: names["service.name"] for span in scope.spans}

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that sends its spans here, at once."""
        return {
            "CANDLECAST_TRACES": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server.server_address[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def test_a_candle_its_forecast_and_its_scores_are_one_trace(
    processes: Processes,
    kafka: str,
    unique_name: Callable[[str], str],
    tmp_path: Path,
    collector: Collector,
) -> None:
    topics = WorkerTopics.make(kafka, unique_name)
    bundle = Recipe(name="traced", window_length=4).write(tmp_path / "bundle")
    worker = launch_worker(processes, topics, "--model", str(bundle), env=collector.environment)
    path = tmp_path / "candles.csv"
    pd.DataFrame([candle.model_dump() for candle in CANDLES]).to_csv(path, index=False)
    producer = processes.start(
        "producer", *topics.flags(), "--path", str(path), "--interval", "1d",
        "--metrics-port", "0", env=collector.environment,
    )  # fmt: skip
    port = free_ports(1)[0]
    api = processes.start(
        "api", *topics.flags(), "--model", str(bundle), "--port", str(port),
        env=collector.environment,
    )  # fmt: skip
    wait_ready(worker)
    wait_until(lambda: producer.exit_code == 0, 60, "the candles are sent")
    wait_until(lambda: len(read(kafka, topics.forecasts)) == 9, 60, "nine forecasts")
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models")
    request.add_header(HEADER, CALLER.header[1].decode())

    def answered() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5) as got:  # noqa: S310 - ours
                return bool(got.status == 200)
        except OSError:
            return False

    wait_until(answered, 60, "the API answers", process=api)
    record = read(kafka, topics.forecasts)[0]
    assert record.value is not None
    forecast = Forecast.decode(record.value)
    trace = candle_trace(forecast.symbol, forecast.interval, forecast.as_of_ms)
    assert context_in(record.headers.items()) == Context(trace, forecast_span(forecast.id), True)

    def spans_of(trace_id: int, least: int) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = defaultdict(list)
        for span in collector.spans:
            if span.trace_id == trace_id.to_bytes(16):
                found[span.name].append(span)
        return found if sum(map(len, found.values())) >= least else {}

    scored = wait_until(lambda: spans_of(trace, 4), 30, "the first forecast is scored twice")
    [sent] = scored[f"send {topics.candles}"]
    [made] = scored[f"process {topics.candles}"]
    assert collector.services[sent.span_id] == "candlecast-producer"
    assert collector.services[made.span_id] == "candlecast-worker"
    assert made.parent_span_id == sent.span_id
    assert attributes(made)["candlecast.forecast.id"] == forecast.id
    assert made.start_time_unix_nano < made.end_time_unix_nano
    scores = scored["score forecast"]
    assert {score.parent_span_id for score in scores} == {made.span_id}
    settling = {
        candle_trace(candle.symbol, candle.interval, candle.close_ms).to_bytes(16)
        for candle in CANDLES
    }
    assert {score.links[0].trace_id for score in scores} <= settling - {made.trace_id}
    [asked] = wait_until(lambda: spans_of(CALLER.trace_id, 1), 30, "the request")["GET /v1/models"]
    assert collector.services[asked.span_id] == "candlecast-api"
    assert asked.parent_span_id == CALLER.span_id.to_bytes(8)
    assert attributes(asked)["http.response.status_code"] == 200
