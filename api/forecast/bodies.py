"""Requests for forecasts on demand and their answers, as JSON."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

from pydantic import ConfigDict, FailFast, Field

from shared.candles import INTERVALS_MS, Millis, Ohlcv, Price, Symbol
from shared.messages import Message

MAX_HISTORY: Final = 5_000
"""Most candles in one history; the model uses the newest alone."""

MAX_HISTORIES: Final = 1_000
"""Most histories in one request."""

MAX_ABOVE: Final = 16
"""Most prices of a history whose odds are wanted."""

MAX_HORIZONS: Final = 64
"""Most steps in one request."""


class Body(Message):
    """A part of a request, in which a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid")


class HistoryCandle(Ohlcv):
    """One candle of a history; a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid")


class TimedCandle(HistoryCandle):
    """One candle of a history, with its times if the client has them."""

    open_ms: Millis | None = Field(None, description="UTC; on all candles of a history or on none")
    close_ms: Millis | None = Field(None, description="UTC; by default one interval after open_ms")


Candles = Annotated[
    tuple[TimedCandle, ...],
    FailFast(),
    Field(max_length=MAX_HISTORY, json_schema_extra={"minItems": 1}),
]

Item = TypeVar("Item")

Histories = Annotated[
    tuple[Item, ...],
    FailFast(),
    Field(max_length=MAX_HISTORIES, json_schema_extra={"minItems": 1}),
]

Steps = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=MAX_HORIZONS)
]


class PredictRequest(Body):
    """Closed candles of one symbol and interval, oldest first.

    Reading stops at the first candle that is wrong, so that a body full of errors costs little.
    """

    history: Annotated[
        tuple[HistoryCandle, ...],
        FailFast(),
        Field(
            max_length=MAX_HISTORY,
            description="candles, oldest first; of more than the model needs the newest are used",
        ),
    ]


# other spellings, such as 1D, are understood too
IntervalName = Annotated[str, Field(json_schema_extra={"enum": list(INTERVALS_MS)})]


class HistoryFields(Body):
    """Fields of a history beside its candles."""

    symbol: Symbol | None = Field(None, description="given back in the answer")
    interval: IntervalName | None = Field(
        None, description="of the candles, as in 1d; needed for times"
    )
    above: tuple[Price, ...] = Field(
        (), max_length=MAX_ABOVE, description="prices that the close may lie above: how likely?"
    )


class CandleHistory(HistoryFields):
    """Closed candles of one symbol and interval, oldest first, or both named alone."""

    candles: Candles = Field(
        default_factory=tuple,
        description="oldest first; by default the stream's newest of symbol and interval",
    )


class ForecastsRequest(Body):
    """One or many histories."""

    histories: Histories[CandleHistory]
    horizons: Steps | None = Field(
        None,
        description="steps wanted, up to the model's longest; by default the trained",
    )


class HorizonAnswer(Message):
    """The forecast of one candle ahead."""

    step: int = Field(description="candles ahead, from 1")
    predicted_close: float = Field(description="median, in the currency of the history")
    quantiles: dict[str, float] = Field(description="level to price, rising")
    volatility: float = Field(description="standard deviation of the log return, per candle")


class PredictAnswer(Message):
    """The forecast ahead of a history."""

    predicted_close: float = Field(description="median of the first horizon")
    last_close: float = Field(description="close of the history's last candle, as given")
    latency_ms: float = Field(description="from the body received to the answer ready")
    model_version: str
    horizons: tuple[HorizonAnswer, ...] = Field(description="by step, rising")


class OddsAnswer(Message):
    """How likely the close lies above a price."""

    price: float
    probability: float = Field(
        description="between the quantiles, linear in the log return; beyond the outermost theirs"
    )


class FullHorizon(HorizonAnswer):
    """The forecast of one candle ahead, in prices and in log returns."""

    due_ms: int | None = Field(description="nominal close of that candle, UTC, if times were given")
    log_return: dict[str, float] = Field(description="level to log return from the last close")
    interpolated: bool = Field(description="whether the step lies between trained ones")
    raw_quantiles: dict[str, float] | None = Field(
        None, description="the model's own, level to price, where quantiles are calibrated"
    )
    above: tuple[OddsAnswer, ...] = Field((), description="of the prices asked for")
    expected_shortfall: dict[str, float] | None = Field(
        description="level to price at the mean log return below that quantile; null of a model "
        "without the levels 0.01 and 0.025"
    )


class CalibrationAnswer(Message):
    """What the stream has learned of a series, and a forecast was corrected by."""

    series: str = Field(description="symbol and interval, as in AAPL 1d")
    candles: int = Field(description="candles learned from")
    until_ms: int = Field(description="close of the newest of them, UTC")


class FullForecast(Message):
    """The forecast ahead of one history."""

    symbol: str | None
    interval: str | None
    as_of_ms: int | None = Field(description="close of the last candle, UTC, if times were given")
    last_close: float
    model_version: str
    model_interval: str | None = Field(
        description="interval of training that serves for this one; null where it is trained"
    )
    context_as_of_ms: int | None = Field(
        description="close of the context used, UTC, the oldest of its symbols'; null without any"
    )
    calibration: CalibrationAnswer | None = Field(
        description="what the quantiles were corrected by; null where they are the model's own"
    )
    horizons: tuple[FullHorizon, ...] = Field(description="by step, rising")


class DataSpanAnswer(Message):
    """The candles that a model was trained on."""

    source: str
    symbols: tuple[str, ...]
    first_ms: int = Field(description="opening of the first candle, UTC")
    last_ms: int = Field(description="opening of the last candle that training saw, UTC")
    candles: int


class FeatureAnswer(Message):
    """One input of the network."""

    name: str
    description: str


class ContextAnswer(Message):
    """What a model reads beside a series's own candles."""

    symbols: tuple[str, ...]
    interval: str
    length: int = Field(description="newest closes of each symbol")


class ModelCard(Message):
    """The served model: training, features, metrics."""

    name: str
    model_version: str
    intervals: tuple[str, ...] = Field(description="of the candles that it was trained on")
    window_length: int = Field(description="candles that a history must hold at least")
    context: ContextAnswer | None = Field(description="closes of other symbols that it reads")
    features: tuple[FeatureAnswer, ...]
    horizons: tuple[int, ...] = Field(description="trained steps, in candles ahead")
    quantile_levels: tuple[float, ...]
    data: DataSpanAnswer | None = Field(description="training span; of a baseline none")
    metrics: dict[str, float] = Field(description="against baselines, as the trainer measured")
    age_ms: int | None = Field(description="since the last candle that training saw")


class ForecastsAnswer(Message):
    """The forecasts ahead of all histories, in their order."""

    latency_ms: float = Field(description="from the body received to the answer ready")
    model: ModelCard
    forecasts: tuple[FullForecast, ...]
