"""Forecasts of histories, by the path that the worker takes: window, model, prices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from api.edge.slicing import Work
from api.forecast.calibrated import LearnedOf, corrected
from api.forecast.histories import Series, newest
from api.forecast.interpolate import Curve
from shared.candles import DAY_MS, WEEKEND
from shared.context import Closes, ContextWindow, stack_contexts
from shared.forecaster import (
    ContextOf,
    Forecaster,
    HorizonWriter,
    Models,
    Prediction,
    length_of,
    nearest_trained,
    to_prices,
    without_context,
)
from shared.forecasts import due_ms
from shared.metrics import ApiMetrics
from shared.window import even_times

Array = NDArray[np.float64]
Times = NDArray[np.int64]

DEFAULT_INTERVAL: Final = "1d"
"""Interval of a history that names none."""

NEWEST: Final = 7
"""Newest candles whose days say whether a market trades on weekends."""

MAX_SHARED: Final = 64
"""Most requests that share one model call: more would only make the first ones wait."""

CHUNK: Final = 32
"""Most histories of one request in one model call: a millisecond's work."""


class UnusableHistory(ValueError):
    """A history of valid candles that the model cannot work with."""

    def __init__(self, rule: str, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.rule = rule
        self.number = number  # which of the request's histories, from 0


@dataclass(frozen=True)
class _Waiting:
    """A request that waits for a model call."""

    forecaster: Forecaster
    window: Array  # (T, 5)
    open_ms: Times  # (T,)
    future: asyncio.Future[Prediction]

    def shares_with(self, other: _Waiting) -> bool:
        """Return whether both can be in one call: of one model, their windows of one length."""
        return self.forecaster is other.forecaster and len(self.window) == len(other.window)


class Predictor:
    """The served models, their calls shared by requests that come together.

    A request that finds the event loop idle is answered at once: the model runs as soon as the
    loop has gone through what is ready now, and takes along whatever that has brought.
    """

    def __init__(
        self,
        models: Models,
        metrics: ApiMetrics,
        learned_of: LearnedOf = lambda *_: None,
        context_of: ContextOf = without_context,
    ) -> None:
        """Serve some models.

        Args:
            models: that are served.
            metrics: of the API.
            learned_of: says how the stream corrects a series now.
            context_of: gives what models read beside a series's own candles.
        """
        self.models = models
        self._metrics = metrics
        self._learned_of = learned_of
        self._context_of = context_of
        self._waiting: list[_Waiting] = []

    @property
    def forecaster(self) -> Forecaster:
        """The model of daily candles, which answers where no interval is named."""
        return self.models.of(DEFAULT_INTERVAL)

    def longest_step(self, series: Sequence[Series]) -> int:
        """Return the longest step that the models of all these histories can forecast."""
        return min(self._of(history).horizons[-1] for history in series)

    def _of(self, series: Series) -> Forecaster:
        interval = series.interval or DEFAULT_INTERVAL
        return self.models.of(interval, series.symbol or "", len(series.candles))

    async def answer(self, history: Array, received: float) -> dict[str, Any]:
        """Return what ``POST /predict`` answers, as ``PredictAnswer`` has it: never calibrated.

        Args:
            history: valid candles, (N, 5); of more than the model needs the newest are used.
            received: when the request's body was there, on ``time.perf_counter``.

        Raises:
            UnusableHistory: when the history is too short, or its candles are so extreme that the
                model gives no finite number.
        """
        forecaster = self.models.of(DEFAULT_INTERVAL, held=len(history))
        try:
            window = newest(history, _length(forecaster, DEFAULT_INTERVAL, len(history)))
        except ValueError as error:
            raise UnusableHistory("too_short", str(error)) from None
        prediction = await self._share(forecaster, window, even_times(1, len(window))[0])
        last_close = float(history[-1, 3])
        prices = to_prices(np.array([last_close]), prediction)
        _require_finite(prices, prediction, [0])
        writer = _writer(forecaster.horizons, forecaster.quantile_levels)
        horizons = writer.rows(prices[0].tolist(), prediction.volatility[0].tolist())
        self._metrics.candles.inc(len(history))
        self._metrics.forecasts.inc()
        return {
            "predicted_close": horizons[0]["predicted_close"],
            "last_close": last_close,
            "latency_ms": round((time.perf_counter() - received) * 1e3, 3),
            "model_version": forecaster.model_version,
            "horizons": horizons,
        }

    def forecasts(
        self, series: Sequence[Series], steps: tuple[int, ...] | None
    ) -> Work[list[orjson.Fragment]]:
        """Return the forecast ahead of each history, as ``FullForecast`` has it, in JSON.

        One of a series that the stream has scored is calibrated as the stream's next one.

        Raises:
            UnusableHistory: as ``answer`` does, with the number of the history.
        """
        made: dict[int, orjson.Fragment] = {}
        numbers_of: dict[tuple[int, int], tuple[Forecaster, list[int]]] = {}
        for number, history in enumerate(series):
            forecaster = self._of(history)
            interval = history.interval or DEFAULT_INTERVAL
            key = id(forecaster), _length(forecaster, interval, len(history.candles))
            numbers_of.setdefault(key, (forecaster, []))[1].append(number)
        for (_, length), (forecaster, numbers) in numbers_of.items():
            windows: list[tuple[Array, Times]] = []
            for number in numbers:
                windows.append(_window(number, series[number], length))
                yield
            for first in range(0, len(numbers), CHUNK):
                some = slice(first, first + CHUNK)
                yield from self._some(forecaster, series, numbers[some], windows[some], steps, made)
        self._metrics.candles.inc(sum(len(history.candles) for history in series))
        self._metrics.forecasts.inc(len(series))
        return [made[number] for number in range(len(series))]

    def _some(
        self,
        forecaster: Forecaster,
        series: Sequence[Series],
        numbers: Sequence[int],
        windows: Sequence[tuple[Array, Times]],
        steps: tuple[int, ...] | None,
        made: dict[int, orjson.Fragment],
    ) -> Work[None]:
        """Put the forecasts of some histories of one model into ``made``."""
        wanted, spec = steps or forecaster.horizons, forecaster.context
        contexts = [self._context(forecaster, series[number]) for number in numbers]
        trained = self.predict(
            np.stack([candles for candles, _ in windows]),
            np.stack([times for _, times in windows]),
            forecaster,
            stack_contexts(spec, contexts) if spec else None,
        )
        yield
        curve = Curve(forecaster.horizons, forecaster.quantile_levels)
        closes = np.array([series[number].candles[-1, 3] for number in numbers])
        raw = curve.at(trained, wanted)
        raw_prices = to_prices(closes, raw)
        _require_finite(raw_prices, raw, numbers)
        yield
        for row, number in enumerate(numbers):
            history, learned = series[number], None
            if history.symbol and history.interval:
                learned = self._learned_of(history.symbol, history.interval)
            if learned is None:
                full = _full(forecaster, history, wanted, raw_prices[row], _row(raw, row))
            else:
                moved = corrected(forecaster, learned, trained.log_return[row])
                calibrated = curve.at(
                    Prediction(moved[None], trained.volatility[row : row + 1]), wanted
                )
                prices = to_prices(closes[row : row + 1], calibrated)
                _require_finite(prices, calibrated, [number])
                full = _full(forecaster, history, wanted, prices[0], calibrated, raw_prices[row])
                full["calibration"] = learned.about(
                    forecaster, f"{history.symbol} {history.interval}"
                )
            context = contexts[row]
            full["context_as_of_ms"] = context.as_of_ms if context else None
            made[number] = orjson.Fragment(orjson.dumps(full))
            yield

    def _context(self, forecaster: Forecaster, series: Series) -> ContextWindow | None:
        """Return the context of a history, as of its close; None where that is not known."""
        if forecaster.context is None or series.as_of_ms is None:
            return None
        return self._context_of(forecaster.context, series.as_of_ms)

    def infer(
        self,
        forecaster: Forecaster,
        windows: Array,
        open_ms: Times,
        context: Closes | None = None,
    ) -> Work[Prediction]:
        """Return the prediction of full windows, (B, T, 5), by as many model calls as are good."""
        parts: list[Prediction] = []
        for first in range(0, len(windows), CHUNK):
            some = slice(first, first + CHUNK)
            around = None if context is None else context[some]
            parts.append(self.predict(windows[some], open_ms[some], forecaster, around))
            yield
        return Prediction(
            np.concatenate([part.log_return for part in parts]),
            np.concatenate([part.volatility for part in parts]),
        )

    def predict(
        self,
        windows: Array,
        open_ms: Times,
        forecaster: Forecaster,
        context: Closes | None = None,
    ) -> Prediction:
        """Return the prediction of full windows, (B, T, 5), by one call of a model."""
        started = time.perf_counter()
        prediction = forecaster.predict(windows, open_ms, context)
        self._metrics.seconds.observe(time.perf_counter() - started)
        self._metrics.batch_size.observe(len(windows))
        return prediction

    async def _share(self, forecaster: Forecaster, window: Array, open_ms: Times) -> Prediction:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Prediction] = loop.create_future()
        self._waiting.append(_Waiting(forecaster, window, open_ms, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._run)
        return await future

    def _run(self) -> None:
        """Predict for all that wait for the same model, and wake them."""
        first = self._waiting[0]
        forecaster = first.forecaster
        some = list(takewhile(first.shares_with, self._waiting))
        some = some[:MAX_SHARED]
        del self._waiting[: len(some)]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        try:
            prediction = self.predict(
                np.stack([waiting.window for waiting in some]),
                np.stack([waiting.open_ms for waiting in some]),
                forecaster,
            )
        except Exception as error:  # noqa: BLE001 -- whatever it is, each request must have it
            for waiting in some:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        for row, waiting in enumerate(some):
            if not waiting.future.done():  # a client that has left has cancelled its own
                waiting.future.set_result(_row(prediction, row))


def _length(forecaster: Forecaster, interval: str, held: int) -> int:
    """Return the candles of the longest window that a history fills; at least what is needed."""
    return length_of(forecaster.lengths(interval), held) or forecaster.window_length


def _window(number: int, series: Series, length: int) -> tuple[Array, Times]:
    try:
        candles = newest(series.candles, length)
    except ValueError as error:
        raise UnusableHistory("too_short", str(error), number) from None
    if series.open_ms is None:
        return candles, even_times(1, length, series.interval)[0]
    return candles, series.open_ms[-length:]


def _full(
    forecaster: Forecaster,
    series: Series,
    steps: Sequence[int],
    prices: Array,
    prediction: Prediction,
    raw: Array | None = None,
) -> dict[str, Any]:
    """Return a forecast as ``FullForecast``, with no word of its calibration.

    Prices are (N, Q), the prediction is of one window; ``raw`` are the model's own prices where
    these are calibrated.
    """
    weekends = _trades_weekends(series)
    dues = [_due_ms(series, step, trades_weekends=weekends) for step in steps]
    writer = _writer(tuple(steps), forecaster.quantile_levels)
    own = None if raw is None else raw.tolist()
    [shortfall] = writer.shortfalls(series.candles[-1:, 3], prediction.log_return)
    spreads = prediction.volatility[0].tolist()
    horizons = writer.rows(prices.tolist(), spreads, dues, own, shortfall)
    levels = forecaster.quantile_levels
    moves = np.log(np.array(series.above) / series.candles[-1, 3])
    for horizon, log_return in zip(horizons, prediction.log_return[0].tolist(), strict=True):
        horizon["log_return"] = dict(zip(horizon["quantiles"], log_return, strict=True))
        horizon["interpolated"] = horizon["step"] not in forecaster.horizons
        if series.above:
            below = np.interp(moves, list(horizon["log_return"].values()), levels)
            horizon["above"] = [
                {"price": price, "probability": round(1 - share, 4)}
                for price, share in zip(series.above, below.tolist(), strict=True)
            ]
    return {
        "symbol": series.symbol,
        "interval": series.interval,
        "as_of_ms": series.as_of_ms,
        "last_close": float(series.candles[-1, 3]),
        "model_version": forecaster.model_version,
        "model_interval": nearest_trained(
            forecaster.intervals, series.interval or DEFAULT_INTERVAL
        ),
        "context_as_of_ms": None,
        "calibration": None,
        "horizons": horizons,
    }


@lru_cache(maxsize=64)
def _writer(steps: tuple[int, ...], levels: tuple[float, ...]) -> HorizonWriter:
    return HorizonWriter(steps, levels)


def _row(prediction: Prediction, row: int) -> Prediction:
    return Prediction(prediction.log_return[row : row + 1], prediction.volatility[row : row + 1])


def _require_finite(prices: Array, prediction: Prediction, numbers: Sequence[int]) -> None:
    # a sum is not finite if a part is not
    sums = prices.sum(axis=(1, 2)) + prediction.volatility.sum(axis=1)
    if not np.isfinite(sums).all():
        number = numbers[int(np.argmin(np.isfinite(sums)))]
        message = "expected prices that a finite forecast follows from"
        raise UnusableHistory("not_finite", message, number)


def _trades_weekends(series: Series) -> bool:
    if series.open_ms is None:
        return False
    return any(open_ms // DAY_MS % 7 in WEEKEND for open_ms in series.open_ms[-NEWEST:].tolist())


def _due_ms(series: Series, step: int, *, trades_weekends: bool) -> int | None:
    if series.as_of_ms is None or series.interval is None:
        return None
    weekends = series.interval == "1d" and trades_weekends
    return due_ms(series.as_of_ms, series.interval, step, trades_weekends=weekends)
