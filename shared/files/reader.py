"""The one reader of candle files: forms, names, times and numbers into a history, in columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from shared.files import columnar, columns, packed, records, texts
from shared.files.collector import Collector
from shared.files.packed import Blob
from shared.files.series import History, HistoryError
from shared.files.sheets import Notes, Sheet
from shared.files.tables import Table
from shared.history import Progress, ReadOptions
from shared.intervals import Steps, length_in_words

ENOUGH_STEPS: Final = 3
"""Fewest steps by which an interval is inferred, if the files have them."""


def read(
    path: Path, interval: str, options: ReadOptions, progress: Progress | None = None
) -> History:
    """Return the candles of a path; see ``shared.history.from_file``."""
    paths = packed.paths_of(path)
    sizes = [file.stat().st_size if file.exists() else 0 for file in paths]
    collector = Collector(interval, options.symbols, allow_bad_rows=options.allow_bad_rows)
    notes = Notes()
    names: list[str] = []
    for number, file in enumerate(paths):
        before = sum(sizes[:number])
        with _opened(file, path, options) as sheets:
            for sheet, position in sheets:
                table = Table(sheet, len(names), interval, options, notes)
                names.append(sheet.name)
                for rows in table.rows():
                    collector.add(rows)
                    if progress is not None:
                        progress(before + min(position.tell(), sizes[number]), sum(sizes))
    history = collector.history(
        str(path), names if len(names) > 1 else (), tuple(sorted(notes.unused))
    )
    return replace(history, notes=tuple(notes.lines()), warnings=tuple(notes.warnings()))


def interval_of(path: Path, options: ReadOptions) -> str:
    """Return the interval of a path's candles; see ``shared.history.interval_of``."""
    usual = 0
    for file in packed.paths_of(path):
        with _opened(file, path, options) as sheets:
            for number, (sheet, _) in enumerate(sheets):
                table = Table(sheet, number, "1m", options, Notes())
                steps = Steps.of(table.first_times())
                if steps.total >= ENOUGH_STEPS:
                    if found := steps.interval():
                        return found
                    usual = usual or steps.usual_ms
    got = f"most {length_in_words(usual)} apart" if usual else "too few to tell"
    raise HistoryError(f"{path}: expected candles of a known interval, got {got}: --interval")


@contextmanager
def _opened(
    file: Path, root: Path, options: ReadOptions
) -> Iterator[Iterator[tuple[Sheet, packed.Position]]]:
    """Yield the tables in a file; whatever it is damaged by becomes a ``HistoryError``."""
    try:
        with ExitStack() as stack:
            yield (
                (sheet_of(blob, tuple(options.columns.values())), position)
                for blob, position in packed.blobs_of(file, root, stack)
            )
    except OSError as error:
        raise HistoryError(f"{file}: cannot be read: {error.strerror or error}") from error
    except packed.UNREADABLE as error:
        raise HistoryError(f"{file}: cannot be read: {str(error)[:300]}") from error


def sheet_of(blob: Blob, given: tuple[str, ...] = ()) -> Sheet:
    """Return the table in a file, told by its first bytes."""
    sheet = _sheet(blob, given)
    symbols = [value for key, value in blob.folders.items() if columns.is_symbol(key)]
    return replace(sheet, symbol=symbols[0]) if symbols else sheet


def _sheet(blob: Blob, given: tuple[str, ...]) -> Sheet:
    head = blob.head
    if not head:
        raise HistoryError(f"{blob.name}: expected a header and rows, got none")
    if head.startswith(columnar.PARQUET):
        return columnar.parquet_sheet(blob)
    if head.startswith(columnar.FEATHER):
        return columnar.feather_sheet(blob)
    if records.is_json(head):
        return records.sheet_of(blob)
    return texts.sheet_of(blob, given)
