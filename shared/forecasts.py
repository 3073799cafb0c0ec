"""Forecast: the message, its rules, its identity and the nominal close of each horizon."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Final, Self

from pydantic import Field, ValidationError, model_validator

from shared.candles import DAY_MS, INTERVALS_MS, MAX_CANDLES, WEEKEND, Interval, Millis, Symbol
from shared.intervals import MONTH, later_month_ms
from shared.messages import Message, PartialValue, contradiction, describe

MEDIAN: Final = 0.5
"""Level of the median, which every forecast has."""

MAX_FORECAST_BYTES: Final = 32 << 10
"""Largest message of a forecast: one of 12 horizons with 7 levels is 6 kB."""

MAX_HORIZONS: Final = 64
"""Most horizons of a forecast."""

MAX_VERSION: Final = 128
"""Most characters of a model's version."""

MAX_LEVELS: Final = 99
"""Most quantile levels of a horizon."""

_LEVEL: Final = re.compile(r"0\.[0-9]{1,12}|[1-9](\.[0-9]{1,6})?e-[0-9]{1,2}", re.ASCII)
_MEDIAN_LEVEL: Final = f"{MEDIAN:g}"

LOW_PRICE: Final = 1e-60
HIGH_PRICE: Final = 1e60

PredictedPrice = Annotated[float, Field(ge=LOW_PRICE, le=HIGH_PRICE)]
"""A price that a model expects: a candle's lies within 1e-30 and 1e30, and what is beyond twice
those orders of magnitude would overflow in a ratio of prices."""


def level_name(level: float) -> str:
    """Return the name of a quantile level in messages and tables: 0.05 is ``0.05``."""
    return f"{level:g}"


Bins = Annotated[str, Field(pattern=r"^[0-9a-z]{1,512}$")]
"""Bins of ``shared.feature_drift``, a digit a feature."""


class InvalidForecast(ValueError):
    """A message that is not a valid forecast; its text names the rule that it breaks."""


class Horizon(Message):
    """The forecast of one candle ahead."""

    step: Annotated[int, Field(ge=1, le=MAX_CANDLES)]  # candles ahead
    due_ms: Millis  # nominal close of the candle being forecast, UTC; see due_ms()
    predicted_close: PredictedPrice  # median, quote currency
    quantiles: Annotated[
        dict[str, PredictedPrice], Field(min_length=1, max_length=MAX_LEVELS)
    ]  # level -> price, quote currency, in rising order; calibrated where raw_quantiles are given
    volatility: Annotated[float, Field(ge=0)]  # deviation of the log return, per candle
    raw_quantiles: Annotated[
        dict[str, PredictedPrice] | None, Field(min_length=1, max_length=MAX_LEVELS)
    ] = None  # what the model said, before the calibration
    expected_shortfall: Annotated[
        dict[str, PredictedPrice] | None, Field(min_length=1, max_length=MAX_LEVELS)
    ] = None  # level -> price, quote currency, at the mean log return below that quantile

    @model_validator(mode="after")
    def _quantiles_rise(self) -> Self:
        _check("quantiles", self.quantiles)
        if self.raw_quantiles is not None:
            _check("raw_quantiles", self.raw_quantiles)
        for level, price in (self.expected_shortfall or {}).items():
            if price > self.quantiles.get(level, 0.0):
                expected = f"at {level} no more than that quantile"
                raise _inconsistent("expected_shortfall", expected, price)
        return self


def _check(field: str, quantiles: dict[str, float]) -> None:
    """Raise unless levels and quantiles rise and the median is among them."""
    _check_levels(field, tuple(quantiles))
    for lower, higher in pairwise(quantiles.values()):
        if lower > higher:
            raise _inconsistent(field, f"at least {lower} at the next level", higher)


@lru_cache(maxsize=64)  # models have few sets of levels, each horizon of a topic has one
def _check_levels(field: str, levels: tuple[str, ...]) -> None:
    for level in levels:
        if not _LEVEL.fullmatch(level) or float(level) == 0:
            raise _inconsistent(field, "levels between 0 and 1, as in 0.05", level)
    for low, high in pairwise(levels):
        if float(low) >= float(high):
            raise _inconsistent(field, f"a level above {low} after it", high)
    if _MEDIAN_LEVEL not in levels:
        raise _inconsistent(field, f"the level {_MEDIAN_LEVEL}", list(levels))


class Forecast(Message):
    """Forecast of the candles after a window of closed candles."""

    id: Annotated[str, Field(max_length=64)]  # same window and model -> same id and same numbers
    symbol: Symbol
    interval: Interval
    as_of_ms: Millis  # close of the last candle used, UTC
    last_close: PredictedPrice  # quote currency
    model_version: Annotated[str, Field(max_length=MAX_VERSION)]
    model_interval: Interval | None = None  # trained on, where the model has seen no ``interval``
    context_as_of_ms: Millis | None = None  # close of the context used: the oldest of its symbols'
    made_at_ms: Millis  # when it was computed, UTC; the only field that repeats may differ in
    feature_bins: Bins | None = None  # of its features in training's, of one forecast in 16
    horizons: Annotated[tuple[Horizon, ...], Field(min_length=1, max_length=MAX_HORIZONS)]

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        for before, after in pairwise(self.horizons):
            if before.step >= after.step:
                raise _inconsistent("horizons", f"a step above {before.step} after it", after.step)
        return self

    @classmethod
    def decode(cls, value: bytes | None) -> Forecast:
        """Return the forecast in a message's value.

        Whoever may write to the topic may write anything, so each rule is checked here; what our
        own code makes is ``trusted`` and is not checked again.

        Raises:
            InvalidForecast: naming the first rule that the value breaks.
        """
        if isinstance(value, PartialValue) and value.fault:
            raise InvalidForecast(value.fault)
        if not value:
            raise InvalidForecast("value: expected a forecast, got nothing")
        if len(value) > MAX_FORECAST_BYTES:
            raise InvalidForecast(
                f"value: expected at most {MAX_FORECAST_BYTES} bytes, got {len(value)}"
            )
        try:
            forecast: Forecast = cls.__pydantic_validator__.validate_json(value)
        except ValidationError as error:
            raise InvalidForecast(describe(error.errors(include_url=False)[0])) from None
        return forecast


def _inconsistent(field: str, expected: str, got: object) -> Exception:
    return contradiction("inconsistent", field, expected, got)


def forecast_id(
    symbol: str, interval: str, as_of_ms: int, content: bytes, model_version: str
) -> str:
    """Return the identity of a forecast: 32 hexadecimal digits (BLAKE2b, 128 bits).

    ``content`` is what the model saw, ``shared.forecaster.Due.content``: the window and, where the
    model reads one, its context. A correction of either changes it and so the id.
    """
    head = f"{symbol}\0{interval}\0{as_of_ms}\0{model_version}\0".encode()
    return hashlib.blake2b(head + content, digest_size=16).hexdigest()


@lru_cache(maxsize=4096)  # the candles of all symbols close at the same times
def due_ms(as_of_ms: int, interval: str, step: int, *, trades_weekends: bool) -> int:
    """Return the nominal close of the candle ``step`` candles after one closed at ``as_of_ms``.

    Without an exchange calendar: daily candles skip Saturdays and Sundays unless the symbol
    trades then; holidays and the night between two sessions of an intraday series are not
    skipped. The true close is never earlier.
    """
    if interval == MONTH:
        return later_month_ms(as_of_ms, step)
    length = INTERVALS_MS[interval]
    if interval != "1d" or trades_weekends:
        return as_of_ms + step * length
    # a daily candle is known by the day before its close, for a close may be next midnight
    day = (as_of_ms - 1) // DAY_MS
    due = as_of_ms
    for _ in range(step):
        due += DAY_MS
        day += 1
        while day % 7 in WEEKEND:
            due += DAY_MS
            day += 1
    return due
