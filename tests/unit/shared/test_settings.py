from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics import ApiMetrics, ModelMetrics, ProducerMetrics, WorkerMetrics
from shared.settings import CommaSeparated, KafkaSettings, ServiceSettings
from shared.status import Health, StatusServer


class Symbols(ServiceSettings):
    """Takes symbols."""

    symbols: CommaSeparated = ("AAPL",)
    once: bool = False
    limit: int | None = None


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        KafkaSettings.read(argv, "python -m x")
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_defaults_are_those_of_one_machine() -> None:
    settings = KafkaSettings.read([], "x")
    assert settings.bootstrap == "127.0.0.1:9092"
    assert settings.candles_topic == "market.candles.v1"
    assert settings.forecasts_topic == "market.forecasts.v1"
    assert settings.dlq_topic == "market.candles.v1.dlq"
    assert settings.log_level == "INFO"


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_PARTITIONS", "3")
    monkeypatch.setenv("CANDLECAST_BOOTSTRAP", "one:1,two:2")
    settings = KafkaSettings.read(["--partitions", "5"], "x")
    assert settings.partitions == 5
    assert settings.bootstrap == "one:1,two:2"


def test_variables_of_other_services_do_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_NO_SUCH_SETTING", "1")
    KafkaSettings.read([], "x")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--partitions", "many"], "partitions: input should be a valid integer"),
        (["--partitions", "0"], "partitions: input should be greater than or equal to 1, got '0'"),
        (["--replication", "8"], "replication: input should be less than or equal to 7"),
        (["--log-level", "loud"], "expected DEBUG, INFO, WARNING or ERROR, got 'loud'"),
    ],
)
def test_a_bad_value_ends_with_one_clear_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = complaint(argv, capsys).splitlines()
    assert line.startswith("python -m x: ")
    assert words in line


def test_an_unknown_flag_ends_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--no-such-flag" in complaint(["--no-such-flag", "1"], capsys)


def test_a_bad_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDLECAST_PARTITIONS", "x")
    assert "partitions: " in complaint([], capsys)


def test_every_bad_value_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = complaint(["--partitions", "0", "--replication", "0"], capsys).splitlines()
    assert len(lines) == 2


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        KafkaSettings.read(["--help"], "python -m x")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "python -m x" in shown
    for name in KafkaSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("argv", "symbols"),
    [
        ([], ("AAPL",)),
        (["--symbols", "AAPL,MSFT"], ("AAPL", "MSFT")),
        (["--symbols", "AAPL", "--symbols", "^GSPC,BTC-USD"], ("AAPL", "^GSPC", "BTC-USD")),
        (["--symbols", " AAPL , ,MSFT,"], ("AAPL", "MSFT")),
    ],
)
def test_lists_are_separated_by_comma(argv: list[str], symbols: tuple[str, ...]) -> None:
    assert Symbols.read(argv, "x").symbols == symbols


def test_a_list_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_SYMBOLS", "AAPL,MSFT")
    assert Symbols.read([], "x").symbols == ("AAPL", "MSFT")


def test_switches_need_no_value() -> None:
    assert Symbols.read(["--once"], "x").once
    assert not Symbols.read(["--no-once"], "x").once


def test_the_log_level_is_known_in_any_case() -> None:
    assert Symbols.read(["--log-level", "debug"], "x").log_level == "DEBUG"


def test_logs_go_to_standard_error() -> None:
    script = (
        "import logging; from shared.settings import configure_logging; "
        "configure_logging('WARNING'); logging.getLogger('x').info('no'); "
        "logging.getLogger('x').warning('yes')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    assert done.stderr.endswith("WARNING x: yes\n")
    assert "no" not in done.stderr.split()


class Probes:
    """Probes that a test sets."""

    def __init__(self) -> None:
        self.alive = Health(ok=True, detail="alive")
        self.prepared = Health(ok=False, detail="not yet")

    def live(self) -> Health:
        return self.alive

    def ready(self) -> Health:
        return self.prepared


@pytest.fixture
def probes() -> Probes:
    return Probes()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def server(probes: Probes, registry: CollectorRegistry) -> Iterator[StatusServer]:
    with StatusServer("127.0.0.1", 0, registry, live=probes.live, ready=probes.ready) as server:
        yield server


def get(server: StatusServer, path: str) -> tuple[int, str, str]:
    """Return the status, the content type and the body of an answer."""
    url = f"http://127.0.0.1:{server.port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read().decode()


def test_probes_answer_by_their_status(server: StatusServer, probes: Probes) -> None:
    status, kind, body = get(server, "/livez")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"ok": True, "detail": "alive"}
    status, _, body = get(server, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ok": False, "detail": "not yet"}
    probes.prepared = Health(ok=True, detail="now")
    assert get(server, "/readyz")[0] == 200


def test_other_paths_are_not_there(server: StatusServer) -> None:
    status, _, body = get(server, "/")
    assert status == 404
    assert json.loads(body)["paths"] == ["/metrics", "/livez", "/readyz"]


def test_metrics_are_served(server: StatusServer, registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry)
    metrics.forecasts.inc(7)
    status, kind, body = get(server, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert samples(body)["candlecast_forecasts_total", ()] == 7


def test_a_probe_answers_while_another_connection_is_silent(server: StatusServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5):
        started = time.monotonic()
        assert get(server, "/livez")[0] == 200
        assert time.monotonic() - started < 5


def test_a_taken_port_is_an_error(server: StatusServer, registry: CollectorRegistry) -> None:
    def probe() -> Health:
        return Health(ok=True, detail="")

    with pytest.raises(OSError, match="in use"):
        StatusServer("127.0.0.1", server.port, registry, live=probe, ready=probe)


def test_the_thread_ends_with_the_context(probes: Probes, registry: CollectorRegistry) -> None:
    before = threading.active_count()
    with StatusServer("127.0.0.1", 0, registry, live=probes.live, ready=probes.ready) as server:
        get(server, "/livez")
    with pytest.raises(OSError, match="refused"):
        get(server, "/livez")
    assert threading.active_count() <= before + 1  # a request's own thread may linger


GROUPS: list[type[Any]] = [ProducerMetrics, WorkerMetrics, ApiMetrics]


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("group", GROUPS)
def test_metrics_are_named_as_prometheus_advises(group: type[Any]) -> None:
    registry = CollectorRegistry()
    group(registry)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert families
    for family in families:
        assert family.name.startswith(("candlecast_", "process_"))
        assert family.documentation.endswith(".")
        assert family.type != "unknown"
        assert "_ms" not in family.name
        if family.type == "histogram" and "batch" not in family.name:
            assert family.name.endswith("_seconds")


@pytest.mark.parametrize("group", GROUPS)
def test_every_process_tells_cpu_and_memory(group: type[Any]) -> None:
    registry = CollectorRegistry()
    group(registry)
    found = samples(generate_latest(registry).decode())
    process = psutil.Process()
    cpu = process.cpu_times()
    assert 0 < found["process_cpu_seconds_total", ()] <= cpu.user + cpu.system
    resident = found["process_resident_memory_bytes", ()]
    assert resident == pytest.approx(process.memory_info().rss, rel=0.1)
    assert found["process_threads", ()] >= 1
    assert found["process_start_time_seconds", ()] == pytest.approx(time.time(), abs=60)


def test_histograms_have_rising_buckets_in_seconds() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.latency_seconds.observe(0.004)
    metrics.seconds.observe(0.0002)
    found = samples(generate_latest(registry).decode())
    assert found["candlecast_forecast_latency_seconds_bucket", ("0.0025",)] == 0
    assert found["candlecast_forecast_latency_seconds_bucket", ("0.005",)] == 1
    assert found["candlecast_inference_seconds_bucket", ("0.00025",)] == 1
    assert found["candlecast_inference_seconds_sum", ()] == pytest.approx(0.0002)


@pytest.mark.parametrize("group", [WorkerMetrics, ApiMetrics])
def test_serving_processes_name_their_model(group: type[ModelMetrics]) -> None:
    registry = CollectorRegistry()
    group(registry).model.info({"version": "m-1"})
    assert samples(generate_latest(registry).decode())["candlecast_model_info", ("m-1",)] == 1


def test_a_worker_counts_by_reason() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.rejects.labels("not_json").inc()
    metrics.candles.labels("appended").inc(2)
    found = samples(generate_latest(registry).decode())
    assert found["candlecast_rejects_total", ("not_json",)] == 1
    assert found["candlecast_candles_total", ("appended",)] == 2


def test_nothing_is_logged_by_a_probe(
    server: StatusServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    get(server, "/livez")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
