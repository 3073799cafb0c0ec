"""AutoARIMA and AutoETS of the log close (statsforecast), for the point forecast only."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from statsforecast.models import AutoARIMA, AutoETS

from shared.forecaster import Prediction
from trainer.evaluate.baselines.walk import Walk, only_median

HISTORY: Final = 1000
"""Newest candles that the order is chosen and fitted on; four years of daily candles."""


class _Model(Protocol):
    """What statsforecast's models share."""

    def fit(self, y: NDArray[np.float64]) -> Any: ...
    def forward(self, y: NDArray[np.float64], h: int) -> dict[str, NDArray[np.float64]]: ...


class _Automatic:
    """Order chosen and fitted at each refit, then filtered forward candle by candle."""

    name: str

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        log_close = np.log(candles[:, 3])
        steps = np.asarray(walk.horizons) - 1
        medians = np.empty((max(len(candles) - walk.first, 0), len(steps)))
        for start, stop in walk.blocks(len(candles)):
            begin = max(start + 1 - HISTORY, 0)
            model = self._model()
            model.fit(log_close[begin : start + 1])
            for origin in range(start, stop):
                known = log_close[begin : origin + 1]
                ahead = model.forward(known, walk.horizons[-1])["mean"]
                medians[origin - walk.first] = ahead[steps] - known[-1]
        return only_median(walk, medians)

    def _model(self) -> _Model:
        raise NotImplementedError


class Arima(_Automatic):
    """ARIMA of the order with the least AICc; Hyndman and Khandakar (2008)."""

    name = "AutoARIMA"

    def _model(self) -> _Model:
        return AutoARIMA(season_length=1)


class Ets(_Automatic):
    """Exponential smoothing of the form with the least AICc; Hyndman et al. (2002)."""

    name = "AutoETS"

    def _model(self) -> _Model:
        return AutoETS(season_length=1)
