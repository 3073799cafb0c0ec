"""Bytes to arrays of candles: fast for what is valid, slow and exact about what is not.

msgspec reads the body into structs and numpy checks the rules of all candles at once, in a third
of the time that pydantic takes. Whatever these two do not accept goes to pydantic, whose word is
final: it names the field and the rule, or accepts, as it does where a key comes twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from api.bodies import (
    MAX_HISTORIES,
    MAX_HISTORY,
    MAX_HORIZONS,
    FieldError,
    ForecastsRequest,
    History,
    HistoryCandle,
    PredictRequest,
    TimedCandle,
)
from api.problems import ProblemError, invalid_body, problem
from shared.candles import INTERVALS_MS, MAX_NUMBER

Array = NDArray[np.float64]
Request = TypeVar("Request", PredictRequest, ForecastsRequest)


class _Ohlcv(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    open: float
    high: float
    low: float
    close: float
    volume: float


class _Timed(_Ohlcv, forbid_unknown_fields=True, gc=False):
    open_ms: int | None = None
    close_ms: int | None = None


class _PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    history: list[_Ohlcv]


class _HistoryBody(msgspec.Struct, forbid_unknown_fields=True):
    candles: list[_Timed]
    symbol: str | None = None
    interval: str | None = None


class _ForecastsBody(msgspec.Struct, forbid_unknown_fields=True):
    histories: list[_HistoryBody]
    horizons: list[int] | None = None


_PREDICT = msgspec.json.Decoder(_PredictBody)
_FORECASTS = msgspec.json.Decoder(_ForecastsBody)


@dataclass(frozen=True)
class Series:
    """One valid history."""

    candles: Array  # (N, 5): open, high, low, close, volume; oldest first
    symbol: str | None = None
    interval: str | None = None
    as_of_ms: int | None = None  # close of the last candle, UTC
    newest_open_ms: tuple[int, ...] = ()  # of the last seven candles, UTC


def read_predict(body: bytes) -> Array:
    """Return the candles in a body of ``POST /predict``, (N, 5); raises ``ProblemError``."""
    if body:
        try:
            history = _PREDICT.decode(body).history
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            history = []
        candles = _array(history)
        if 0 < len(history) <= MAX_HISTORY and are_valid(candles):
            return candles
    return _array(_validate(PredictRequest, body, '{"history": [...]}').history)


def read_forecasts(body: bytes) -> tuple[list[Series], tuple[int, ...] | None]:
    """Return the histories in a body of ``POST /v1/forecasts`` and the horizons asked for.

    Raises:
        ProblemError: naming the field and the rule.
    """
    fast = _read_fast(body)
    if fast is not None:
        return fast
    request = _validate(ForecastsRequest, body, '{"histories": [...]}')
    if not request.histories:
        raise _broken("histories", "too_short", "at least 1 history", "none")
    series = [_timed(i, one, _array(one.candles)) for i, one in enumerate(request.histories)]
    return series, _rising(request.horizons)


def newest(candles: Array, needed: int) -> Array:
    """Return the newest candles as a window holds them, (T, 5): rounded to 32 bits.

    Raises:
        ValueError: when there are fewer than ``needed``.
    """
    if len(candles) < needed:
        raise ValueError(f"expected at least {needed} candles, got {len(candles)}")
    return candles[-needed:].astype(np.float32).astype(np.float64)


def are_valid(candles: Array) -> bool:
    """Whether all candles, (N, 5), obey the rules of ``shared.candles.Ohlcv``."""
    opened, high, low, close, volume = candles.T
    valid = low >= 1 / MAX_NUMBER
    valid &= high <= MAX_NUMBER
    valid &= low <= np.minimum(opened, close)
    valid &= high >= np.maximum(opened, close)
    valid &= volume >= 0
    valid &= volume <= MAX_NUMBER
    return bool(valid.all())


def _array(candles: Sequence[_Ohlcv | HistoryCandle]) -> Array:
    rows = [(one.open, one.high, one.low, one.close, one.volume) for one in candles]
    return np.array(rows, np.float64).reshape(-1, 5)


def _read_fast(body: bytes) -> tuple[list[Series], tuple[int, ...] | None] | None:
    """Return what ``read_forecasts`` does, or None where the slow way must have its word."""
    try:
        read = _FORECASTS.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    lengths = [len(one.candles) for one in read.histories]
    if not 0 < len(lengths) <= MAX_HISTORIES or min(lengths) < 1 or max(lengths) > MAX_HISTORY:
        return None
    horizons = read.horizons
    if horizons is not None and not (0 < len(horizons) <= MAX_HORIZONS and min(horizons) > 0):
        return None
    candles = _array([candle for one in read.histories for candle in one.candles])
    if not are_valid(candles) or any(_needs_a_look(one) for one in read.histories):
        return None
    parts = np.split(candles, np.cumsum(lengths)[:-1])
    pairs = zip(read.histories, parts, strict=True)
    return [_timed(i, one, part) for i, (one, part) in enumerate(pairs)], _rising(horizons)


def _needs_a_look(history: _HistoryBody) -> bool:
    """Whether a history has a name or times that no quick check here covers."""
    symbol = history.symbol
    if symbol is not None and not (symbol.isascii() and symbol.isalnum() and len(symbol) <= 32):
        return True
    return any(
        not 0 <= time < 1 << 53
        for one in history.candles
        for time in (one.open_ms, one.close_ms)
        if time is not None
    )


def _timed(number: int, history: _HistoryBody | History, candles: Array) -> Series:
    """Return a history of valid candles after a look at its interval and times."""
    where = f"histories[{number}]"
    interval = history.interval
    if interval is not None and interval not in INTERVALS_MS:
        known = ", ".join(INTERVALS_MS)
        raise _broken(f"{where}.interval", "unknown", f"one of {known}", interval[:40])
    if not _has_times(history):
        return Series(candles, history.symbol, interval)
    as_of_ms = _as_of_ms(where, history)
    latest: Sequence[_Timed | TimedCandle] = history.candles[-7:]
    opened = tuple(one.open_ms for one in latest if one.open_ms is not None)
    return Series(candles, history.symbol, interval, as_of_ms, opened)


def _has_times(history: _HistoryBody | History) -> bool:
    candles: Sequence[_Timed | TimedCandle] = history.candles
    return any(one.open_ms is not None or one.close_ms is not None for one in candles)


def _as_of_ms(where: str, history: _HistoryBody | History) -> int:
    """Return the close of the last candle, all times being in order; raises ``ProblemError``."""
    if history.interval is None:
        raise _broken(f"{where}.interval", "missing", "a value beside times", "nothing")
    length = INTERVALS_MS[history.interval]
    before = -1
    close_ms = 0
    candles: Sequence[_Timed | TimedCandle] = history.candles
    for i, one in enumerate(candles):
        field = f"{where}.candles[{i}]"
        if one.open_ms is None:
            raise _broken(f"{field}.open_ms", "missing", "a time as on the others", "nothing")
        if one.open_ms <= before:
            message = f"more than {before} of the candle before"
            raise _broken(f"{field}.open_ms", "not_rising", message, one.open_ms)
        before = one.open_ms
        close_ms = one.open_ms + length if one.close_ms is None else one.close_ms
        if not one.open_ms < close_ms <= one.open_ms + length:
            message = f"a time within {length} ms after open_ms {one.open_ms}"
            raise _broken(f"{field}.close_ms", "inconsistent", message, close_ms)
    return close_ms


def _rising(horizons: Sequence[int] | None) -> tuple[int, ...] | None:
    if horizons is None:
        return None
    if list(horizons) != sorted(set(horizons)):
        raise _broken("horizons", "not_rising", "rising steps", list(horizons))
    return tuple(horizons)


def _validate(model: type[Request], body: bytes, form: str) -> Request:
    """Return the request in a body by pydantic; raises ``ProblemError``."""
    if not body:
        message = f"expected {form} as JSON, got nothing"
        raise problem(400, FieldError(field="body", rule="empty", message=message))
    try:
        return model.__pydantic_validator__.validate_json(body)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise invalid_body(error) from None


def _broken(field: str, rule: str, expected: str, got: object) -> ProblemError:
    reason = FieldError(field=field, rule=rule, message=f"expected {expected}, got {got}")
    return problem(422, reason)
