"""Histories to answers, by the path that the worker takes: window, features, model, prices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from api.forecast.histories import Series, newest
from api.forecast.interpolate import Curve
from api.forecast.slicing import Work
from shared.candles import DAY_MS, WEEKEND
from shared.forecaster import Forecaster, HorizonWriter, Prediction, to_prices
from shared.forecasts import due_ms
from shared.metrics import ApiMetrics
from shared.window import even_times

Array = NDArray[np.float64]
Times = NDArray[np.int64]

NEWEST: Final = 7
"""Newest candles whose days say whether a market trades on weekends."""

MAX_SHARED: Final = 64
"""Requests that share one model call at most: more would only make the first ones wait."""

CHUNK: Final = 32
"""Histories of one request that go into one model call: a millisecond's work."""


class HistoryError(ValueError):
    """A history of valid candles that the model cannot work with."""

    def __init__(self, rule: str, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.rule = rule
        self.number = number  # which of the request's histories, from 0


class Predictor:
    """One model, its calls shared by requests that come together.

    A request that finds the event loop idle is answered at once: the model runs as soon as the
    loop has gone through what is ready now, and takes along whatever that has brought.
    """

    def __init__(self, forecaster: Forecaster, metrics: ApiMetrics) -> None:
        self.forecaster = forecaster
        self.curve = Curve(forecaster.horizons, forecaster.quantile_levels)
        self._metrics = metrics
        self._writer = HorizonWriter(forecaster.horizons, forecaster.quantile_levels)
        self._waiting: list[tuple[Array, Times, asyncio.Future[Prediction]]] = []

    async def answer(self, history: Array, received: float) -> dict[str, Any]:
        """Return what ``POST /predict`` answers, as ``PredictAnswer`` has it.

        Args:
            history: valid candles, (N, 5); of more than the model needs the newest are used.
            received: when the request's body was there, on ``time.perf_counter``.

        Raises:
            HistoryError: when the history is too short, or its candles are so extreme that the
                model gives no finite number.
        """
        try:
            window = newest(history, self.forecaster.window_length)
        except ValueError as error:
            raise HistoryError("too_short", str(error)) from None
        prediction = await self._share(window, even_times(1, len(window))[0])
        last_close = float(history[-1, 3])
        prices = to_prices(np.array([last_close]), prediction)
        _require_finite(prices, prediction)
        horizons = self._writer.rows(prices[0].tolist(), prediction.volatility[0].tolist())
        self._metrics.candles.inc(len(history))
        self._metrics.forecasts.inc()
        return {
            "predicted_close": horizons[0]["predicted_close"],
            "last_close": last_close,
            "latency_ms": round((time.perf_counter() - received) * 1e3, 3),
            "model_version": self.forecaster.model_version,
            "horizons": horizons,
        }

    def forecasts(
        self, series: Sequence[Series], steps: tuple[int, ...] | None
    ) -> Work[list[orjson.Fragment]]:
        """Return the forecast ahead of each history, as ``FullForecast`` has it, in JSON.

        Raises:
            HistoryError: as ``answer`` does, with the number of the history.
        """
        windows: list[tuple[Array, Times]] = []
        for number, history in enumerate(series):
            windows.append(self._window(number, history))
            yield
        wanted = steps or self.forecaster.horizons
        made: list[orjson.Fragment] = []
        for first in range(0, len(series), CHUNK):
            some = windows[first : first + CHUNK]
            trained = self.predict(
                np.stack([candles for candles, _ in some]), np.stack([times for _, times in some])
            )
            yield
            prediction = self.curve.at(trained, wanted)
            part = series[first : first + CHUNK]
            prices = to_prices(np.array([one.candles[-1, 3] for one in part]), prediction)
            _require_finite(prices, prediction, first)
            yield
            for row, one in enumerate(part):
                full = self._full(one, wanted, prices[row], _row(prediction, row))
                made.append(orjson.Fragment(orjson.dumps(full)))
                yield
        self._metrics.candles.inc(sum(len(one.candles) for one in series))
        self._metrics.forecasts.inc(len(series))
        return made

    def infer(self, windows: Array, open_ms: Times) -> Work[Prediction]:
        """Return the prediction of full windows, (B, T, 5), by as many model calls as are good."""
        parts: list[Prediction] = []
        for first in range(0, len(windows), CHUNK):
            some = slice(first, first + CHUNK)
            parts.append(self.predict(windows[some], open_ms[some]))
            yield
        return Prediction(
            np.concatenate([one.log_return for one in parts]),
            np.concatenate([one.volatility for one in parts]),
        )

    def predict(self, windows: Array, open_ms: Times) -> Prediction:
        """Return the prediction of full windows, (B, T, 5), by one model call."""
        started = time.perf_counter()
        prediction = self.forecaster.predict(windows, open_ms)
        self._metrics.seconds.observe(time.perf_counter() - started)
        self._metrics.batch_size.observe(len(windows))
        return prediction

    async def _share(self, window: Array, open_ms: Times) -> Prediction:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Prediction] = loop.create_future()
        self._waiting.append((window, open_ms, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._run)
        return await future

    def _run(self) -> None:
        """Predict for all that wait, and wake them."""
        waiting, self._waiting = self._waiting[:MAX_SHARED], self._waiting[MAX_SHARED:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        futures = [future for _, _, future in waiting]
        try:
            prediction = self.predict(
                np.stack([window for window, _, _ in waiting]),
                np.stack([open_ms for _, open_ms, _ in waiting]),
            )
        except Exception as error:  # noqa: BLE001 -- whatever it is, each request must have it
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for row, future in enumerate(futures):
            if not future.done():  # a client that has left has cancelled its own
                future.set_result(_row(prediction, row))

    def _window(self, number: int, series: Series) -> tuple[Array, Times]:
        length = self.forecaster.window_length
        try:
            candles = newest(series.candles, length)
        except ValueError as error:
            raise HistoryError("too_short", str(error), number) from None
        if series.open_ms is None:
            return candles, even_times(1, length, series.interval)[0]
        return candles, series.open_ms[-length:]

    def _full(
        self, one: Series, steps: Sequence[int], prices: Array, made: Prediction
    ) -> dict[str, Any]:
        """Return a forecast; prices (N, Q), and a prediction of one window."""
        trained = self.forecaster.horizons
        weekends = _trades_weekends(one)
        dues = [_due_ms(one, step, trades_weekends=weekends) for step in steps]
        writer = HorizonWriter(steps, self.forecaster.quantile_levels)
        horizons = writer.rows(prices.tolist(), made.volatility[0].tolist(), dues)
        for horizon, log_return in zip(horizons, made.log_return[0].tolist(), strict=True):
            horizon["log_return"] = dict(zip(horizon["quantiles"], log_return, strict=True))
            horizon["interpolated"] = horizon["step"] not in trained
        return {
            "symbol": one.symbol,
            "interval": one.interval,
            "as_of_ms": one.as_of_ms,
            "last_close": float(one.candles[-1, 3]),
            "horizons": horizons,
        }


def _row(prediction: Prediction, row: int) -> Prediction:
    return Prediction(prediction.log_return[row : row + 1], prediction.volatility[row : row + 1])


def _require_finite(prices: Array, prediction: Prediction, first: int = 0) -> None:
    sums = prices.sum(axis=(1, 2)) + prediction.volatility.sum(
        axis=1
    )  # not finite if a part is not
    if not np.isfinite(sums).all():
        number = first + int(np.argmin(np.isfinite(sums)))
        message = "expected prices that a finite forecast follows from"
        raise HistoryError("not_finite", message, number)


def _trades_weekends(series: Series) -> bool:
    if series.open_ms is None:
        return False
    return any(open_ms // DAY_MS % 7 in WEEKEND for open_ms in series.open_ms[-NEWEST:].tolist())


def _due_ms(series: Series, step: int, *, trades_weekends: bool) -> int | None:
    if series.as_of_ms is None or series.interval is None:
        return None
    weekends = series.interval == "1d" and trades_weekends
    return due_ms(series.as_of_ms, series.interval, step, trades_weekends=weekends)
