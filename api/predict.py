"""A history to an answer, by the path that the worker takes: window, features, model, prices."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from api.bodies import HistoryCandle, HorizonAnswer, PredictAnswer
from shared.forecaster import MEDIAN, Forecaster, to_prices
from shared.metrics import ApiMetrics


class HistoryError(ValueError):
    """A history of valid candles that the model cannot work with."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True)
class Predictor:
    """One model, and what is counted of its work."""

    forecaster: Forecaster
    metrics: ApiMetrics

    def answer(self, history: tuple[HistoryCandle, ...], received: float) -> PredictAnswer:
        """Return the forecast ahead of a history, oldest candle first.

        Args:
            history: valid candles; of more than the model needs the newest are used.
            received: when the request's body was there, on ``time.perf_counter``.

        Raises:
            HistoryError: when the history is too short, or its candles are so extreme that the
                model gives no finite number.
        """
        candles = newest(history, self.forecaster.window_length)
        started = time.perf_counter()
        prediction = self.forecaster.predict(candles)
        self.metrics.seconds.observe(time.perf_counter() - started)
        last_close = history[-1].close
        prices = to_prices(np.array([last_close]), prediction)[0].tolist()  # (H, Q)
        horizons = self._horizons(prices, prediction.volatility[0].tolist())
        self.metrics.candles.inc(len(history))
        self.metrics.forecasts.inc()
        return PredictAnswer.model_construct(
            predicted_close=horizons[0].predicted_close,
            last_close=last_close,
            latency_ms=round((time.perf_counter() - received) * 1e3, 3),
            model_version=self.forecaster.model_version,
            horizons=horizons,
        )

    def _horizons(
        self, prices: list[list[float]], volatility: list[float]
    ) -> tuple[HorizonAnswer, ...]:
        if not all(map(math.isfinite, (*volatility, *(price for row in prices for price in row)))):
            raise HistoryError("not_finite", "expected prices that a finite forecast follows from")
        levels = [f"{level:g}" for level in self.forecaster.quantile_levels]
        median = self.forecaster.quantile_levels.index(MEDIAN)
        return tuple(
            HorizonAnswer.model_construct(
                step=step,
                predicted_close=row[median],
                quantiles=dict(zip(levels, row, strict=True)),
                volatility=spread,
            )
            for step, row, spread in zip(self.forecaster.horizons, prices, volatility, strict=True)
        )


def newest(history: tuple[HistoryCandle, ...], needed: int) -> NDArray[np.float64]:
    """Return the newest candles as a window holds them, shape (1, T, 5): rounded to 32 bits.

    Raises:
        HistoryError: when there are fewer than ``needed``.
    """
    if len(history) < needed:
        raise HistoryError("too_short", f"expected at least {needed} candles, got {len(history)}")
    rows = [(one.open, one.high, one.low, one.close, one.volume) for one in history[-needed:]]
    return np.array(rows, np.float32).astype(np.float64)[np.newaxis]
