"""Drift from the worker's step to its log and its metrics."""

from __future__ import annotations

import logging
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from shared import bundle
from shared.candles import Candle
from shared.context import Closes
from shared.feature_drift import FeatureBins, is_sampled
from shared.forecaster import ModelSet, OnnxForecaster, Prediction
from shared.forecasts import Forecast
from shared.metrics import WorkerMetrics
from stream_app.drifting import DriftBoard, FeatureBoard
from stream_app.pipeline import Incoming, advance
from tests import bundles
from tests.candles import candle
from tests.forecasters import LastMove

NOW_MS = 2_000_000_000_000
CAPACITY = 20


class Fixed(LastMove):
    """Expects normal moves of 1 %, whatever has been."""

    model_version = "fixed"
    quantile_levels = (0.05, 0.25, 0.5, 0.75, 0.95)  # type: ignore[assignment]

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        del open_ms, context
        quantiles = [0.01 * NormalDist().inv_cdf(level) for level in self.quantile_levels]
        log_return = np.sqrt(np.array(self.horizons))[:, None] * quantiles  # (H, Q)
        shape = (len(candles), len(self.horizons))
        return Prediction(np.tile(log_return, (len(candles), 1, 1)), np.full(shape, 0.01))


MODELS = ModelSet(Fixed(CAPACITY))


def walk(sizes: list[float]) -> list[Candle]:
    """Return candles whose moves have some deviations."""
    moves = np.random.default_rng(3).normal(0, 1, len(sizes)) * sizes
    closes = 100 * np.exp(np.cumsum(moves))
    return [candle(day, float(close)) for day, close in enumerate(closes)]


def run(candles: list[Candle], board: DriftBoard, batch: int = 7) -> None:
    table: dict[bytes, bytes] = {}
    for at in range(0, len(candles), batch):
        incoming = [
            Incoming(b"AAPL", one.encode(), 0, at + place, NOW_MS)
            for place, one in enumerate(candles[at : at + batch])
        ]
        result = advance(incoming, table.get, MODELS, CAPACITY, NOW_MS)
        table.update({key: state for key, (_, state) in result.states.items()})
        board.note(result.drifts, result.drifts_began)


def test_a_drift_is_logged_once_and_shown_by_interval(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    board = DriftBoard(WorkerMetrics(registry))
    caplog.set_level(logging.WARNING, "stream_app")
    run(walk([0.01] * (CAPACITY + 60)), board)
    assert not caplog.records
    run(walk([0.01] * (CAPACITY + 60) + [0.03] * 60), board)
    [line] = caplog.records
    assert line.getMessage().startswith("AAPL|1d: its outcomes no longer fall as the model says")

    def shown(name: str) -> float | None:
        return registry.get_sample_value(f"candlecast_{name}", {"interval": "1d"})

    assert shown("drifts_total") == 1
    assert shown("drifting_series") == 1
    spread = shown("drift_spread")
    assert spread is not None
    assert spread > 1.4
    board.clear()
    assert shown("drifting_series") == 0


def forecasts_of(models: ModelSet, batch: int) -> list[Forecast]:
    """Return the forecasts of 300 candles that rise from 100 to 400."""
    table: dict[bytes, bytes] = {}
    made: list[Forecast] = []
    candles = [candle(day, 100.0 + day) for day in range(300)]
    for at in range(0, len(candles), batch):
        some = [
            Incoming(b"AAPL", one.encode(), 0, at + place, NOW_MS)
            for place, one in enumerate(candles[at : at + batch])
        ]
        result = advance(some, table.get, models, CAPACITY, NOW_MS)
        table.update({key: state for key, (_, state) in result.states.items()})
        made += [forecast for _, forecast in result.forecasts]
    return made


def test_a_sampled_forecast_has_the_bins_of_its_window(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path / "bundle")
    old = ModelSet(OnnxForecaster(bundle.load(folder)))
    bare = forecasts_of(old, 10)
    assert len(bare) == 297
    assert {forecast.feature_bins for forecast in bare} == {None}, "a bundle without a reference"
    thirds = FeatureBins(edges=(200.0, 300.0), shares=(0.3, 0.3, 0.4))
    bundles.add_reference(folder, bundles.reference_of({"1d": {"close": thirds}}))
    models = ModelSet(OnnxForecaster(bundle.load(folder)))
    made = forecasts_of(models, 10)
    for forecast in made:
        place = str(int(forecast.last_close > 200.0) + int(forecast.last_close > 300.0))
        assert forecast.feature_bins == (place if is_sampled(forecast.id) else None)
        assert Forecast.decode(forecast.encode()) == forecast
    assert sum(forecast.feature_bins is not None for forecast in made) > 0
    assert [forecast.id for forecast in made] == [forecast.id for forecast in bare]
    assert made == forecasts_of(models, 1), "however the stream is cut into batches"


def test_a_features_drift_is_logged_once_and_a_metric(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stream_app")
    halves = FeatureBins(edges=(0.0,), shares=(0.5, 0.5))
    names = ("close", "rsi")
    reference = bundles.reference_of({"1d": dict.fromkeys(names, halves)})
    [forecast, *_] = forecasts_of(MODELS, 100)
    registry = CollectorRegistry()
    board = FeatureBoard(WorkerMetrics(registry), lambda: {forecast.model_version: reference})

    def show(count: int, *bins: str) -> dict[str, float | None]:
        for number in range(count):
            place = bins[number % len(bins)]
            board.note([forecast.model_copy(update={"feature_bins": place})])
        board.show()
        return {
            name: registry.get_sample_value(
                "candlecast_feature_psi", {"interval": "1d", "feature": name}
            )
            for name in names
        }

    assert show(499, "00", "01") == dict.fromkeys(names), "absent below 500 windows"
    began = show(1, "01")
    assert (began["close"] or 0) > 0.25
    assert (began["rsi"] or 1) < 0.01
    show(100, "00", "01")
    [line] = caplog.messages
    assert "1d" in line
    assert "close" in line
    assert "rsi" not in line
    over = show(4_000, "00", "01", "10", "11")
    assert (over["close"] or 1) < 0.1
    show(4_000, "00", "01")
    assert len(caplog.messages) == 2, "it drifts again after it was over"
