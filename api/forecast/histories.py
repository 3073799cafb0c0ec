"""Reads candles in JSON into arrays: fast if they are valid, exact about the fault if not.

msgspec reads candles into structs and numpy checks the rules of all of them at once, in a third
of the time that pydantic takes. What these two do not accept goes to pydantic, which has the last
word: it names the field and the rule, or accepts, as it does for a key that stands twice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from api.edge.problems import FieldError, broken_field, invalid_body, problem
from api.forecast.bodies import MAX_HISTORY, Candles, PredictRequest, TimedCandle
from shared.candles import INTERVALS_MS, interval_named
from shared.intervals import FAR, Steps, close_ms_of, length_in_words, shortest_step_ms
from shared.messages import END_MS, FIRST_MS, Place
from shared.window import held, obey_rules

Array = NDArray[np.float64]

MAX_ARRAY_BYTES: Final = 2 << 20
"""Largest array of candles in JSON: twice the size of 5,000."""


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


_NO_TIME: Final = FIRST_MS - 1
_PREDICT: Final = msgspec.json.Decoder(_PredictBody)
_CANDLES: Final = msgspec.json.Decoder(list[_Timed])
_EXACT_CANDLES: Final[TypeAdapter[Any]] = TypeAdapter(Candles)
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_PRICES: Final = attrgetter("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class Series:
    """One valid history."""

    candles: Array  # (N, 5): open, high, low, close, volume; oldest first; none: the stream's
    symbol: str | None = None
    interval: str | None = None
    as_of_ms: int | None = None  # close of the last candle, UTC
    open_ms: NDArray[np.int64] | None = None  # (N,), UTC; None where the client gave no times
    above: tuple[float, ...] = ()  # prices whose odds are wanted


HeldOf = Callable[[Place, str, str], Series]
"""Returns what the stream has of a symbol and interval, which stand at a place of a body.

It raises ``ProblemError``, 404 or 503.
"""


@dataclass(frozen=True)
class TimedArray:
    """Valid candles with the times given for them."""

    candles: Array  # (N, 5)
    open_ms: list[int | None]
    close_ms: list[int | None]


def read_predict(body: bytes | bytearray) -> Array:
    """Return the candles in a body of ``POST /predict``, (N, 5); raises ``ProblemError``."""
    try:
        rows = _PREDICT.decode(body).history
        candles = _flat(map(msgspec.structs.astuple, rows), len(rows))
        if 0 < len(rows) <= MAX_HISTORY and are_valid(candles):
            return candles
    except _UNREADABLE:
        pass  # pydantic names the fault
    require_content(body, '{"history": [...]}')
    try:
        history = PredictRequest.model_validate_json(body).history
    except ValidationError as error:
        raise invalid_body(error) from None
    return _flat(map(_PRICES, history), len(history))


def read_candles(data: bytes | memoryview, place: Place) -> TimedArray:
    """Return the candles in an array of JSON, which stands at a place of a body.

    Raises:
        ProblemError: naming the field and the rule.
    """
    if len(data) > MAX_ARRAY_BYTES:
        raise broken_field(place, "too_large", f"at most {MAX_ARRAY_BYTES} bytes", len(data))
    try:
        rows: Sequence[_Timed | TimedCandle] = _CANDLES.decode(data)
        read = _timed(rows)
        if 0 < len(rows) <= MAX_HISTORY and are_valid(read.candles) and _are_times(read):
            return read
    except _UNREADABLE:
        pass
    try:
        rows = _EXACT_CANDLES.validate_json(bytes(data))
    except ValidationError as error:
        raise invalid_body(error, place) from None
    if not rows:
        raise broken_field(place, "too_short", "at least 1 candle", "none")
    return _timed(rows)


def series_of(number: int, symbol: str | None, interval: str | None, read: TimedArray) -> Series:
    """Return a history of valid candles after a check of its interval and times.

    Raises:
        ProblemError: naming the field, of history ``number`` of a body, and the rule.
    """
    place = ("histories", number)
    if interval is not None:
        interval = _known(place, interval)
    if not (_any(read.open_ms) or _any(read.close_ms)):
        return Series(read.candles, symbol, interval)
    if interval is None:
        raise broken_field((*place, "interval"), "missing", "a value beside times", "nothing")
    as_of_ms = _as_of_ms((*place, "candles"), interval, read)
    return Series(read.candles, symbol, interval, as_of_ms, np.array(read.open_ms, np.int64))


def named(
    number: int, symbol: str | None, interval: str | None, above: tuple[float, ...]
) -> Series:
    """Return a history without candles, which the stream has; raises ``ProblemError``."""
    place = ("histories", number)
    if symbol is None or interval is None:
        expected = "candles, or symbol and interval of a series that the stream has"
        given = [name for name in (symbol, interval) if name is not None]
        raise broken_field((*place, "candles"), "missing", expected, " ".join(given) or "neither")
    return Series(np.empty((0, 5)), symbol, _known(place, interval), above=above)


def _known(place: Place, interval: str) -> str:
    """Return the interval that a name means; raises ``ProblemError``."""
    known = interval_named(interval)
    if known is None:
        names = ", ".join(INTERVALS_MS)
        raise broken_field((*place, "interval"), "unknown", f"one of {names}", interval[:40])
    return known


def newest(candles: Array, needed: int) -> Array:
    """Return the newest candles as a window holds them, (T, 5): rounded to 32 bits.

    Raises:
        ValueError: when there are fewer than ``needed``.
    """
    if len(candles) < needed:
        raise ValueError(f"expected at least {needed} candles, got {len(candles)}")
    return held(candles[-needed:])


def are_valid(candles: Array) -> bool:
    """True when all candles, (N, 5), obey the rules of ``shared.candles.Ohlcv``."""
    return bool(obey_rules(*candles.T).all())


def require_content(body: bytes | bytearray, form: str) -> None:
    """Refuse an empty body; raises ``ProblemError``."""
    if not body:
        message = f"expected {form} as JSON, got nothing"
        raise problem(400, FieldError(field="body", rule="empty", message=message))


def _flat(rows: Iterator[tuple[float, ...]], count: int) -> Array:
    """Return rows of five numbers as an array, in the least time of the ways tried."""
    packed = struct.pack(f"{5 * count}d", *chain.from_iterable(rows))
    return np.frombuffer(packed).reshape(count, 5)


def _timed(rows: Sequence[_Timed | TimedCandle]) -> TimedArray:
    return TimedArray(
        _flat(map(_PRICES, rows), len(rows)),
        [row.open_ms for row in rows],
        [row.close_ms for row in rows],
    )


def _are_times(read: TimedArray) -> bool:
    times = [time_ms for time_ms in chain(read.open_ms, read.close_ms) if time_ms is not None]
    return not times or (min(times) >= FIRST_MS and max(times) < END_MS)


def _any(times: list[int | None]) -> bool:
    return times.count(None) < len(times)


def _as_of_ms(place: Place, interval: str, read: TimedArray) -> int:
    """Return the close of the last candle, all times being in order; raises ``ProblemError``."""
    if None in read.open_ms:
        first = (*place, read.open_ms.index(None), "open_ms")
        raise broken_field(first, "missing", "a time as on the others", "nothing")
    opened = np.array(read.open_ms, np.int64)  # (N,)
    _check_steps(place, interval, opened)
    closed = close_ms_of(opened, interval)
    if _any(read.close_ms):
        given = [_NO_TIME if time_ms is None else time_ms for time_ms in read.close_ms]
        closed = np.where(np.equal(given, _NO_TIME), closed, given)
    length_ms = INTERVALS_MS[interval]
    strays = (closed <= opened) | (closed > opened + length_ms)
    if strays.any():
        at = int(strays.argmax())
        message = f"a time within {length_ms} ms after open_ms {opened[at]}"
        raise broken_field((*place, at, "close_ms"), "inconsistent", message, closed[at])
    return int(closed[-1])


def _check_steps(place: Place, interval: str, opened: NDArray[np.int64]) -> None:
    """Refuse opening times (N,) that do not step by the interval; raises ``ProblemError``."""
    steps = np.diff(opened)
    least = shortest_step_ms(interval)
    short = steps < least
    if short.any():
        at = int(short.argmax()) + 1
        if steps[at - 1] <= 0:
            message = f"more than {opened[at - 1]} of the candle before"
            raise broken_field((*place, at, "open_ms"), "not_rising", message, opened[at])
        message = f"at least {least} after the one before ({interval})"
        in_seconds = int(steps[at - 1]) * 1000 == INTERVALS_MS[interval]
        got = f"{steps[at - 1]} later" + (": seconds? multiply by 1000" if in_seconds else "")
        raise broken_field((*place, at, "open_ms"), "too_near", message, got)
    if (steps < FAR * INTERVALS_MS[interval]).any():
        return  # one step as long as the interval proves it, and is far cheaper to see
    found = Steps.of([opened])
    if found.contradict(interval):
        message = f"steps of {INTERVALS_MS[interval]} ({interval}) between the candles"
        got = f"most of {found.usual_ms} ({length_in_words(found.usual_ms)})"
        raise broken_field((*place, 1, "open_ms"), "other_interval", message, got)
