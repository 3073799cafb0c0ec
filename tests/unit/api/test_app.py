from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.settings import ApiSettings
from shared.bundle import default_path
from tests.unit.api.client import LENGTH, Stub, application, call, history, predict


def test_health_names_the_model() -> None:
    answer = call(application(), "GET", "/")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "model_version": "persistence",
        "window_length": LENGTH,
    }


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_answer(path: str) -> None:
    answer = call(application(), "GET", path)
    assert answer.status_code == 200
    assert answer.json()["ok"] is True
    assert answer.json()["detail"]


def test_the_model_card_is_complete() -> None:
    card = call(application(), "GET", "/v1/model").json()
    assert card["model_version"] == "persistence"
    assert card["horizons"] == [1, 5]
    assert card["window_length"] == LENGTH
    assert card["data"] is None


def test_metrics_count_what_happened() -> None:
    app = application(Stub())
    for _ in range(3):
        predict(app, history())
    predict(app, history(2))
    call(app, "GET", "/nowhere-1")
    call(app, "GET", "/nowhere-2")
    call(app, "BREW", "/predict")
    samples = samples_of(app)
    assert samples["candlecast_forecasts_answered_total", ()] == 3
    assert samples["candlecast_history_candles_total", ()] == 3 * LENGTH
    assert samples["candlecast_inference_seconds_count", ()] == 3
    assert samples["candlecast_requests_refused_total", ("422",)] == 1
    assert samples["candlecast_requests_refused_total", ("404",)] == 2
    assert samples["candlecast_requests_refused_total", ("405",)] == 1
    assert samples["candlecast_model_info", ("stub-1",)] == 1
    requests = "candlecast_request_seconds_count"
    assert samples[requests, ("POST", "/predict", "200")] == 3
    assert samples[requests, ("POST", "/predict", "422")] == 1
    assert samples[requests, ("GET", "unmatched", "404")] == 2
    assert samples[requests, ("other", "/predict", "405")] == 1
    assert samples["process_cpu_seconds_total", ()] > 0
    assert samples["process_resident_memory_bytes", ()] > 1e6


def samples_of(app: Any) -> dict[tuple[str, tuple[str, ...]], float]:
    answer = call(app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_speak_openmetrics_when_asked() -> None:
    answer = call(
        application(), "GET", "/metrics", headers={"accept": "application/openmetrics-text"}
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_two_applications_share_nothing() -> None:
    first, second = application(Stub()), application(Stub())
    predict(first, history())
    assert samples_of(second)["candlecast_forecasts_answered_total", ()] == 0


def test_settings_come_from_flags_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_API_PORT", "1234")
    monkeypatch.setenv("CANDLECAST_API_HOST", "0.0.0.0")  # noqa: S104
    read = ApiSettings.read(["--port", "4321"], "api")
    assert (read.host, read.port) == ("0.0.0.0", 4321)  # noqa: S104
    assert read.model == default_path()


def test_settings_default_to_loopback() -> None:
    read = ApiSettings.read([], "api")
    assert (read.host, read.port) == ("127.0.0.1", 8000)
