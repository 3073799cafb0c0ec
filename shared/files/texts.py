"""Tables as text: finds out encoding, separator and header, and reads block by block."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final

import numpy as np

from shared.candles import RejectReason
from shared.files import columns, headless
from shared.files.arrow import pa
from shared.files.collector import Fault
from shared.files.packed import HEAD_BYTES, Blob
from shared.files.series import HistoryError
from shared.files.sheets import SAMPLE, Part, Sheet

pa_csv: Final[Any] = import_module("pyarrow.csv")

SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What may stand between two cells, in words."""

BLOCK_BYTES: Final = 16 << 20
"""Bytes of text that are read at once."""

MAX_LINE_BYTES: Final = 1 << 20
_ABOVE: Final = 40
"""Most lines above the header."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class _Dialect:
    """How a text is written."""

    encoding: str
    mark: int  # bytes of the byte-order mark
    newline: bytes
    separator: str = ","
    skipped: int = 0  # lines before the first row of values
    names: tuple[str, ...] | None = None
    below: tuple[str, ...] | None = None
    width: int = 0


Lines = list[tuple[int, list[str]]]
"""Numbers of lines with their cells."""


def sheet_of(blob: Blob, given: Sequence[str]) -> Sheet:
    """Return the table in a text.

    Args:
        blob: the text.
        given: names of columns that the user gives.

    Raises:
        HistoryError: when it is not a table.
    """
    dialect = _encoding(blob)
    text = _decoded(blob.head, dialect)
    rows = {mark: _rows(text, mark) for mark in SEPARATORS}
    dialect = _structure(blob.name, dialect, rows, given)
    sample = [
        cells for line, cells in rows[dialect.separator] if line > dialect.skipped and any(cells)
    ][:SAMPLE]
    dialect = _with_trailing(dialect, sample)
    words = [*blob.packing, f"text separated by {SEPARATORS[dialect.separator]}"]
    if dialect.encoding != "utf-8":
        words.append(dialect.encoding.upper())
    return Sheet(
        blob.name,
        blob.stem,
        ", ".join(words),
        dialect.names,
        sample,
        lambda used: _parts(blob, dialect, used),
        dialect.width,
        dialect.below,
    )


def _encoding(blob: Blob) -> _Dialect:
    head = blob.head
    newline = b"\r" if b"\r" in head and b"\n" not in head else b"\n"
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return _Dialect(encoding, len(mark), newline)
    if b"\x00" in head:
        even, odd = head[:1000:2].count(0), head[1:1000:2].count(0)
        if min(even, odd) > 0.05 * len(head[:500]) or max(even, odd) < 0.2 * len(head[:500]):
            raise HistoryError(
                f"{blob.name}: expected a table as text, JSON, Parquet or Feather, got other bytes"
            )
        return _Dialect("utf-16-le" if odd > even else "utf-16-be", 0, newline)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return _Dialect("cp1252", 0, newline)
    return _Dialect("utf-8", 0, newline)


def _decoded(head: bytes, dialect: _Dialect) -> str:
    """Return the whole lines at the beginning of a text."""
    decoder = codecs.getincrementaldecoder(dialect.encoding)(errors="replace")
    is_all = len(head) < HEAD_BYTES
    text = decoder.decode(head[dialect.mark :], final=is_all)
    if not is_all and "\n" in text:
        text = text[: text.rindex("\n") + 1]
    return text


def _rows(text: str, separator: str) -> Lines:
    """Return the first rows of a text, as far as they can be read."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    found: Lines = []
    try:
        for cells in reader:
            found.append((reader.line_num, cells))
            if len(found) >= SAMPLE + _ABOVE:
                break
    except csv.Error:
        pass
    return found


def _structure(
    name: str, dialect: _Dialect, rows: dict[str, Lines], given: Sequence[str]
) -> _Dialect:
    """Find the separator and the header: the row that names the most parts of a candle."""
    best: tuple[int, int, str] = (0, 0, ",")
    for separator, lines in rows.items():
        for at, (_, cells) in enumerate(lines[:_ABOVE]):
            count = columns.recognised(cells, given) if len(cells) > 1 else 0
            if count > best[0]:
                best = (count, at, separator)
    count, at, separator = best
    if count >= 3 or (count and len(given) >= 3):
        return _headed(dialect, separator, rows[separator], at)
    for separator, lines in rows.items():
        for at, (line, cells) in enumerate(lines[:_ABOVE]):
            values = [row for _, row in lines[at : at + SAMPLE]]
            if len(cells) >= 6 and headless.layout(values) is not None:
                return _replaced(dialect, separator, line - 1, None, width=len(cells))
    return _unrecognised(name, dialect, rows)


def _headed(dialect: _Dialect, separator: str, lines: Lines, at: int) -> _Dialect:
    """Return the dialect with the names of a row, and of the one below or above it."""
    line, names = lines[at]
    above = lines[at - 1][1] if at else []
    under = [cells for _, cells in lines[at + 1 : at + 3]]
    if under and _are_symbols(under[0], names):
        below = under[0]
        end = lines[at + 1][0]
        if len(under) > 1 and _is_index_name(under[1]):
            end = lines[at + 2][0]
        return _replaced(dialect, separator, end, names, below=below)
    if above and above[0] and _are_symbols(above, names):
        end = lines[at + 1][0] if under and _is_index_name(under[0]) else line
        return _replaced(dialect, separator, end, above, below=names)
    return _replaced(dialect, separator, line, names)


def _are_symbols(cells: Sequence[str], names: Sequence[str]) -> bool:
    """Return True when a row beside the names has a symbol for each column but the first."""
    if len(cells) != len(names) or columns.plain(cells[0]) not in {
        "",
        "ticker",
        "tickers",
        "symbol",
        "symbols",
    }:
        return False
    return all(cell.strip() and not _is_number(cell) for cell in cells[1:])


def _is_index_name(cells: Sequence[str]) -> bool:
    role = columns.role_of(cells[0]) if cells else None
    return bool(role and role[0] == "time" and not any(cell.strip() for cell in cells[1:]))


def _is_number(cell: str) -> bool:
    return bool(cell.strip()) and not any(character.isalpha() for character in cell)


def _unrecognised(name: str, dialect: _Dialect, rows: dict[str, Lines]) -> _Dialect:
    """Take the first row of words as names, so that the error can show them."""
    separator = max(rows, key=lambda mark: max((len(cells) for _, cells in rows[mark]), default=0))
    lines = rows[separator]
    width = max((len(cells) for _, cells in lines), default=0)
    text = " ".join(" ".join(cells) for _, cells in lines[:3]).strip()
    if not text:
        raise HistoryError(f"{name}: expected a header and rows, got none")
    if text[:1] == "<" and "html" in text.lower():
        raise HistoryError(f"{name}: expected a table, got a web page: download the file itself")
    if width < 2:
        raise HistoryError(
            f"{name}: expected columns separated by {', '.join(SEPARATORS.values())}, got one "
            f"column: {text[:60]!r}; if spaces separate them: "
            "pd.read_csv(path, sep=r'\\s+').to_csv('candles.csv', index=False)"
        )
    first = next(at for at, (_, cells) in enumerate(lines) if len(cells) == width)
    line, cells = lines[first]
    if not any(_is_number(cell) for cell in cells):
        return _replaced(dialect, separator, line, cells)
    return _replaced(dialect, separator, line - 1, None, width=width)


def _replaced(
    dialect: _Dialect, separator: str, skipped: int, names: Sequence[str] | None, *,
    below: Sequence[str] | None = None, width: int = 0,
) -> _Dialect:  # fmt: skip
    return replace(
        dialect,
        separator=separator,
        skipped=skipped,
        names=None if names is None else tuple(cell.strip() for cell in names),
        below=None if below is None else tuple(cell.strip() for cell in below),
        width=width or len(names or ()),
    )


def _with_trailing(dialect: _Dialect, sample: Sequence[Sequence[str]]) -> _Dialect:
    """Return the dialect with an empty column more if every row ends with a separator."""
    if dialect.names is None or not sample:
        return dialect
    if all(len(cells) == dialect.width + 1 and not cells[-1].strip() for cells in sample):
        return replace(dialect, width=dialect.width + 1)
    return dialect


def _parts(blob: Blob, dialect: _Dialect, used: Sequence[int]) -> Iterator[Part]:
    for block, line in _blocks(blob, dialect):
        yield _fast(block, line, dialect, used) or _exact(blob.name, block, line, dialect, used)


def _blocks(blob: Blob, dialect: _Dialect) -> Iterator[tuple[bytes, int]]:
    """Yield whole lines in UTF-8 after the header, with the number of the first."""
    decoder = codecs.getincrementaldecoder(dialect.encoding)(errors="replace")
    blob.stream.read(dialect.mark)
    rest, line, skipped = b"", 1, dialect.skipped
    is_last = False
    following = blob.stream.read(BLOCK_BYTES)
    while not is_last:
        data, following = following, blob.stream.read(BLOCK_BYTES)
        is_last = not following
        if dialect.encoding != "utf-8":
            data = decoder.decode(data, final=is_last).encode()
        block = rest + data
        if dialect.newline == b"\r":
            block = block.replace(b"\r", b"\n")
        while skipped and (end := block.find(b"\n")) >= 0:
            block = block[end + 1 :]
            line, skipped = line + 1, skipped - 1
        if skipped:
            rest = block
            continue
        end = len(block) if is_last else _end_of_lines(block)
        if not end and len(block) > BLOCK_BYTES + MAX_LINE_BYTES:
            raise HistoryError(
                f"{blob.name}: expected lines, got one of more than {MAX_LINE_BYTES} bytes"
            )
        rest, block = block[end:], block[:end]
        if block.strip():
            yield block, line
        line += block.count(b"\n")


def _end_of_lines(block: bytes) -> int:
    """Return the position after the last line that does not end inside quotes."""
    end = block.rfind(b"\n") + 1
    if b'"' not in block:
        return end
    stop = max(end - MAX_LINE_BYTES, 0)
    quotes = block.count(b'"', 0, end)
    while end > stop and quotes % 2:
        before = block.rfind(b"\n", 0, end - 1) + 1
        quotes -= block.count(b'"', before, end)
        end = before
    return end or block.rfind(b"\n") + 1


def _fast(block: bytes, line: int, dialect: _Dialect, used: Sequence[int]) -> Part | None:
    """Return a block that holds a row on every line; None if it does not."""
    kept = block.rstrip(b"\r\n")
    names = [str(at) for at in range(dialect.width)]
    chosen = [str(at) for at in used]
    try:
        table = pa_csv.read_csv(
            pa.py_buffer(kept),
            read_options=pa_csv.ReadOptions(column_names=names, block_size=4 << 20),
            parse_options=pa_csv.ParseOptions(
                delimiter=dialect.separator, newlines_in_values=True, ignore_empty_lines=False
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(chosen, pa.string()),
                include_columns=chosen,
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    if len(table) != kept.count(b"\n") + 1:
        return None
    rows = np.arange(line, line + len(table), dtype=np.int64)
    return Part({at: table.column(str(at)) for at in used}, rows)


def _exact(name: str, block: bytes, line: int, dialect: _Dialect, used: Sequence[int]) -> Part:
    """Return a block row by row: with blank lines, rows of other lengths, lines within cells."""
    try:
        text = block.decode()
    except UnicodeDecodeError:
        text = block.decode("cp1252", errors="replace")
    lines = io.StringIO(text.replace("\x00", "\ufffd"), newline="")
    reader = csv.reader(lines, delimiter=dialect.separator)
    cells: list[list[str]] = [[] for _ in used]
    rows: list[int] = []
    faults: dict[int, Fault] = {}
    try:
        for row in reader:
            if not any(row):
                continue
            if any(row[dialect.width :]):
                detail = f"expected {dialect.width} values, got {row[dialect.width :]} beyond them"
                faults[len(rows)] = (detail[:300], RejectReason.WRONG_TYPE)
            rows.append(line + reader.line_num - 1)
            for column, at in zip(cells, used, strict=True):
                column.append(row[at] if at < len(row) else "")
    except csv.Error as error:
        at_row = line + reader.line_num
        raise HistoryError(f"{name}: row {at_row}: expected cells of text, got {error}") from error
    columns_read = {
        at: pa.array(column, pa.string()) for at, column in zip(used, cells, strict=True)
    }
    return Part(columns_read, np.array(rows, np.int64), faults)
