"""Score: the message about a candle that settled forecasts, its rules, and its losses in arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from shared.calibration import MAX_OFFSET, MAX_SCALE
from shared.candles import MAX_CANDLES, Interval, Millis, Symbol
from shared.drift import Drift
from shared.forecasts import MAX_HORIZONS, MAX_LEVELS, MAX_VERSION, PredictedPrice
from shared.messages import Message, PartialValue, contradiction, describe
from shared.sums import added

Floats = NDArray[np.float64]

MAX_SCORE_BYTES: Final = 64 << 10
"""Largest message of scores: one of three horizons is 1.5 kB."""

INTERVALS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "50": (0.25, 0.75),
        "80": (0.1, 0.9),
        "90": (0.05, 0.95),
        "95": (0.025, 0.975),
        "98": (0.01, 0.99),
    }
)
"""Central intervals: nominal per cent -> levels of the two ends."""


# bounds wider than what prices of 1e-60 to 1e60 give, so that no sum of scores overflows
Error = Annotated[float, Field(ge=-1e6, le=1e6)]
Loss = Annotated[float, Field(ge=0, le=1e6)]
Qlike = Annotated[float, Field(ge=-70, le=1e40)]

Answers = Annotated[dict[str, bool], Field(max_length=len(INTERVALS))]
Multiplier = Annotated[float, Field(ge=1 / MAX_SCALE, le=MAX_SCALE)]
Offset = Annotated[float, Field(ge=-MAX_OFFSET, le=MAX_OFFSET)]


class InvalidScore(ValueError):
    """A message that is not a valid score; its text names the rule that it breaks."""


class Correction(Message):
    """What a series' next forecasts of a horizon are corrected by; see ``shared.calibration``."""

    settled: Annotated[int, Field(ge=0, le=1 << 24)]  # horizons learned from
    lower: Multiplier  # of the quantiles' distances to the median, below it
    upper: Multiplier  # above it
    offsets: Annotated[dict[str, Offset], Field(min_length=1, max_length=MAX_LEVELS)]
    # level -> what is added to its quantile, in spreads; numbers of 32 bits, like the multipliers


class HorizonScore(Message):
    """One horizon of a forecast against the candle that it forecast."""

    forecast_id: Annotated[str, Field(max_length=64)]  # of the forecast that is settled
    step: Annotated[int, Field(ge=1, le=MAX_CANDLES)]  # candles ahead
    as_of_ms: Millis  # close of the last candle that the forecast used, UTC
    model_version: Annotated[str, Field(max_length=MAX_VERSION)]
    last_close: PredictedPrice  # close of that candle, quote currency
    predicted_close: PredictedPrice  # median, quote currency
    error: Error  # ln(close / predicted_close)
    persistence_error: Error  # ln(close / last_close): the error of "no change"
    pinball: Loss  # of the calibrated quantiles: mean, of log returns
    raw_pinball: Loss  # of the model's quantiles
    baseline_pinball: Loss  # of a baseline that knows no model
    qlike: Qlike  # of the volatility: ln(v) + r²/(step·v), v its square, r the log return
    pit: Annotated[float, Field(ge=0, le=1)]  # probability of a lower close, calibrated
    raw_pit: Annotated[float, Field(ge=0, le=1)]  # the same by the model's quantiles
    inside: Answers  # nominal per cent of a calibrated interval -> close inside it
    raw_inside: Answers  # the same of the model's intervals
    correction: Correction | None = None  # from now on; none where this score taught nothing

    @model_validator(mode="after")
    def _intervals_are_known(self) -> Self:
        for name in (*self.inside, *self.raw_inside):
            if name not in INTERVALS:
                expected = f"intervals among {', '.join(INTERVALS)}"
                raise contradiction("inconsistent", "inside", expected, name)
        if self.inside.keys() != self.raw_inside.keys():
            expected = f"the intervals {', '.join(self.inside)}"
            raise contradiction("inconsistent", "raw_inside", expected, ", ".join(self.raw_inside))
        return self


class Scores(Message):
    """The scores of the forecasts that one candle settled."""

    id: Annotated[str, Field(max_length=64)]  # same candle and forecasts -> same id
    symbol: Symbol
    interval: Interval
    open_ms: Millis  # opening of the candle, UTC
    close_ms: Millis  # its close, UTC
    close: PredictedPrice  # its price, quote currency
    corrected: bool  # the candle is a correction, and these horizons were scored before
    made_at_ms: Millis  # when it was computed, UTC; the only field that repeats may differ in
    horizons: Annotated[tuple[HorizonScore, ...], Field(min_length=1, max_length=MAX_HORIZONS)]
    drift: Drift | None = None  # of the series, after this candle

    @model_validator(mode="after")
    def _horizons_agree(self) -> Self:
        for before, after in pairwise(self.horizons):
            if before.step >= after.step:
                expected = f"a step above {before.step} after it"
                raise contradiction("inconsistent", "horizons", expected, after.step)
        for horizon in self.horizons:
            if horizon.as_of_ms >= self.close_ms:
                expected = f"forecasts from before {self.close_ms}"
                raise contradiction("inconsistent", "horizons", expected, horizon.as_of_ms)
        return self

    @classmethod
    def decode(cls, value: bytes | None) -> Scores:
        """Return the scores in a message's value.

        Raises:
            InvalidScore: naming the first rule that the value breaks.
        """
        if isinstance(value, PartialValue) and value.fault:
            raise InvalidScore(value.fault)
        if not value:
            raise InvalidScore("value: expected scores, got nothing")
        if len(value) > MAX_SCORE_BYTES:
            raise InvalidScore(f"value: expected at most {MAX_SCORE_BYTES} bytes, got {len(value)}")
        try:
            scores: Scores = cls.__pydantic_validator__.validate_json(value)
        except ValidationError as error:
            raise InvalidScore(describe(error.errors(include_url=False)[0])) from None
        return scores


def scores_id(symbol: str, interval: str, open_ms: int, close: float, settled: bytes) -> str:
    """Return the identity of a message of scores: 32 hexadecimal digits (BLAKE2b, 128 bits).

    Args:
        symbol: of the candle.
        interval: of the candle.
        open_ms: of the candle; with ``close``, its price, a correction has another identity.
        close: price, quote currency.
        settled: identities of the forecasts that are settled, in the order of their steps.
    """
    head = f"{symbol}\0{interval}\0{open_ms}\0{close!r}\0".encode()
    return hashlib.blake2b(head + settled, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message of scores as it is published; ``Scores.decode`` reads it."""

    id: str
    made_at_ms: int
    value: bytes


@dataclass(frozen=True)
class Ends:
    """The central intervals that a model's levels have, and the places of their ends."""

    names: tuple[str, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]

    @classmethod
    def of(cls, levels: Sequence[float]) -> Ends:
        """Return the intervals among rising levels."""
        known = {
            name: (levels.index(low), levels.index(high))
            for name, (low, high) in INTERVALS.items()
            if low in levels and high in levels
        }
        return cls(
            tuple(known),
            tuple(low for low, _ in known.values()),
            tuple(high for _, high in known.values()),
        )

    @cached_property
    def answers(self) -> tuple[Mapping[str, bool], ...]:
        """Return every possible answer, by the sum of 2 to the place of each interval that held."""
        places = range(len(self.names))
        return tuple(
            {name: bool(mask >> at & 1) for at, name in zip(places, self.names, strict=True)}
            for mask in range(1 << len(self.names))
        )

    @cached_property
    def _weights(self) -> NDArray[np.int64]:
        return 1 << np.arange(len(self.names))

    def inside(self, outcome: Floats, quantile: Floats) -> list[list[Mapping[str, bool]]]:
        """Return for each outcome, (N,), which intervals of its quantiles, (K, N, Q), held."""
        reached = outcome[:, None]
        held = (reached >= quantile[..., self.low]) & (reached <= quantile[..., self.high])
        answers = self.answers
        return [[answers[code] for code in row] for row in held.dot(self._weights).tolist()]


def mean_pinball(levels: Floats, outcome: Floats, quantile: Floats) -> Floats:
    """Return the mean pinball loss over the levels, (..., N).

    ``(y - q)·level`` above the quantile, ``(q - y)·(1 - level)`` below; Koenker and Bassett,
    "Regression quantiles" (1978).

    Args:
        levels: rising, (Q,).
        outcome: log returns, (N,).
        quantile: of the log return, (..., N, Q).
    """
    error = outcome[:, None] - quantile
    loss = np.maximum(levels * error, (levels - 1) * error)
    mean: Floats = added(loss) / len(levels)
    return mean


def transforms(levels: Floats, outcome: Floats, quantile: Floats) -> Floats:
    """Return the probability integral transforms, (..., N): probabilities of lower outcomes.

    Linear between the quantiles. Beyond the outer ones, about which the forecast says nothing,
    it is the middle of what is left. Dawid, "The prequential approach" (1984). Arguments as
    ``mean_pinball``.
    """
    count = len(levels)
    at = (quantile < outcome[:, None]).sum(axis=-1)
    inner = np.minimum(np.maximum(at, 1), count - 1)
    place = np.arange(0, quantile.size, count).reshape(at.shape) + inner
    flat = quantile.reshape(-1)
    low, high = flat[place - 1], flat[place]
    width = high - low
    share = (outcome - low) / np.where(width > 0, width, 1.0)
    share = np.minimum(np.maximum(share, 0.0), 1.0)
    below, above = levels[inner - 1], levels[inner]
    between = below + share * (above - below)
    outer = np.where(at == 0, levels[0] / 2, (1 + levels[-1]) / 2)
    placed: Floats = np.where((at == 0) | (at == count), outer, between)
    return placed


def qlike(outcome: Floats, volatility: NDArray[Any], step: NDArray[Any]) -> Floats:
    """Return QLIKE of volatilities against the squared log return of their candles, (N,).

    Patton, "Volatility forecast comparison using imperfect volatility proxies" (2011), up to a
    term without the forecast: that of an unchanged price is finite so.

    Args:
        outcome: log returns over ``step`` candles, (N,).
        volatility: deviations a candle, (N,).
        step: candles, (N,).
    """
    variance = np.maximum(volatility.astype(np.float64) ** 2, 1e-30)
    loss: Floats = np.log(variance) + outcome * outcome / (step * variance)
    return loss
