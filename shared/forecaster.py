"""Windows to forecasts: features, one model call, back to prices.

The worker, the API and the back-test all come through ``forecast`` or, for arrays without
times, ``Forecaster.predict``; nothing else turns candles into numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shared import features
from shared.bundle import Bundle, BundleConfig, BundleError
from shared.forecasts import Forecast, Horizon, due_ms, forecast_id
from shared.window import Window, stack

MEDIAN: Final = 0.5
INPUT: Final = "features"
OUTPUTS: Final = ("log_return", "volatility")
"""Of a bundle's graph."""

CALL_WINDOWS: Final = 128
"""Windows in one model call at most: more of them outgrow the processor's cache, and cost more."""


@dataclass(frozen=True)
class Prediction:
    """Distributions of the log return ahead of B windows."""

    log_return: NDArray[np.float64]  # (B, H, Q), from the last close, rising along Q
    volatility: NDArray[np.float64]  # (B, H), per candle


class Forecaster(Protocol):
    """Anything that turns full windows into distributions.

    ``predict`` is pure, accepts any batch of at least one window, and gives a window the same
    numbers, bit for bit, whatever else is in the batch: repeats after a fault must be equal.
    """

    @property
    def model_version(self) -> str: ...
    @property
    def window_length(self) -> int:
        """Candles that a window must hold, T."""
        ...

    @property
    def horizons(self) -> tuple[int, ...]:
        """Candles ahead, rising; H of them."""
        ...

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """Rising, with the median; Q of them."""
        ...

    def predict(self, candles: NDArray[np.float64]) -> Prediction:
        """Return the distributions ahead of ``candles``, shape (B, T, 5) as in ``Window.ohlcv``."""
        ...


Watch = Callable[[float, float], None]
"""Takes the seconds that a call spent in the features and in the graph."""


def unwatched(features_s: float, graph_s: float) -> None:
    """Take the times of a call and do nothing with them."""


class LstmForecaster:
    """A bundle's LSTM, run by ONNX Runtime on one thread."""

    def __init__(self, bundle: Bundle, watch: Watch = unwatched) -> None:
        """Load the graph and check it against the config; raises ``BundleError``."""
        self._watch = watch
        self._config = bundle.config
        self._features = self._config.features
        self._length = self._config.sequence_length
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                bundle.onnx, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public class
            raise BundleError(f"{bundle.path}: ONNX Runtime refuses the graph: {error}") from error
        self._alone = _Alone(self._session, self._config)
        needed = features.window_length(self._features, self._length)
        if needed != self._config.window_length:
            raise BundleError(
                f"{bundle.path}: the features need {needed} candles, "
                f"the config says {self._config.window_length}"
            )

    @property
    def model_version(self) -> str:
        return self._config.model_version

    @property
    def window_length(self) -> int:
        return self._config.window_length

    @property
    def horizons(self) -> tuple[int, ...]:
        return self._config.horizons

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        return self._config.quantile_levels

    def predict(self, candles: NDArray[np.float64]) -> Prediction:
        if len(candles) == 1:
            return self._alone.predict(candles, self._watch)
        started_s = perf_counter()
        inputs = features.compute(candles, self._features, self._length)  # (B, L, F)
        computed_s = perf_counter()
        log_return, volatility = self._session.run(OUTPUTS, {INPUT: inputs})
        self._watch(computed_s - started_s, perf_counter() - computed_s)
        return Prediction(log_return.astype(np.float64), volatility.astype(np.float64))


class _Alone(threading.local):
    """The same for one window: a thread's numbers have places that the graph is bound to once.

    That is an eighth of the time of a window alone, and nothing of many at once.
    """

    def __init__(self, session: ort.InferenceSession, config: BundleConfig) -> None:
        self._session = session
        self._config = config
        steps, horizons = config.sequence_length, len(config.horizons)
        self._inputs = np.empty((1, steps, len(config.features)), np.float32)
        self._log_return = np.empty((1, horizons, len(config.quantile_levels)), np.float32)
        self._volatility = np.empty((1, horizons), np.float32)
        self._binding = session.io_binding()
        bind_input, bind_output = self._binding.bind_input, self._binding.bind_output
        for bind, name, place in (
            (bind_input, INPUT, self._inputs),
            (bind_output, OUTPUTS[0], self._log_return),
            (bind_output, OUTPUTS[1], self._volatility),
        ):
            bind(name, "cpu", 0, np.float32, place.shape, place.ctypes.data)

    def predict(self, candles: NDArray[np.float64], watch: Watch) -> Prediction:
        """Return the distributions ahead of one window, (1, T, 5)."""
        config = self._config
        started_s = perf_counter()
        features.compute(candles, config.features, config.sequence_length, self._inputs)
        computed_s = perf_counter()
        self._session.run_with_iobinding(self._binding)
        watch(computed_s - started_s, perf_counter() - computed_s)
        return Prediction(self._log_return.astype(np.float64), self._volatility.astype(np.float64))


class PersistenceForecaster:
    """The baseline: no change expected, the spread of the window's own past moves around it.

    Quantiles are the empirical ones of the window's overlapping h-candle log returns, shifted
    to a median of 0; the volatility is the root of the window's mean range variance.
    """

    model_version: str = "persistence"

    def __init__(
        self,
        window_length: int = 60,
        horizons: tuple[int, ...] = (1, 5, 10),
        quantile_levels: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95),
    ) -> None:
        self.window_length = window_length
        self.horizons = horizons
        self.quantile_levels = quantile_levels

    def predict(self, candles: NDArray[np.float64]) -> Prediction:
        log_close = np.log(candles[:, -self.window_length :, 3])  # (B, T)
        rows = []
        for step in self.horizons:
            moves = log_close[:, step:] - log_close[:, :-step]  # (B, T - step)
            at = np.quantile(moves, self.quantile_levels, axis=1)  # (Q, B)
            rows.append((at - np.median(moves, axis=1)).T)  # (B, Q)
        variance = features.range_variance(candles[:, -self.window_length :]).mean(axis=1)  # (B,)
        volatility = np.repeat(np.sqrt(variance)[:, None], len(self.horizons), axis=1)
        return Prediction(np.stack(rows, axis=1), volatility)


@dataclass(frozen=True)
class Due:
    """A full window whose forecast is owed, and what identifies it."""

    symbol: str
    interval: str
    as_of_ms: int  # close of the window's last candle, UTC
    last_close: float  # of that candle, in 64 bits; the window holds 32
    window: Window


def forecast(forecaster: Forecaster, due: list[Due], now_ms: int) -> list[Forecast]:
    """Return the forecast of each due window, in order, by as few model calls as are good.

    Raises:
        ValueError: when a window does not hold exactly the candles that the model needs.
    """
    for one in due:
        if len(one.window) != forecaster.window_length:
            raise ValueError(
                f"{one.symbol} {one.interval}: the model needs {forecaster.window_length} "
                f"candles, the window holds {len(one.window)}"
            )
    made: list[Forecast] = []
    for start in range(0, len(due), CALL_WINDOWS):
        made += _forecast_some(forecaster, due[start : start + CALL_WINDOWS], now_ms)
    return made


def _forecast_some(forecaster: Forecaster, due: list[Due], now_ms: int) -> list[Forecast]:
    prediction = forecaster.predict(stack([one.window for one in due]))
    closes = np.array([one.last_close for one in due])  # (B,)
    prices = to_prices(closes, prediction).tolist()
    writer = _Writer(forecaster, now_ms)
    return [
        writer.message(*one)
        for one in zip(due, prices, prediction.volatility.tolist(), strict=True)
    ]


def to_prices(last_close: NDArray[np.float64], prediction: Prediction) -> NDArray[np.float64]:
    """Return the quantiles as prices, shape (B, H, Q), in the currency of ``last_close`` (B,)."""
    return last_close[:, None, None] * np.exp(prediction.log_return)


class _Writer:
    """Puts numbers into messages; made once a call, for asking the forecaster costs time."""

    def __init__(self, forecaster: Forecaster, now_ms: int) -> None:
        self._model_version = forecaster.model_version
        self._steps = forecaster.horizons
        self._levels = tuple(f"{level:g}" for level in forecaster.quantile_levels)
        self._median = forecaster.quantile_levels.index(MEDIAN)
        self._now_ms = now_ms

    def message(self, due: Due, prices: list[list[float]], volatility: list[float]) -> Forecast:
        """Return the forecast of prices (H, Q) and volatilities (H,)."""
        symbol, interval, as_of_ms = due.symbol, due.interval, due.as_of_ms
        weekends = interval == "1d" and due.window.trades_weekends
        levels, median = self._levels, self._median
        horizons = [
            Horizon.trusted(
                step=step,
                due_ms=due_ms(as_of_ms, interval, step, trades_weekends=weekends),
                predicted_close=row[median],
                quantiles=dict(zip(levels, row, strict=True)),
                volatility=spread,
            )
            for step, row, spread in zip(self._steps, prices, volatility, strict=True)
        ]
        version = self._model_version
        return Forecast.trusted(
            id=forecast_id(symbol, interval, as_of_ms, due.window.records, version),
            symbol=symbol,
            interval=interval,
            as_of_ms=as_of_ms,
            last_close=due.last_close,
            model_version=version,
            made_at_ms=self._now_ms,
            horizons=tuple(horizons),
        )
