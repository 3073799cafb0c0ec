"""Tables in Parquet and Feather, with what pandas keeps of its index and of two rows of names."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np

from shared.files.arrow import Column, pa
from shared.files.packed import Blob
from shared.files.sheets import SAMPLE, Part, Sheet

pa_feather: Final[Any] = import_module("pyarrow.feather")
pa_parquet: Final[Any] = import_module("pyarrow.parquet")

PARQUET: Final = b"PAR1"
FEATHER: Final = (b"ARROW1", b"FEA1")
"""First bytes of a file."""

BATCH_ROWS: Final = 1 << 19
"""Rows that are read at once."""

_FIRST_ROW: Final = 2  # as in a text with a header


def parquet_sheet(blob: Blob) -> Sheet:
    """Return the table in a Parquet file; raises ``pa.ArrowException`` for a damaged one."""
    file = pa_parquet.ParquetFile(_source(blob))
    names = [str(name) for name in file.schema_arrow.names]
    first = next(file.iter_batches(batch_size=SAMPLE), None)

    def parts(used: Sequence[int]) -> Iterator[Part]:
        row = _FIRST_ROW
        chosen = [names[at] for at in used]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=chosen):
            read = {at: decoded(batch.column(names[at])) for at in used}
            yield Part(read, np.arange(row, row + len(batch), dtype=np.int64))
            row += len(batch)

    return _sheet(blob, "Parquet", names, [] if first is None else first.columns, parts)


def feather_sheet(blob: Blob) -> Sheet:
    """Return the table in a Feather file; raises ``pa.ArrowException`` for a damaged one."""
    table = pa_feather.read_table(_source(blob), memory_map=False)
    table.validate(full=True)  # offsets of a damaged file point anywhere
    names = [str(name) for name in table.column_names]

    def parts(used: Sequence[int]) -> Iterator[Part]:
        read = {at: decoded(table.column(at)) for at in used}
        yield Part(read, np.arange(_FIRST_ROW, _FIRST_ROW + len(table), dtype=np.int64))

    return _sheet(blob, "Feather", names, table.slice(0, SAMPLE).columns, parts)


def _source(blob: Blob) -> Any:
    """Return the bytes as a file that can be read anywhere: in place where they are not packed."""
    if blob.path is not None and not blob.packing:
        return pa.memory_map(str(blob.path))
    return pa.BufferReader(blob.stream.read())


def _sheet(
    blob: Blob, form: str, names: list[str], columns: Sequence[Column], parts: object
) -> Sheet:
    cells = [[_shown(value) for value in decoded(column).to_pylist()] for column in columns]
    upper, below = _levels(names)
    return Sheet(
        blob.name,
        blob.stem,
        ", ".join([*blob.packing, form]),
        tuple(upper),
        list(zip(*cells, strict=True)),
        parts,  # type: ignore[arg-type]
        len(names),
        None if below is None else tuple(below),
    )


def _levels(names: list[str]) -> tuple[list[str], list[str] | None]:
    """Return the names, of a frame with two rows of them both: ``('Close', 'AAPL')``."""
    pairs = [_pair(name) for name in names]
    if sum(pair is not None for pair in pairs) < 4:
        return names, None
    split = [pair or (name, "") for pair, name in zip(pairs, names, strict=True)]
    return [upper for upper, _ in split], [lower for _, lower in split]


def _pair(name: str) -> tuple[str, str] | None:
    if not name.startswith("("):
        return None
    try:
        value = ast.literal_eval(name)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(value, tuple) and len(value) == 2:
        return str(value[0]), str(value[1])
    return None


def decoded(column: Column) -> Column:
    """Return a column without dictionary and in plain strings."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return decoded(column.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    return column


def _shown(value: object) -> str:
    return "" if value is None else str(value)
