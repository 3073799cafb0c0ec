"""The forecast: its message, its identity and the nominal times of its horizons."""

from __future__ import annotations

import hashlib
from typing import Final

from shared.candles import DAY_MS, INTERVALS_MS, WEEKEND, Millis, Symbol
from shared.intervals import MONTH, later_month_ms
from shared.messages import Message

MEDIAN: Final = 0.5
"""The quantile level that every forecast has."""


class Horizon(Message):
    """The forecast of one candle ahead."""

    step: int  # candles ahead, from 1
    due_ms: Millis  # nominal close of the candle being forecast, UTC; see due_ms()
    predicted_close: float  # median, quote currency
    quantiles: dict[str, float]  # level -> price, quote currency, in rising order
    volatility: float  # range-based standard deviation of the log return, per candle


class Forecast(Message):
    """What one window of closed candles says about the candles after it."""

    id: str  # same window and model -> same id and same numbers
    symbol: Symbol
    interval: str
    as_of_ms: Millis  # close of the last candle used, UTC
    last_close: float  # quote currency
    model_version: str
    made_at_ms: Millis  # when it was computed, UTC; the only field that repeats may differ in
    horizons: tuple[Horizon, ...]

    @classmethod
    def decode(cls, value: bytes) -> Forecast:
        """Return the forecast in a message's value; raises ``ValidationError``."""
        forecast: Forecast = cls.__pydantic_validator__.validate_json(value)
        return forecast


def forecast_id(
    symbol: str, interval: str, as_of_ms: int, content: bytes, model_version: str
) -> str:
    """Return the identity of a forecast: 32 hexadecimal digits (BLAKE2b, 128 bits).

    ``content`` is the window that the model saw; a correction changes it and so the id.
    """
    head = f"{symbol}\0{interval}\0{as_of_ms}\0{model_version}\0".encode()
    return hashlib.blake2b(head + content, digest_size=16).hexdigest()


def due_ms(as_of_ms: int, interval: str, step: int, *, trades_weekends: bool) -> int:
    """Return the nominal close of the candle ``step`` candles after one closed at ``as_of_ms``.

    No exchange calendar is asked: daily candles skip Saturdays and Sundays unless the symbol
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
