from __future__ import annotations

import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from prometheus_client import CollectorRegistry

from shared import status
from shared.metrics import WorkerMetrics
from shared.status import Health, StatusPortError, StatusServer


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
    assert "candlecast_forecasts_published_total 7.0" in body


def test_a_probe_answers_while_another_connection_is_silent(server: StatusServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5):
        started = time.monotonic()
        assert get(server, "/livez")[0] == 200
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=abc", "text/plain; version=1.0.0; escaping=x"]
)
def test_metrics_are_given_whatever_is_accepted(server: StatusServer, accept: str) -> None:
    url = f"http://127.0.0.1:{server.port}/metrics"
    asked = urllib.request.Request(url, headers={"accept": accept})
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 -- of our own port
        assert answer.status == 200


def test_threads_are_bounded(server: StatusServer) -> None:
    before = threading.active_count()
    with ExitStack() as held:
        for _ in range(status.MOST_THREADS * 3):
            held.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        time.sleep(0.5)
        assert threading.active_count() <= before + status.MOST_THREADS
    wait_for(lambda: get(server, "/livez")[0] == 200)


def test_a_client_that_trickles_is_cut_off(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "CONNECTION_S", 0.5)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.sendall(b"GET /livez HTTP/1.0\r\nx: ")
        started_s = time.monotonic()
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012 -- any of them may fail
            while time.monotonic() < started_s + 5:
                slow.sendall(b"y")
                time.sleep(0.05)
        assert time.monotonic() - started_s < 3


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait for what threads that end make true."""
    for _ in range(100):
        with suppress(OSError):
            if is_so():
                return
        time.sleep(0.05)
    raise AssertionError("it has not become so")


def test_a_taken_port_is_an_error(server: StatusServer, registry: CollectorRegistry) -> None:
    def probe() -> Health:
        return Health(ok=True, detail="")

    with pytest.raises(StatusPortError, match=r"metrics_port: .*in use"):
        StatusServer("127.0.0.1", server.port, registry, live=probe, ready=probe)


def test_the_thread_ends_with_the_context(probes: Probes, registry: CollectorRegistry) -> None:
    before = threading.active_count()
    with StatusServer("127.0.0.1", 0, registry, live=probes.live, ready=probes.ready) as server:
        get(server, "/livez")
    with pytest.raises(OSError, match="refused"):
        get(server, "/livez")
    assert threading.active_count() <= before + 1  # a request's own thread may linger


def test_nothing_is_logged_by_a_probe(
    server: StatusServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    get(server, "/livez")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
