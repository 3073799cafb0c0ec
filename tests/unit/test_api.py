from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from api.bodies import MAX_HISTORY, PredictAnswer
from api.settings import ApiSettings
from shared.bundle import default_path
from shared.candles import DAY_MS, Candle
from shared.forecaster import Due, Forecaster, PersistenceForecaster, Prediction, forecast
from shared.window import Window
from tests.unit.api_client import LENGTH, application, call, history, post, predict


class Stub:
    """A forecaster that does as told."""

    model_version = "stub-1"
    window_length = LENGTH
    horizons = (1,)
    quantile_levels = (0.05, 0.5, 0.95)

    def __init__(self, *, seconds: float = 0.0, fault: Exception | None = None) -> None:
        self.seconds = seconds
        self.fault = fault
        self.seen: NDArray[np.float64] | None = None

    def predict(self, candles: NDArray[np.float64]) -> Prediction:
        self.seen = candles
        time.sleep(self.seconds)
        if self.fault:
            raise self.fault
        return Prediction(np.array([[[-0.1, 0.0, 0.1]]]), np.array([[0.02]]))


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


def test_predict_answers_as_promised() -> None:
    answer = predict(application(Stub()), history())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == [
        "predicted_close",
        "last_close",
        "latency_ms",
        "model_version",
        "horizons",
    ]
    last = history()[-1]["close"]
    assert body["last_close"] == last
    assert body["predicted_close"] == last
    assert body["model_version"] == "stub-1"
    [horizon] = body["horizons"]
    assert horizon == {
        "step": 1,
        "predicted_close": last,
        "quantiles": {
            "0.05": pytest.approx(last * math.exp(-0.1), rel=1e-15),
            "0.5": last,
            "0.95": pytest.approx(last * math.exp(0.1), rel=1e-15),
        },
        "volatility": 0.02,
    }


def test_persistence_equals_an_independent_computation() -> None:
    candles = history(50)
    body = predict(application(PersistenceForecaster(50, horizons=(1, 5))), candles).json()
    close = np.array([one["close"] for one in candles])
    for horizon in body["horizons"]:
        moves = np.log(close[horizon["step"] :] / close[: -horizon["step"]])
        for level, price in horizon["quantiles"].items():
            shift = np.quantile(moves, float(level)) - np.median(moves)
            assert price == pytest.approx(close[-1] * np.exp(shift), rel=1e-6)


def test_the_newest_candles_of_a_long_history_are_used() -> None:
    forecaster = Stub()
    app = application(forecaster)
    long = history(LENGTH + 7)
    assert predict(app, long).status_code == 200
    assert forecaster.seen is not None
    assert forecaster.seen.shape == (1, LENGTH, 5)
    expected = np.array([list(one.values()) for one in long[-LENGTH:]], np.float32)
    np.testing.assert_array_equal(forecaster.seen[0], expected)


def test_the_longest_history_is_accepted() -> None:
    assert predict(application(), history(LENGTH) * (MAX_HISTORY // LENGTH)).status_code == 200


def test_last_close_is_exact_where_the_window_rounds() -> None:
    candles = history()
    candles[-1] |= {"close": 250.123456789012, "high": 300.0, "low": 200.0}
    assert predict(application(), candles).json()["last_close"] == 250.123456789012


AGREEING = application(PersistenceForecaster(LENGTH, horizons=(1, 5)))

prices = st.floats(0.01, 1e6)
sticks = st.builds(
    lambda points, volume: {
        "open": points[0],
        "high": max(points),
        "low": min(points),
        "close": points[1],
        "volume": volume,
    },
    st.lists(prices, min_size=4, max_size=4),
    st.floats(0, 1e12),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(sticks, min_size=LENGTH, max_size=LENGTH + 5))
def test_stream_and_api_agree(candles: list[dict[str, float]]) -> None:
    answer = PredictAnswer.model_validate_json(predict(AGREEING, candles).content)
    streamed = forecast_of_stream(PersistenceForecaster(LENGTH, horizons=(1, 5)), candles)
    assert answer.last_close == streamed.last_close
    assert answer.model_version == streamed.model_version
    assert len(answer.horizons) == len(streamed.horizons)
    for ours, theirs in zip(answer.horizons, streamed.horizons, strict=True):
        assert ours.step == theirs.step
        assert ours.predicted_close == pytest.approx(theirs.predicted_close, rel=1e-9)
        assert ours.quantiles == pytest.approx(theirs.quantiles, rel=1e-9)
        assert ours.volatility == pytest.approx(theirs.volatility, rel=1e-9)


def forecast_of_stream(forecaster: Forecaster, candles: list[dict[str, float]]) -> Any:
    window = Window(forecaster.window_length)
    for day, values in enumerate(candles):
        open_ms, close_ms = day * DAY_MS, (day + 1) * DAY_MS
        candle = Candle(
            symbol="X", interval="1d", open_ms=open_ms, close_ms=close_ms, source="test", **values
        )
        window, _ = window.push(candle)
    due = Due("X", "1d", candle.close_ms, candle.close, window)
    return forecast(forecaster, [due], now_ms=0)[0]


def test_latency_is_the_time_from_body_to_answer() -> None:
    app = application(Stub(seconds=0.05))
    started = time.perf_counter()
    latency_ms = predict(app, history()).json()["latency_ms"]
    assert 50 <= latency_ms <= (time.perf_counter() - started) * 1e3


def test_the_last_of_duplicate_keys_counts() -> None:
    body = b'{"history": "no", "history": [%s]}' % b",".join(
        b'{"open": 1, "open": 2, "high": 3, "low": 1, "close": 2, "volume": 0}'
        for _ in range(LENGTH)
    )
    forecaster = Stub()
    assert post(application(forecaster), body).status_code == 200
    assert forecaster.seen is not None
    assert forecaster.seen[0, :, 0].tolist() == [2.0] * LENGTH


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
