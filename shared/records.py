"""Tables in JSON: arrays of objects or of arrays, lines, and the envelopes of vendors."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from shared import columns
from shared.arrow import Array, pa
from shared.packed import Blob
from shared.series import HistoryError
from shared.sheets import SAMPLE, Part, Sheet

_SYMBOLS: Final = ("symbol", "ticker", "pair", "instrument", "2. Symbol", "code")
_META: Final = ("meta", "Meta Data", "metadata")
_MOST_BYTES: Final = 1 << 30


def is_json(head: bytes) -> bool:
    """Return True when a file's first bytes begin a JSON document, or lines of them."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64]
    return start[:1] == b"{" or (start[:1] == b"[" and start[1:].lstrip()[:1] in b'{["]0123456789-')


def sheet_of(blob: Blob) -> Sheet:
    """Return the table in a JSON document; raises ``HistoryError`` when there is none."""
    data = blob.stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise HistoryError(f"{blob.name}: expected at most 1 GB of JSON, got more: use Parquet")
    data = data.removeprefix(b"\xef\xbb\xbf")
    form = "JSON"
    try:
        document = _loaded(data)
    except ValueError as error:
        document = _lines(blob.name, data, error)
        form = "JSON lines"
    table = _table(blob.name, document)
    return _sheet(blob, form, *table)


def _loaded(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data)  # takes NaN, as pandas and Python write it
    except RecursionError as error:
        raise ValueError("too deep") from error


def _lines(name: str, data: bytes, error: ValueError) -> list[Any]:
    """Return the documents of lines; raises ``HistoryError`` if the first is not one."""
    rows: list[Any] = []
    for number, line in enumerate(io.BytesIO(data), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_loaded(line))
        except ValueError as broken:
            what = broken if rows else error
            raise HistoryError(f"{name}: row {number}: expected JSON, got {what}") from broken
    return rows


Table = tuple[list[str] | None, list[list[Any]], str | None]
"""Names, None for arrays without; values by column; the symbol beside the rows."""


def _table(name: str, document: Any) -> Table:
    symbol = None
    for _ in range(4):  # envelopes
        if isinstance(document, list) or not isinstance(document, Mapping):
            break
        found = _frame(document)
        if found is not None:
            return found[0], found[1], symbol or _symbol(document)
        symbol = symbol or _symbol(document)
        document = _inside(document)
    if isinstance(document, list) and document:
        if all(isinstance(row, Mapping) for row in document):
            return (*_objects(document), symbol)
        if all(isinstance(row, list) for row in document):
            width = max(len(row) for row in document)
            values = [
                [row[at] if at < len(row) else None for row in document] for at in range(width)
            ]
            return None, values, symbol
    raise HistoryError(
        f"{name}: expected an array of objects or of arrays, got something else: "
        "df.to_json(path, orient='records', date_format='iso') writes one"
    )


def _symbol(document: Mapping[str, Any]) -> str | None:
    places = [document, *(document[key] for key in _META if isinstance(document.get(key), Mapping))]
    for place in places:
        for key in _SYMBOLS:
            if isinstance(place.get(key), str):
                return str(place[key])
    return None


def _inside(document: Mapping[str, Any]) -> Any:
    """Return what an envelope holds: its longest array or object."""
    inner = [value for key, value in document.items() if isinstance(value, (list, Mapping))
             and key not in _META]  # fmt: skip
    return max(inner, key=len, default=None)


def _frame(document: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]] | None:
    """Return the table in an object: by column, by index, split, or by symbol; None if none."""
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        names = [str(name) for name in document["columns"]]
        rows = [row if isinstance(row, list) else [] for row in document["data"]]
        values = [[row[at] if at < len(row) else None for row in rows] for at in range(len(names))]
        index = document.get("index")
        if isinstance(index, list) and len(index) == len(rows):
            return ["", *names], [list(index), *values]
        return names, values
    if columns.recognised(document) >= len(columns.PRICES):
        return _by_column(document)
    inner = list(document.values())
    if inner and all(isinstance(value, list) for value in inner):
        return _by_symbol(document)
    some = inner[0] if inner else None
    if all(isinstance(value, Mapping) for value in inner) and columns.recognised(some or ()) >= 4:
        names, values = _objects(inner)
        return ["", *names], [list(document), *values]
    return None


def _by_column(document: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]] | None:
    cells = {name: value for name, value in document.items() if isinstance(value, (list, Mapping))}
    if all(isinstance(value, list) for value in cells.values()):
        length = max((len(value) for value in cells.values()), default=0)
        names = [name for name, value in cells.items() if len(value) == length]
        return (names, [list(cells[name]) for name in names]) if length else None
    rows = [value for value in cells.values() if isinstance(value, Mapping)]
    if len(rows) < len(cells):
        return None
    index = list(dict.fromkeys(key for row in rows for key in row))
    return ["", *cells], [index, *([row.get(key) for key in index] for row in rows)]


def _by_symbol(document: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]] | None:
    rows = [
        {**row, "symbol": symbol}
        for symbol, listed in document.items()
        for row in listed
        if isinstance(row, Mapping)
    ]
    several = sum(bool(listed) for listed in document.values()) > 1
    if not rows or not several or columns.recognised(rows[0]) < 4:
        return None
    return _objects(rows)


def _objects(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    names = list(dict.fromkeys(str(key) for row in rows for key in row))
    return names, [[row.get(name) for row in rows] for name in names]


def _sheet(
    blob: Blob, form: str, names: list[str] | None, values: list[list[Any]], symbol: str | None
) -> Sheet:
    arrays = [_array(column) for column in values]
    count = len(values[0]) if values else 0
    shown = [["" if cell is None else str(cell) for cell in column[:SAMPLE]] for column in values]

    def parts(used: Sequence[int]) -> Iterator[Part]:
        yield Part({at: arrays[at] for at in used}, np.arange(1, count + 1, dtype=np.int64))

    return Sheet(
        blob.name,
        blob.stem,
        ", ".join([*blob.packing, form]),
        None if names is None else tuple(names),
        list(zip(*shown, strict=True)),
        parts,
        len(values),
        symbol=symbol,
    )


def _array(values: list[Any]) -> Array:
    kinds = {type(value) for value in values} - {type(None)}
    try:
        if kinds <= {int}:
            return pa.array(values, pa.int64())
        if kinds <= {int, float}:
            return pa.array([None if v is None else float(v) for v in values], pa.float64())
    except (OverflowError, pa.ArrowInvalid):
        pass
    texts = [value if isinstance(value, str) or value is None else _text(value) for value in values]
    return pa.array([None if text is None else _encodable(text) for text in texts], pa.string())


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, list, dict)) else repr(value)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
