from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.forecast.bodies import MAX_HISTORY, PredictAnswer
from shared.candles import DAY_MS, Candle
from shared.forecaster import Due, Forecaster, ModelSet, forecast
from shared.window import Window
from tests.forecasters import PersistenceForecaster
from tests.unit.api.client import LENGTH, Stub, application, history, post, predict


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
    close = np.array([candle["close"] for candle in candles])
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
    expected = np.array([list(candle.values()) for candle in long[-LENGTH:]], np.float32)
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
    return forecast(ModelSet(forecaster), [due], now_ms=0)[0]


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
