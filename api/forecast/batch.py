"""A body of many histories, read piece by piece so that others need not wait for it. Pure.

Its arrays of candles are found first and put aside; then what is left, the outline, is read as
any small body is; then one array after the other.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from api.edge.problems import ProblemError, broken_field, invalid_body, not_json
from api.edge.requests import MAX_BODY_BYTES
from api.forecast.bodies import MAX_HISTORIES, Body, ForecastsRequest, Histories, HistoryHead, Steps
from api.forecast.histories import Series, read_candles, require_content, series_of
from api.forecast.slicing import Work

MAX_ARRAYS: Final = 10 * MAX_HISTORIES
"""Arrays in a body that are looked at."""

_BEGIN: Final = re.compile(rb"\[\s*\{")


class _Head(HistoryHead):
    candles: Any  # a mark, or whatever stands there instead of an array of objects


class _Outline(Body):
    histories: Histories[_Head]
    horizons: Steps | None = None


@dataclass(frozen=True)
class Batch:
    """What a body of ``POST /v1/forecasts`` asks for."""

    histories: list[Series]
    horizons: tuple[int, ...] | None


def read_batch(body: bytes | bytearray) -> Work[Batch]:
    """Return what is asked for, by work in small pieces.

    Raises:
        ProblemError: naming the field and the rule.
    """
    require_content(body, '{"histories": [...]}')
    places: list[tuple[int, int]] = []
    for place in _arrays(body):
        places.append(place)
        yield
    mark = secrets.token_hex(8)  # which no body can know
    outline = _read_outline(body, places, mark)
    if not outline.histories:
        raise broken_field(("histories",), "too_short", "at least 1 history", "none")
    arrays = memoryview(body)
    histories: list[Series] = []
    for number, head in enumerate(outline.histories):
        array = _array_of(head, arrays, places, mark)
        read = read_candles(array, ("histories", number, "candles"))
        histories.append(series_of(number, head.symbol, head.interval, read))
        yield
    return Batch(histories, _rising(outline.horizons))


def _arrays(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield where arrays of objects begin and end, of those that hold no other array."""
    done = 0
    for _ in range(MAX_ARRAYS):
        close = body.find(b"]", done)
        if close < 0:
            return
        begin = body.rfind(b"[", done, close)
        done = close + 1
        if begin >= 0 and _BEGIN.match(body, begin):
            yield begin, done
    raise broken_field(("body",), "too_long", f"at most {MAX_ARRAYS} arrays", "more")


def _read_outline(
    body: bytes | bytearray, places: Sequence[tuple[int, int]], mark: str
) -> _Outline:
    """Return what a body holds beside its arrays of candles; in their places are marks.

    A mark is a string: within another string its quotes would break the outline. So an outline
    that is JSON, and arrays that are, prove that the body is.
    """
    parts: list[bytes | bytearray] = []
    done = 0
    for number, (begin, end) in enumerate(places):
        parts += body[done:begin], f'"{mark}{number}"'.encode()
        done = end
    outline = b"".join((*parts, body[done:]))
    if len(outline) > MAX_BODY_BYTES:
        expected = f"at most {MAX_BODY_BYTES} bytes beside the candles"
        raise broken_field(("body",), "too_large", expected, len(outline))
    try:
        return _Outline.model_validate_json(outline)
    except ValidationError as error:
        raise _odd(body, error) from None


def _odd(body: bytes | bytearray, error: ValidationError) -> ProblemError:
    """Return the problem of a body whose outline is not valid.

    A small body is looked at as a whole: where brackets stand in strings, or no candles in
    arrays, the outline's faults are not quite its own.
    """
    if len(body) > MAX_BODY_BYTES:
        return invalid_body(error)
    try:
        ForecastsRequest.model_validate_json(body)
    except ValidationError as exact:
        return invalid_body(exact)
    return not_json("body", "brackets within strings")


def _array_of(
    head: _Head, arrays: memoryview, places: Sequence[tuple[int, int]], mark: str
) -> bytes | memoryview:
    if isinstance(head.candles, str) and head.candles.startswith(mark):
        begin, end = places[int(head.candles.removeprefix(mark))]
        return arrays[begin:end]
    return json.dumps(head.candles).encode()  # for the reader to say what is wrong with it


def _rising(horizons: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if horizons is not None and list(horizons) != sorted(set(horizons)):
        raise broken_field(("horizons",), "not_rising", "rising steps", list(horizons))
    return horizons
