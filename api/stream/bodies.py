"""Answers of the stream's routes: forecasts with their outcomes, scores, status."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from api.forecast.bodies import ModelCard
from shared.drift import Drift
from shared.feature_drift import LEAST, SAMPLED, THRESHOLD
from shared.forecasts import Forecast
from shared.messages import Message
from shared.scores import BETTER, BINS, EVEN, WORSE

MOST_FEATURES: Final = 5
"""Features that an interval's scores name, those that have drifted most."""


class SeriesBehind(Message):
    """A series with candles that no forecast follows yet."""

    symbol: str
    interval: str
    closes_ms: tuple[int, ...] = Field(description="closes of these candles, oldest first, UTC")


class LatestForecasts(Message):
    """The newest forecast of each symbol and interval, by symbol."""

    forecasts: tuple[Forecast, ...]
    behind: tuple[SeriesBehind, ...] = Field(
        description="those of them whose newest candles have no forecast yet"
    )


class StepOutcome(Message):
    """The outcome of one step of a forecast."""

    step: int
    close_ms: int
    close: float
    inside: dict[str, bool] = Field(description="nominal per cent of an interval: whether it held")


class PastForecast(Message):
    """A forecast of the stream with its outcomes so far."""

    forecast: Forecast
    outcomes: tuple[StepOutcome, ...]


class StreamCandle(Message):
    """A candle of the stream."""

    open_ms: int
    close_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class ForecastHistory(Message):
    """The last candles of a series and the forecasts made at them, oldest first."""

    symbol: str
    interval: str
    candles: tuple[StreamCandle, ...]
    forecasts: tuple[PastForecast, ...]


class IntervalDrift(Message):
    """How far the series of an interval are from what the model says, calibration left aside."""

    series: int = Field(description="series of which drift is known")
    drifting: int = Field(description="those whose outcomes no longer fall as the model says")
    shift: float = Field(
        description="mean shift of the newest 50 outcomes or so, in deviations forecast; 0 is right"
    )
    spread: float = Field(description="mean size of their moves over that forecast; 1 is right")


class StepScores(Message):
    """The newest scores of one step, taken together."""

    step: int
    count: int
    mean_absolute_error: float = Field(description="of log returns")
    persistence_mean_absolute_error: float = Field(description="of expecting no change")
    persistence_skill: float | None = Field(
        description="1 - error / persistence's; null if no price moved"
    )
    pinball: float = Field(description="of the calibrated quantiles")
    raw_pinball: float = Field(description="of the model's quantiles")
    baseline_pinball: float = Field(description="of a baseline that knows no model")
    baseline_skill: float | None = Field(
        description="1 - pinball / the baseline's; null if that is 0"
    )
    against_baseline: str = Field(
        description=f"what a one-sided test at 5 % says: {BETTER}, {EVEN} or {WORSE}"
    )
    coverage: dict[str, float] = Field(
        description="nominal per cent: share of outcomes inside, calibrated"
    )
    raw_coverage: dict[str, float] = Field(description="the same of the model's intervals")
    pit: tuple[float, ...] = Field(
        description=f"histogram of the probability integral transform: shares of {BINS} bins, "
        "all alike if the calibrated forecasts are right"
    )
    raw_pit: tuple[float, ...] = Field(description="the same of the model's distributions")


class SeriesScores(Message):
    """Live scores of one symbol and interval."""

    symbol: str
    interval: str
    drift: Drift | None = Field(description="as the newest score of the series says")
    steps: tuple[StepScores, ...]


class PastScore(Message):
    """One forecast's step against its outcome; numbers are of log returns from the last close."""

    as_of_ms: int = Field(description="close of the candle that the forecast was made at, UTC")
    error: float = Field(description="outcome less the forecast's median")
    persistence_error: float = Field(description="outcome less no change: the move itself")
    pinball: float = Field(description="of the calibrated quantiles")
    raw_pinball: float = Field(description="of the model's quantiles")
    baseline_pinball: float = Field(description="of a baseline that knows no model")
    pit: float = Field(description="probability of a lower outcome, calibrated")
    raw_pit: float = Field(description="the same by the model's quantiles")
    inside: dict[str, bool] = Field(description="nominal per cent of an interval: whether it held")
    raw_inside: dict[str, bool] = Field(description="the same of the model's intervals")


class StepRecord(Message):
    """The newest scores of one step of a series, taken together and one by one."""

    summary: StepScores
    scores: tuple[PastScore, ...] = Field(description="oldest first")


class SymbolRecord(Message):
    """How good the forecasts of one symbol and interval have been."""

    symbol: str
    interval: str
    drift: Drift | None = Field(description="as the newest score of the series says")
    steps: tuple[StepRecord, ...]


class IntervalScores(Message):
    """Live scores of all series of an interval together."""

    interval: str
    steps: tuple[StepScores, ...]


class FeaturePsi(Message):
    """How far a feature of the newest forecasts is from that of the training windows."""

    feature: str
    psi: float = Field(description="population stability index over the newest 2,000 sampled or so")
    drifts: bool = Field(description=f"true from {THRESHOLD:g} on, a significant change")


class OverallScores(IntervalScores):
    """Live scores and drift of all series of an interval together."""

    drift: IntervalDrift | None = Field(description="null while no score says anything of it")
    features: tuple[FeaturePsi, ...] = Field(
        description=f"the {MOST_FEATURES} that have drifted most, the furthest first; empty below "
        f"{LEAST} windows, of which one in {SAMPLED} forecasts counts, and where the model knows "
        "no training of the interval"
    )


class ScoresAnswer(Message):
    """Live scores as the stream publishes them: of each interval, and of each series."""

    overall: tuple[OverallScores, ...] = Field(description="by interval, the shortest first")
    series: tuple[SeriesScores, ...]


class StreamLatency(Message):
    """From the broker's append of a candle to its append of the forecast."""

    p50: float
    p95: float
    count: int


class StreamStatus(Message):
    """The stream as this instance of the API sees it."""

    connected: bool
    detail: str
    since_ms: int = Field(description="when that began, UTC")
    kafka: str = Field(description="its address, several by comma")
    lag: int | None = Field(description="messages of the topics not read yet")
    series: int
    subscribers: int
    newest_ms: int | None = Field(description="when the newest forecast was made, UTC")
    latency_ms: StreamLatency | None
    model: ModelCard
    scores: tuple[IntervalScores, ...] = Field(
        description="of the first step of each interval, over all its series"
    )


class TopicState(Message):
    """A topic as this instance of the API reads it."""

    kind: str = Field(description="candles, forecasts or scores")
    topic: str
    newest_ms: int | None = Field(description="the broker's time of its newest message, UTC")


class Rates(Message):
    """Messages of a span of time, by the broker's clock."""

    from_ms: int = Field(description="when it begins, UTC")
    candles: int
    forecasts: int
    scores: int
    lag: int | None = Field(description="most messages not read yet, null where nobody looked")


class RefusedMessages(Message):
    """Messages of a topic that could not be used for one reason, as this instance saw them."""

    topic: str
    reason: str
    count: int
    newest_ms: int = Field(description="the broker's time of the newest of them, UTC")
    partition: int = Field(description="of the newest of them")
    offset: int = Field(description="of the newest of them")
    detail: str = Field(description="what is wrong with the newest of them")


class SystemState(Message):
    """What passes through the topics, over the last hour or so, and what does not."""

    started_ms: int = Field(description="when this instance of the API began, UTC")
    topics: tuple[TopicState, ...]
    series: int
    waiting: int = Field(description="series whose newest candle has no forecast yet")
    span_ms: int = Field(description="length of each span of ``rates``")
    rates: tuple[Rates, ...] = Field(description="oldest first, only those with any message")
    refused: tuple[RefusedMessages, ...] = Field(description="most first")
