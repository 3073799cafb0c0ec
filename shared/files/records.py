"""Tables in JSON: arrays of objects or of arrays, lines, and the envelopes of vendors."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from shared.files import columns
from shared.files.arrow import Array, pa
from shared.files.packed import Blob
from shared.files.series import HistoryError
from shared.files.sheets import SAMPLE, Part, Sheet
from shared.messages import short

_SYMBOLS: Final = ("symbol", "ticker", "pair", "instrument", "2. Symbol", "code")
_META: Final = ("meta", "Meta Data", "metadata")
_NAMED: Final = re.compile(r"(?=.*[A-Z])[A-Z0-9^=.\-_/$]{1,20}")
"""Keys that name a symbol, where others say what is inside: ``AAPL`` but not ``bars``."""

_LAYERS: Final = 4
"""Most envelopes in each other."""

MOST_BYTES: Final = 200 << 20
"""Most bytes of a document: as Python's objects it takes ten times as much memory."""


def is_json(head: bytes) -> bool:
    """Return True when a file's first bytes begin a JSON document, or lines of them."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64]
    return start[:1] == b"{" or (start[:1] == b"[" and start[1:].lstrip()[:1] in b'{["]0123456789-')


def sheet_of(blob: Blob) -> Sheet:
    """Return the table in a JSON document; raises ``HistoryError`` when there is none."""
    data = blob.stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise HistoryError(
            f"{blob.name}: expected at most {MOST_BYTES >> 20} MB of JSON, got more: "
            "pd.read_json(path).to_parquet('candles.parquet')"
        )
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
    for _ in range(_LAYERS):
        if _is_only(document):
            document = document[0]
        if not isinstance(document, Mapping):
            break
        found = _frame(_flat(document))
        if found is not None:
            return found[0], found[1], symbol or _symbol(document)
        key, inner = _inside(name, document)
        symbol = symbol or _symbol(document) or (key if _NAMED.fullmatch(key) else None)
        document = inner
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


def _is_only(document: Any) -> bool:
    """Return True for an array with one object that is an envelope again, as in Yahoo's chart."""
    return (
        isinstance(document, list)
        and len(document) == 1
        and isinstance(document[0], Mapping)
        and not _holds_rows(document)
    )


def _inside(name: str, document: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what an envelope holds, with its key; raises ``HistoryError`` for several tables."""
    inner = {
        key: value for key, value in document.items()
        if isinstance(value, (list, Mapping)) and key not in _META
    }  # fmt: skip
    tables = [key for key, value in inner.items() if _holds_rows(value)]
    if len(tables) > 1:
        raise HistoryError(
            f"{name}: expected one table, got several ({', '.join(map(short, tables[:10]))}): "
            "write one array of objects with a symbol each, or a file for each symbol"
        )
    largest = max(inner, key=lambda key: len(inner[key]), default="")
    chosen = tables[0] if tables else largest
    return chosen, inner.get(chosen)


def _holds_rows(value: Any, layers: int = _LAYERS) -> bool:
    """Return True when there are candles in an array, or in one inside an object."""
    if isinstance(value, list) and value:
        first = value[0]
        if isinstance(first, Mapping):
            return columns.recognised(first) >= len(columns.PRICES)
        return isinstance(first, list) and len(first) > len(columns.PRICES)
    is_object = isinstance(value, Mapping) and layers > 0
    return is_object and any(_holds_rows(inner, layers - 1) for inner in value.values())


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
    listed = {key: value for key, value in document.items() if isinstance(value, list)}
    if len(listed) > 1 and (by_symbol := _by_symbol(listed)):
        return by_symbol
    inner = list(document.values())
    some = inner[0] if inner else None
    if all(isinstance(value, Mapping) for value in inner) and columns.recognised(some or ()) >= 4:
        names, values = _objects(inner)
        return ["", *names], [list(document), *values]
    return None


def _flat(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an object with the columns that Yahoo's chart has two layers further in."""
    inside = document.get("indicators")
    if not isinstance(inside, Mapping):
        return document
    listed = (quote for quotes in inside.values() if isinstance(quotes, list) for quote in quotes)
    quotes = [quote for quote in listed if isinstance(quote, Mapping)]
    outside = {name: value for name, value in document.items() if isinstance(value, list)}
    return outside | {name: column for quote in quotes for name, column in quote.items()}


def _by_column(document: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]] | None:
    cells = {name: value for name, value in document.items() if isinstance(value, (list, Mapping))}
    if columns.recognised(cells) < len(columns.PRICES):  # a candle, such as a single JSON line
        return None if any(map(_holds_rows, cells.values())) else _objects([document])
    if all(isinstance(value, list) for value in cells.values()):
        length = max((len(value) for value in cells.values()), default=0)
        names = [name for name, value in cells.items() if len(value) == length]
        return (names, [list(cells[name]) for name in names]) if length else None
    rows = [value for value in cells.values() if isinstance(value, Mapping)]
    if len(rows) < len(cells):
        return None
    index = list(dict.fromkeys(key for row in rows for key in row))
    return ["", *cells], [index, *([row.get(key) for key in index] for row in rows)]


def _by_symbol(document: Mapping[str, list[Any]]) -> tuple[list[str], list[list[Any]]] | None:
    """Return the table of arrays of objects, one for each symbol; None if they are not that."""
    filled = {symbol: rows for symbol, rows in document.items() if rows}
    if len(filled) < 2 or not all(map(_holds_rows, filled.values())):
        return None
    rows = [{**row, "symbol": symbol} for symbol, listed in filled.items() for row in listed
            if isinstance(row, Mapping)]  # fmt: skip
    return _objects(rows) if len(rows) == sum(map(len, filled.values())) else None


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
