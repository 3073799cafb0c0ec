"""Forecaster: turns windows into distributions by one call of the model's graph, and into prices.

Worker, API and back-test all use ``distributions`` and ``messages`` or, for arrays,
``Forecaster.predict`` and ``to_prices``. Nothing else turns candles into forecasts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from time import perf_counter
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shared.bundle import CONTEXT, INPUTS, OUTPUTS, Bundle, BundleError
from shared.candles import INTERVALS_MS
from shared.context import Closes, ContextSpec, ContextWindow, stack_contexts, unknown
from shared.feature_drift import Reference
from shared.forecasts import (
    LOW_PRICE,
    MEDIAN,
    Forecast,
    Horizon,
    InvalidForecast,
    due_ms,
    forecast_id,
    level_name,
)
from shared.shortfall import LEVELS, has_shortfall, shortfalls
from shared.window import Window, stack

Floats = NDArray[np.floating[Any]]

CALL_CANDLES: Final = 128 * 144
"""Most candles in one model call; more outgrow the processor's cache and cost more each."""

TRIAL_CLOSE: Final = 1.2345678901234567e-17
TRIAL_MS: Final = 4_102_444_800_000  # 2100
"""Close and time of the trial forecasts at load."""

_DATA_FOLDER: Final = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's name for where tensors outside the graph's file lie: nowhere."""

NOWHERE: Final = "/dev/null/nowhere"

TOLERANCE: Final = 1e-5
"""Largest difference of a golden forecast between machines, in log return or volatility."""


@dataclass(frozen=True)
class Prediction:
    """Distributions of the log return ahead of B windows."""

    log_return: Floats  # (B, H, Q), from the last close, rising along Q
    volatility: Floats  # (B, H), per candle
    features: Floats | None = None  # (B, F), of the newest candle, where the model shows them


class Forecaster(Protocol):
    """Port of models: turns full windows into distributions.

    ``predict`` takes a batch of at least one window and has no effect but its answer. It gives a
    window the same numbers, bit for bit, whatever else is in the batch: repeats after a fault must
    be equal.
    """

    @property
    def model_version(self) -> str: ...
    @property
    def intervals(self) -> tuple[str, ...]:
        """Intervals of the candles that it was trained on, one at least."""
        ...

    @property
    def window_length(self) -> int:
        """Candles that a window must hold at least."""
        ...

    def lengths(self, interval: str) -> tuple[int, ...]:
        """Return the lengths that a window of an interval's candles may have, rising.

        A forecast is made of the newest candles, as many as the longest of these that is held:
        more of them say more. The first is ``window_length``.
        """
        ...

    @property
    def horizons(self) -> tuple[int, ...]:
        """Candles ahead, rising; H of them."""
        ...

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """Rising, with the median; Q of them."""
        ...

    @property
    def context(self) -> ContextSpec | None:
        """The closes of other symbols that it reads; None for a model of a series's own candles."""
        ...

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        """Return the distributions ahead of windows.

        Args:
            candles: open, high, low, close, volume, oldest first, (B, T, 5).
            open_ms: opening times, UTC epoch milliseconds, rising, (B, T).
            context: newest closes of the symbols of ``context``, NaN where unknown, (B, C, K); a
                model that reads none has no use for it, another takes None as all unknown.
        """
        ...


def length_of(lengths: Sequence[int], held: int) -> int:
    """Return the longest of rising lengths that ``held`` candles fill; 0 if they fill none."""
    at = bisect_right(lengths, held)
    return lengths[at - 1] if at else 0


@lru_cache(maxsize=1024)
def nearest_trained(trained: tuple[str, ...], interval: str) -> str | None:
    """Return the interval of training that serves another one; None where one as long is trained.

    It is the nearest by the ratio of the lengths, of two alike the shorter.
    """
    if any(INTERVALS_MS[name] == INTERVALS_MS[interval] for name in trained):  # 60m is 1h
        return None
    wanted = math.log(INTERVALS_MS[interval])
    rising = sorted(trained, key=INTERVALS_MS.__getitem__)
    return min(rising, key=lambda name: abs(math.log(INTERVALS_MS[name]) - wanted))


def lengths_of(model: Forecaster) -> frozenset[int]:
    """Return the lengths that the model's windows may have, of any interval."""
    return frozenset(length for name in INTERVALS_MS for length in model.lengths(name))


def longest(models: Iterable[Forecaster], intervals: Iterable[str] = tuple(INTERVALS_MS)) -> int:
    """Return the candles of the longest window that any of the models reads, of any interval."""
    return max(model.lengths(name)[-1] for name in intervals for model in models)


class Models(Protocol):
    """The models that a process serves."""

    def all(self) -> Iterable[Forecaster]:
        """Return every model that may serve some series."""
        ...

    def of(self, interval: str, symbol: str = "", held: int | None = None) -> Forecaster:
        """Return the model of a series; every series has one.

        Args:
            interval: of its candles.
            symbol: empty for any.
            held: candles in its window; where the best model needs more, the best of those that
                do not is returned, or the one that needs least. By default any number.
        """
        ...


@dataclass(frozen=True)
class ModelSet:
    """One model for all intervals, and others for some; implements the port ``Models``."""

    default: Forecaster
    by_interval: Mapping[str, Forecaster] = field(default_factory=dict)

    def all(self) -> Iterable[Forecaster]:
        return (self.default, *self.by_interval.values())

    def of(self, interval: str, symbol: str = "", held: int | None = None) -> Forecaster:
        del symbol, held
        return self.by_interval.get(interval, self.default)


ContextOf = Callable[[ContextSpec, int], ContextWindow | None]
"""Returns what is known of a model's context as of a time, UTC ms; None for nothing."""


def without_context(spec: ContextSpec, as_of_ms: int) -> None:
    """Return nothing: no context is known; a ``ContextOf``."""
    del spec, as_of_ms


Watch = Callable[[float], object]
"""Function that takes the duration of a model call, in seconds."""


def session_of(graph: bytes) -> ort.InferenceSession:
    """Return a graph to run on one thread; ONNX Runtime raises what it refuses one with."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(_DATA_FOLDER, NOWHERE)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def with_output(graph: bytes, tensor: str) -> bytes:
    """Return a graph that gives a tensor too, of 32-bit numbers, which it computes anyhow.

    Two messages of Protocol Buffers, one after the other, are both merged, with repeated fields
    joined (protobuf.dev, "Encoding"): what follows the graph is a ``ModelProto`` with one output of
    this name. Serving so needs no library that writes graphs, and no second graph.
    """
    kind = _field(1, b"\x08\x01")  # TypeProto.tensor_type, its elem_type FLOAT
    output = _field(1, tensor.encode()) + _field(2, kind)  # ValueInfoProto.name, .type
    return graph + _field(7, _field(12, output))  # ModelProto.graph, GraphProto.output


def _field(number: int, content: bytes) -> bytes:
    """Return a field of bytes of a Protocol Buffers message, of less than 128."""
    return bytes([number << 3 | 2, len(content)]) + content


def references_of(models: Models) -> dict[str, Reference]:
    """Return the models that know the features of their training, by version."""
    served = (model for model in models.all() if isinstance(model, OnnxForecaster))
    return {model.model_version: model.reference for model in served if model.reference}


def contexts_of(models: Models) -> frozenset[ContextSpec]:
    """Return the contexts that some models read."""
    return frozenset(model.context for model in models.all() if model.context is not None)


class OnnxForecaster:
    """A bundle's graph, run by ONNX Runtime on one thread."""

    def __init__(self, bundle: Bundle, watch: Watch = float) -> None:
        """Load the graph and repeat the bundle's golden forecasts.

        Args:
            bundle: verified.
            watch: called after each model call.

        Raises:
            BundleError: when ONNX Runtime refuses the graph, or it gives other numbers.
        """
        self._watch = watch
        self._golden = bundle.golden
        self.config = config = bundle.config
        self.model_version = config.model_version
        self.intervals = config.intervals
        self.window_length = config.window_length
        self._lengths = config.window_lengths
        self.horizons = config.horizons
        self.quantile_levels = config.quantile_levels
        self.reference = bundle.reference
        self.context = config.context
        try:
            self._outputs: tuple[str, ...] = OUTPUTS
            graph = bundle.onnx
            if self.reference:
                self._outputs = (*OUTPUTS, self.reference.tensor)
                graph = with_output(graph, self.reference.tensor)
            self._session = session_of(graph)
            self._repeat_golden(bundle)
            self._try_messages(bundle)
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions share no public class
            raise BundleError(f"{bundle.path}: ONNX Runtime refuses the graph: {error}") from error

    def lengths(self, interval: str) -> tuple[int, ...]:
        return self._lengths.get(interval, (self.window_length,))

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        started_s = perf_counter()
        inputs: dict[str, NDArray[Any]] = {INPUTS[0]: candles, INPUTS[1]: open_ms}
        if self.context:
            known = unknown(self.context, len(candles)) if context is None else context
            inputs[CONTEXT] = known
        outputs = self._session.run(self._outputs, inputs)
        self._watch(perf_counter() - started_s)
        return Prediction(*outputs)

    def call_once(self) -> None:
        """Call the graph with one window: the first call of a size takes longer."""
        candles, open_ms, context = self._golden.inputs
        self.predict(candles[:1], open_ms[:1], None if context is None else context[:1])

    def _repeat_golden(self, bundle: Bundle) -> None:
        """Raise ``BundleError`` unless the graph repeats the golden forecasts."""
        golden = bundle.golden
        repeated = self.predict(*golden.inputs)
        sizes = (len(self.horizons), len(self.quantile_levels))
        for name, got, expected, shape in (
            ("log_return", repeated.log_return, golden.log_return, sizes),
            ("volatility", repeated.volatility, golden.volatility, sizes[:1]),
        ):
            if got.shape != (len(golden.candles), *shape) or expected.shape != got.shape:
                raise BundleError(
                    f"{bundle.path}: {name}: expected the shape {('B', *shape)}, "
                    f"got {got.shape} for {len(golden.candles)} golden windows"
                )
            apart = float(np.abs(got - expected).max())
            if not apart <= TOLERANCE:
                raise BundleError(
                    f"{bundle.path}: {name}: expected the golden forecasts within {TOLERANCE:g}, "
                    f"got {apart:g} apart"
                )
        features, shape = repeated.features, (len(golden.open_ms), len(self.config.features))
        if features is not None and (features.shape != shape or not np.isfinite(features).all()):
            raise BundleError(
                f"{bundle.path}: features: expected finite numbers of the shape {shape} for the "
                f"golden windows, got the shape {features.shape} or others"
            )

    def _try_messages(self, bundle: Bundle) -> None:
        """Raise ``BundleError`` unless the golden forecasts are messages that readers take.

        They are made at prices with the longest numbers, of the longest symbol.
        """
        golden = bundle.golden
        prediction = self.predict(*golden.inputs)
        spec = self.context
        context = ContextWindow(unknown(spec, 1)[0], TRIAL_MS) if spec else None
        due = Due("X" * 32, "1mo", TRIAL_MS, TRIAL_CLOSE, Window(2), context)
        for log_return, volatility in zip(
            prediction.log_return, prediction.volatility, strict=True
        ):
            raw = Distribution(self, log_return, volatility)
            [message] = messages([Calibrated(due, raw, log_return, "0" * 32)], TRIAL_MS)
            try:
                Forecast.decode(message.encode())
            except InvalidForecast as error:
                raise BundleError(
                    f"{bundle.path}: its forecasts are not messages: {error}. Fewer horizons or "
                    "levels make them shorter"
                ) from None


@dataclass(frozen=True)
class Due:
    """A window to forecast from, and the identity of its forecast."""

    symbol: str
    interval: str
    as_of_ms: int  # close of the window's last candle, UTC
    last_close: float  # of that candle, in 64 bits; the window holds 32
    window: Window  # exactly as many candles as one of the lengths of the interval's model
    context: ContextWindow | None = None  # as of ``as_of_ms``, where the series's model reads one

    @property
    def content(self) -> bytes:
        """What a forecast's id takes in of what the model reads: the window and its context.

        A correction of either changes it; without a context it is the window's records alone.
        """
        records = self.window.records
        return records if self.context is None else records + self.context.content


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a model says of one due window."""

    forecaster: Forecaster
    log_return: Floats  # (H, Q), from the last close, rising along Q
    volatility: Floats  # (H,), per candle
    features: Floats | None = None  # (F,), where the model shows them

    def bins(self, interval: str) -> str | None:
        """Return the bins of its model's reference that its features lie in, a digit each.

        None where the model has no reference of the interval.
        """
        model = self.forecaster
        if self.features is None or not isinstance(model, OnnxForecaster) or not model.reference:
            return None
        reference = model.reference.of(interval)
        return None if reference is None else reference.bins_of(self.features)


def distributions(models: Models, due: Sequence[Due]) -> list[Distribution]:
    """Return what the models say of each due window, in order, with as few calls as pay.

    Raises:
        ValueError: when a window is of no length that its model takes.
    """
    answers: dict[int, Distribution] = {}
    rows_of: dict[tuple[int, int], tuple[Forecaster, list[int]]] = {}
    for row, owed in enumerate(due):
        forecaster = models.of(owed.interval, owed.symbol, len(owed.window))
        key = id(forecaster), len(owed.window)
        rows_of.setdefault(key, (forecaster, []))[1].append(row)
    for (_, length), (forecaster, rows) in rows_of.items():
        count = max(1, CALL_CANDLES // max(length, 1))
        for start in range(0, len(rows), count):
            _one_call(forecaster, rows[start : start + count], due, answers)
    return [answers[row] for row in range(len(due))]


def _one_call(
    forecaster: Forecaster, rows: list[int], due: Sequence[Due], answers: dict[int, Distribution]
) -> None:
    for row in rows:
        owed = due[row]
        lengths = forecaster.lengths(owed.interval)
        if len(owed.window) not in lengths:
            raise ValueError(
                f"{owed.symbol} {owed.interval}: the model needs {' or '.join(map(str, lengths))} "
                f"candles, the window holds {len(owed.window)}"
            )
    spec = forecaster.context
    context = stack_contexts(spec, [due[row].context for row in rows]) if spec else None
    prediction = forecaster.predict(*stack([due[row].window for row in rows]), context)
    features = prediction.features
    for at, row in enumerate(rows):
        answers[row] = Distribution(
            forecaster, prediction.log_return[at], prediction.volatility[at],
            None if features is None else features[at],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A due window's distribution with its calibration, and the identity of both."""

    due: Due
    raw: Distribution
    log_return: Floats  # (H, Q), calibrated
    id: str
    feature_bins: str | None = None  # of its window, where these are counted


def messages(calibrated: Sequence[Calibrated], now_ms: int) -> list[Forecast]:
    """Return the forecasts to publish, in order."""
    made: dict[int, Forecast] = {}
    rows_of: dict[int, list[int]] = {}
    for row, forecast in enumerate(calibrated):
        rows_of.setdefault(id(forecast.raw.forecaster), []).append(row)
    for rows in rows_of.values():
        group = [calibrated[row] for row in rows]
        forecaster = group[0].raw.forecaster
        writer = HorizonWriter(forecaster.horizons, forecaster.quantile_levels)
        last_close = np.array([forecast.due.last_close for forecast in group])
        raw = prices_of(last_close, np.stack([forecast.raw.log_return for forecast in group]))
        calibrated_return = np.stack([forecast.log_return for forecast in group])
        prices = prices_of(last_close, calibrated_return)
        volatility = np.stack([forecast.raw.volatility for forecast in group])
        shortfall = writer.shortfalls(last_close, calibrated_return)
        lists = prices.tolist(), volatility.tolist(), raw.tolist(), shortfall
        for row, forecast, *numbers in zip(rows, group, *lists, strict=True):
            made[row] = _message(forecast, writer, now_ms, *numbers)
    return [made[row] for row in range(len(calibrated))]


def forecast(models: Models, due: Sequence[Due], now_ms: int) -> list[Forecast]:
    """Return the forecast of each due window, in order, without a calibration.

    Raises:
        ValueError: when a window does not hold exactly the candles that its model needs.
    """
    plain = [
        Calibrated(
            owed,
            raw,
            raw.log_return.astype(np.float64),
            forecast_id(
                owed.symbol, owed.interval, owed.as_of_ms, owed.content,
                raw.forecaster.model_version,
            ),
        )
        for owed, raw in zip(due, distributions(models, due), strict=True)
    ]  # fmt: skip
    return messages(plain, now_ms)


def _message(
    calibrated: Calibrated,
    writer: HorizonWriter,
    now_ms: int,
    prices: list[list[float]],
    volatility: list[float],
    raw: list[list[float]],
    shortfall: list[list[float]] | None,
) -> Forecast:
    due = calibrated.due
    symbol, interval, as_of_ms = due.symbol, due.interval, due.as_of_ms
    weekends = interval == "1d" and due.window.trades_weekends
    dues = [due_ms(as_of_ms, interval, step, trades_weekends=weekends) for step in writer.steps]
    rows = writer.rows(prices, volatility, dues, raw, shortfall)
    return Forecast.trusted(
        id=calibrated.id,
        symbol=symbol,
        interval=interval,
        as_of_ms=as_of_ms,
        last_close=due.last_close,
        model_version=calibrated.raw.forecaster.model_version,
        model_interval=nearest_trained(calibrated.raw.forecaster.intervals, interval),
        made_at_ms=now_ms,
        context_as_of_ms=due.context.as_of_ms if due.context else None,
        feature_bins=calibrated.feature_bins,
        horizons=tuple([Horizon.trusted(**row) for row in rows]),
    )


def to_prices(last_close: NDArray[np.float64], prediction: Prediction) -> NDArray[np.float64]:
    """Return the quantiles as prices, (B, H, Q), in the currency of ``last_close`` (B,)."""
    return prices_of(last_close, prediction.log_return)


def prices_of(last_close: NDArray[np.float64], log_return: Floats) -> NDArray[np.float64]:
    """Return log returns, (B, H, Q), as prices in the currency of ``last_close`` (B,)."""
    return last_close[:, None, None] * np.exp(log_return.astype(np.float64))


_WORST: Final = tuple(level_name(level) for level in LEVELS)


class HorizonWriter:
    """Writes one window's numbers as the horizons of a message, for topic and API alike."""

    def __init__(self, steps: Sequence[int], levels: Sequence[float]) -> None:
        self.steps = tuple(steps)
        self._numbers = tuple(levels)
        self._levels = tuple(level_name(level) for level in levels)
        self._median = list(levels).index(MEDIAN)

    def shortfalls(
        self, last_close: NDArray[np.float64], log_return: Floats
    ) -> list[list[list[float]] | None]:
        """Return the expected shortfalls as prices, (B, H, 2); none where the levels give none.

        Args:
            last_close: (B,).
            log_return: (B, H, Q).
        """
        if not has_shortfall(self._numbers):
            return [None] * len(last_close)
        prices = prices_of(last_close, shortfalls(self._numbers, log_return))
        found: list[list[list[float]] | None] = np.maximum(prices, LOW_PRICE).tolist()
        return found

    def rows(
        self,
        prices: list[list[float]],
        volatility: list[float],
        due: Sequence[int | None] | None = None,
        raw: list[list[float]] | None = None,
        shortfall: list[list[float]] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the fields of each horizon, as ``shared.forecasts.Horizon`` has them.

        Args:
            prices: (H, Q), quote currency.
            volatility: (H,), per candle.
            due: nominal closes, (H,), UTC ms; without them the rows have neither
                ``due_ms`` nor ``expected_shortfall``.
            raw: the model's own prices, (H, Q), where ``prices`` are calibrated.
            shortfall: expected shortfalls, (H, 2), quote currency.
        """
        levels, median = self._levels, self._median
        rows: list[dict[str, Any]] = [
            {
                "step": step,
                "predicted_close": row[median],
                "quantiles": dict(zip(levels, row, strict=True)),
                "volatility": spread,
            }
            for step, row, spread in zip(self.steps, prices, volatility, strict=True)
        ]
        if due is not None:
            worst: Iterable[list[float] | None] = shortfall or repeat(None)
            for row, due_at, some in zip(rows, due, worst, strict=False):
                row["due_ms"] = due_at
                row["expected_shortfall"] = some and dict(zip(_WORST, some, strict=True))
        if raw is not None:
            for row, own in zip(rows, raw, strict=True):
                row["raw_quantiles"] = dict(zip(levels, own, strict=True))
        return rows
