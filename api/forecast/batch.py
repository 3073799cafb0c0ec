"""Reads the body of many histories in slices."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from api.edge.problems import broken_field, invalid_body, not_json
from api.edge.requests import MAX_BODY_BYTES
from api.edge.slicing import Work
from api.forecast.bodies import Body, ForecastsRequest, Histories, HistoryFields, Steps
from api.forecast.histories import Series, named, read_candles, require_content, series_of
from api.forecast.outline import Outline, end_of_objects, outline_of


class _Head(HistoryFields):
    candles: Any = None  # a mark of the outline, or what stands there instead of an array


class _Request(Body):
    histories: Histories[_Head]
    horizons: Steps | None = None


@dataclass(frozen=True)
class Batch:
    """Valid histories, and the steps to forecast."""

    histories: list[Series]
    horizons: tuple[int, ...] | None


def read_batch(body: bytes | bytearray) -> Work[Batch]:
    """Return the histories and horizons in a body, by work in slices.

    Raises:
        ProblemError: naming the field and the rule.
    """
    require_content(body, '{"histories": [...]}')
    outline = yield from outline_of(body, "candles", end_of_objects)
    request = _read(outline, body)
    if not request.histories:
        raise broken_field(("histories",), "too_short", "at least 1 history", "none")
    histories: list[Series] = []
    for number, head in enumerate(request.histories):
        if "candles" not in head.model_fields_set:
            histories.append(named(number, head.symbol, head.interval, head.above))
            continue
        array = outline.array(head.candles)
        # anything else than an array is for the reader to refuse
        candles = json.dumps(head.candles).encode() if array is None else array
        read = read_candles(candles, ("histories", number, "candles"))
        series = series_of(number, head.symbol, head.interval, read)
        histories.append(replace(series, above=head.above) if head.above else series)
        yield
    outline.require_all_read()
    return Batch(histories, _in_order(request.horizons))


def _read(outline: Outline, body: bytes | bytearray) -> _Request:
    """Return the request in an outline.

    Where that is not valid, a small body is looked at as a whole: brackets in strings, or what is
    not candles in arrays, give the outline faults that are not quite its own.
    """
    try:
        return _Request.model_validate_json(outline.text)
    except ValidationError as error:
        if len(body) > MAX_BODY_BYTES:
            raise invalid_body(error) from None
    try:
        ForecastsRequest.model_validate_json(body)
    except ValidationError as exact:
        raise invalid_body(exact) from None
    raise not_json("body", "brackets within strings")


def _in_order(horizons: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if horizons is None else tuple(sorted(set(horizons)))
