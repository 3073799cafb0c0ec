"""The candle: its message, its codec and every rule that makes one valid."""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from shared.messages import (
    END_MS,
    FIRST_MS,
    SYMBOL_PATTERN,
    Message,
    PartialValue,
    contradiction,
    describe,
    shown,
)

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000

MAX_CANDLES: Final = 2048
"""Most candles in a window: the bound of every model's length, stored window and republished
history."""

WEEKEND: Final = (2, 3)
"""Remainders by 7 of the days since 1970-01-01, a Thursday, that are Saturdays and Sundays."""

INTERVALS_MS: Final[dict[str, int]] = {
    "1m": MINUTE_MS,
    "2m": 2 * MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "60m": 60 * MINUTE_MS,
    "90m": 90 * MINUTE_MS,
    "1h": 60 * MINUTE_MS,
    "4h": 240 * MINUTE_MS,
    "1d": DAY_MS,
    "5d": 5 * DAY_MS,
    "1wk": 7 * DAY_MS,
    "1mo": 31 * DAY_MS,
}
"""Length of each interval in milliseconds, of a month the longest; the names are yfinance's."""

_UNITS: Final[dict[str, str]] = {
    spelling: unit
    for unit, spellings in {
        "m": "m min mins minute minutes t",
        "h": "h hr hour hours hourly",
        "d": "d day days daily",
        "wk": "w wk week weeks weekly",
        "mo": "mo mon mn month months monthly",
    }.items()
    for spelling in spellings.split()
}
_SAME: Final = {"240m": "4h", "24h": "1d", "7d": "1wk", "1440m": "1d"}
_COUNT_FIRST: Final = re.compile(r"(\d{0,4})[ _-]?([A-Za-z]+)|(\d{1,4})")
_UNIT_FIRST: Final = re.compile(r"(M|H|D|W|MN)(\d{1,3})")

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def midnight_ms(day: date) -> int:
    """Return a date's midnight UTC, epoch milliseconds: the opening time of its daily candle."""
    return (day.toordinal() - _EPOCH_DAY) * DAY_MS


def interval_named(text: str) -> str | None:
    """Return the interval that a usual name means, such as 1D, 60min, 1w, H4; or None.

    A capital M is a month after a number (Binance, pandas) and minutes before one (MetaTrader).
    """
    plain = text.strip()
    if plain in INTERVALS_MS:
        return plain
    if turned := _UNIT_FIRST.fullmatch(plain):
        unit, count = turned[1].lower(), turned[2]
    elif spelt := _COUNT_FIRST.fullmatch(plain):
        count, unit = spelt[1] or spelt[3] or "1", spelt[2] or "m"
        unit = "mo" if unit in {"M", "ME", "MS"} else unit.lower()
    else:
        return None
    name = f"{int(count)}{_UNITS.get(unit, unit)}"
    name = _SAME.get(name, name)
    return name if name in INTERVALS_MS else None


def known_interval(value: str) -> str:
    """Return the name of an interval in any spelling; a validator that refuses unknown ones."""
    interval = interval_named(value)
    if interval is None:
        rule = f"expected one of {', '.join(INTERVALS_MS)}"
        raise PydanticCustomError("rule", "{rule}", {"rule": rule})
    return interval


Interval = Annotated[str, AfterValidator(known_interval)]
"""Name of an interval, as a setting."""

MAX_MESSAGE_BYTES: Final = 4096
"""A candle is some 200 bytes; anything far larger is not one."""

FUTURE_TOLERANCE_MS: Final = 60_000
"""How far a producer's clock may run ahead of ours before a close counts as in the future."""


class RejectReason(StrEnum):
    """Why a message is not a candle, or no use; the value of the dead letter's reason header."""

    EMPTY = "empty"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    NOT_FINITE = "not_finite"
    OUT_OF_RANGE = "out_of_range"
    INCONSISTENT = "inconsistent"
    WRONG_KEY = "wrong_key"
    FUTURE = "future"
    OLDER_THAN_WINDOW = "older_than_window"
    NO_FORECAST = "no_forecast"
    OFF_GRID = "off_grid"
    OVERLAPS = "overlaps"
    NOT_LISTED = "not_listed"
    TOO_MANY_SERIES = "too_many_series"
    NO_MODEL = "no_model"


class InvalidCandle(ValueError):
    """A message that is not a valid candle, with the rule that it breaks."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


MAX_NUMBER: Final = 1e30
"""Largest price and volume: a window holds 32-bit floats, which end at 3e38."""

MIN_PRICE: Final = 1e-30
"""Smallest price, for the same reason."""


def _say_least(schema: dict[str, Any]) -> None:
    """Have the schema say the smallest price; a message says it of prices above 0 alone."""
    del schema["exclusiveMinimum"]
    schema["minimum"] = MIN_PRICE


Price = Annotated[float, Field(gt=0, le=MAX_NUMBER, json_schema_extra=_say_least)]
Symbol = Annotated[str, Field(pattern=SYMBOL_PATTERN)]
Millis = Annotated[int, Field(ge=FIRST_MS, lt=END_MS)]
"""A time, UTC epoch milliseconds: of 1900 to 2199, so that seconds or microseconds show."""


class Ohlcv(Message):
    """Prices and volume of one candle, without symbol and time.

    Raises ``ValidationError`` when the prices contradict each other.
    """

    open: Price  # quote currency
    high: Price
    low: Price
    close: Price
    volume: Annotated[
        float, Field(ge=0, le=MAX_NUMBER)
    ]  # units traded; 0 where the market has none

    @model_validator(mode="after")
    def _prices_agree(self) -> Self:
        if self.low < MIN_PRICE:
            raise contradiction("out_of_range", "low", f"at least {MIN_PRICE}", self.low)
        if self.low <= self.open <= self.high and self.low <= self.close <= self.high:
            return self
        body_low, body_high = min(self.open, self.close), max(self.open, self.close)
        if self.high < self.low:
            raise _inconsistent("high", f"at least low {shown(self.low)}", self.high)
        if self.high < body_high:
            raise _inconsistent("high", f"at least open and close {shown(body_high)}", self.high)
        raise _inconsistent("low", f"at most open and close {shown(body_low)}", self.low)


class Candle(Ohlcv):
    """One closed candle of one symbol, over [open_ms, close_ms)."""

    symbol: Symbol
    interval: str
    open_ms: Millis  # UTC
    close_ms: Millis  # UTC; earlier than open + interval where a session ends first
    source: str = Field(max_length=64)

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        length = INTERVALS_MS.get(self.interval)
        if length is None:
            raise _inconsistent("interval", f"one of {', '.join(INTERVALS_MS)}", self.interval)
        if not self.open_ms < self.close_ms <= self.open_ms + length:
            expected = f"a time within {length} ms after open_ms {self.open_ms}"
            raise _inconsistent("close_ms", expected, self.close_ms)
        return self


def decode_candle(key: bytes | None, value: bytes | None, now_ms: int) -> Candle:
    """Return the candle in a Kafka message.

    Args:
        key: the message's key; a candle's key is its symbol in UTF-8.
        value: the message's value, JSON in UTF-8.
        now_ms: the current time, UTC epoch milliseconds.

    Raises:
        InvalidCandle: naming the field, the rule and the value that breaks it.
    """
    if isinstance(value, PartialValue) and value.fault:
        raise InvalidCandle(RejectReason.UNREADABLE, value.fault)
    if not value:
        raise InvalidCandle(RejectReason.EMPTY, "value: expected a JSON candle, got nothing")
    if len(value) > MAX_MESSAGE_BYTES:
        raise InvalidCandle(
            RejectReason.TOO_LARGE,
            f"value: expected at most {MAX_MESSAGE_BYTES} bytes, got {len(value)}",
        )
    try:
        candle: Candle = Candle.__pydantic_validator__.validate_json(value)
    except ValidationError as error:
        raise refusal(error) from None
    if key is None or key != candle.symbol.encode():
        raise InvalidCandle(
            RejectReason.WRONG_KEY, f"key: expected {candle.symbol!r}, got {key!r:.60}"
        )
    if candle.close_ms > now_ms + FUTURE_TOLERANCE_MS:
        raise InvalidCandle(
            RejectReason.FUTURE,
            f"close_ms: expected a closed candle, at most {now_ms}, got {candle.close_ms}",
        )
    return candle


REASONS: Final[dict[str, RejectReason]] = {
    "json_invalid": RejectReason.NOT_JSON,
    "model_type": RejectReason.WRONG_TYPE,
    "float_type": RejectReason.WRONG_TYPE,
    "int_type": RejectReason.WRONG_TYPE,
    "string_type": RejectReason.WRONG_TYPE,
    "missing": RejectReason.MISSING_FIELD,
    "finite_number": RejectReason.NOT_FINITE,
    "greater_than": RejectReason.OUT_OF_RANGE,
    "greater_than_equal": RejectReason.OUT_OF_RANGE,
    "less_than": RejectReason.OUT_OF_RANGE,
    "less_than_equal": RejectReason.OUT_OF_RANGE,
    "string_pattern_mismatch": RejectReason.OUT_OF_RANGE,
    "string_too_long": RejectReason.OUT_OF_RANGE,
    "out_of_range": RejectReason.OUT_OF_RANGE,
    "inconsistent": RejectReason.INCONSISTENT,
}
"""The reason for a refusal, by every rule that a candle can break."""


def refusal(error: ValidationError) -> InvalidCandle:
    """Return why a candle that validation refused is not one: the first reason, all details."""
    errors = error.errors(include_url=False)
    reason = REASONS.get(errors[0]["type"], RejectReason.WRONG_TYPE)
    return InvalidCandle(reason, "; ".join(map(describe, errors))[:500])


def _inconsistent(field: str, expected: str, got: object) -> PydanticCustomError:
    return contradiction("inconsistent", field, expected, got)
