"""Drift from the worker's step to its log and its metrics."""

from __future__ import annotations

import logging
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from shared.candles import Candle
from shared.forecaster import ModelSet, Prediction
from shared.metrics import WorkerMetrics
from stream_app.drifting import DriftBoard
from stream_app.pipeline import Incoming, advance
from tests.candles import candle
from tests.forecasters import LastMove

NOW_MS = 2_000_000_000_000
CAPACITY = 20


class Fixed(LastMove):
    """Expects normal moves of 1 %, whatever has been."""

    model_version = "fixed"
    quantile_levels = (0.05, 0.25, 0.5, 0.75, 0.95)  # type: ignore[assignment]

    def predict(self, candles: NDArray[np.float64], open_ms: NDArray[np.int64]) -> Prediction:
        del open_ms
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
