"""Files, folders, globs and archives as streams of bytes: what they are packed with is unpacked."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, BinaryIO, Final, Protocol, cast

from shared.files.arrow import pa
from shared.files.series import HistoryError

HEAD_BYTES: Final = 1 << 20
"""Bytes of a stream that are looked at to tell what it is."""

MOST_TIMES: Final = 50
"""Times a file's size that it may unpack to, beyond ``FREE_BYTES``: candles pack to a twentieth."""

FREE_BYTES: Final = 256 << 20
"""Bytes that a file of any size may unpack to."""

UNREADABLE: Final = (
    OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException,
    UnicodeError,
)  # fmt: skip
"""What reading a damaged file may raise."""

_MAGIC: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_FOREIGN: Final = {
    b"\xd0\xcf\x11\xe0": "an old Excel sheet: pd.read_excel(path).to_parquet('candles.parquet')",
    b"\x89HDF": "HDF5: pd.read_hdf(path).to_parquet('candles.parquet')",
    b"SQLite format 3": "a SQLite database: pd.read_sql('select * from …', …).to_parquet(…)",
    b"ORC": "ORC: pd.read_orc(path).to_parquet('candles.parquet')",
    b"%PDF": "a PDF",
    b"\x80\x04\x95": "a pickle: pd.read_pickle(path).to_parquet('candles.parquet')",
    b"\x80\x05\x95": "a pickle: pd.read_pickle(path).to_parquet('candles.parquet')",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
}
_ENDINGS: Final = frozenset(
    [
        ".csv",
        ".txt",
        ".tsv",
        ".psv",
        ".dat",
        ".json",
        ".jsonl",
        ".ndjson",
        ".parquet",
        ".pq",
        ".feather",
        ".arrow",
        ".ftr",
        ".ipc",
        ".gz",
        ".gzip",
        ".bz2",
        ".xz",
        ".zip",
        ".zst",
        ".zstd",
        ".lz4",
    ]
)
_PERIOD: Final = (
    r"\d{1,3}(?:m|min|h|hour|d|day|w|wk|mo|M)|(?-i:[dhm])|1?day|daily|hourly|weekly|monthly|minute|intraday|"
    r"adjusted|history|historic|historical|data|ohlcv|candles|M\d+|H\d|D1|W1"
)
_STEM: Final = re.compile(
    rf"(?:(?:intraday|daily|weekly|monthly|adjusted|\d+min)[-_ ])*(?P<symbol>.+?)"
    rf"(?:[-_ ](?:{_PERIOD}))*(?:[-_ ]\d{{4}}(?:[-_]?\d{{2}}){{0,2}})*",
    re.IGNORECASE,
)
_OTHER_STEM: Final = re.compile(
    r"part[-_.]?\d+.*|(?:historical)?[-_ ]?data[-_]?\d*|\d+|candles?|prices?|ohlcv|"
    r"daily|history|intraday|klines?|quotes?|stocks?|table|download",
    re.IGNORECASE,
)
"""Names of files that are not those of symbols."""

_LAYERS: Final = 4
_GLOB: Final = frozenset("*?[")


class Position(Protocol):
    """A file on disk, which knows how far it has been read."""

    def tell(self) -> int:
        """Return the bytes that were read."""
        ...


@dataclass
class Blob:
    """One file's bytes, unpacked, from the beginning."""

    name: str  # for people, with that of its archive
    stem: str  # the file's own name without endings
    stream: io.BufferedReader
    packing: tuple[str, ...]  # from the outside in
    folders: Mapping[str, str] = field(default_factory=dict)  # what Hive's folders say
    path: Path | None = None  # of the file on disk

    @property
    def head(self) -> bytes:
        """The first bytes; the stream stays where it is, at its start."""
        return self.stream.peek(HEAD_BYTES)[:HEAD_BYTES]


class _Budget:
    """Bytes that a file may still unpack to, all its members and layers together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = FREE_BYTES + MOST_TIMES * path.stat().st_size

    def spend(self, count: int) -> None:
        """Take some bytes; raises ``HistoryError`` when there are not as many."""
        self._left -= count
        if self._left < 0:
            raise HistoryError(
                f"{self._path}: expected a file that unpacks to at most {MOST_TIMES} times its "
                f"size and {FREE_BYTES >> 20} MB, got more: unpack it first if you trust it"
            )


class _Readable(io.RawIOBase):
    """Makes a file of anything with ``read``."""

    def __init__(self, source: BinaryIO, budget: _Budget | None = None) -> None:
        self._source = source
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        data = self._source.read(len(view))
        if self._budget is not None:
            self._budget.spend(len(data))
        view[: len(data)] = data
        return len(data)


def paths_of(path: Path) -> list[Path]:
    """Return the files of a path: itself, those in a folder, or those that a glob matches.

    Names that begin with a point or an underscore are left out, as Spark and macOS write them.

    Raises:
        HistoryError: when there is none.
    """
    if path.is_dir():
        inside = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not any(p[0] in "._" for p in file.relative_to(path).parts)
        ]
        if not inside:
            raise HistoryError(f"{path}: expected files in the folder, got none")
        return inside
    if not path.exists() and _GLOB & set(str(path)):
        matched = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        files = [file for file in matched if file.is_file()]
        if not files:
            raise HistoryError(f"{path}: expected files that match, got none")
        return files
    return [path]


def blobs_of(path: Path, root: Path, stack: ExitStack) -> Iterator[tuple[Blob, Position]]:
    """Yield the blobs in a file, of an archive each of its members, with the file on disk.

    Args:
        path: the file.
        root: what the user named: the file itself, its folder or a glob.
        stack: closes what is opened.

    Raises:
        HistoryError: when it is nothing that holds a table.
    """
    raw = stack.enter_context(path.open("rb"))
    stream = _buffered(raw)
    blob = Blob(str(path), stem_of(path), stream, (), _folders(path, root), path)
    for found in _unpacked(blob, _LAYERS, _Budget(path)):
        yield found, raw


def stem_of(path: PurePath) -> str:
    """Return a file's name without the endings of forms and packings."""
    while path.suffix.lower() in _ENDINGS:
        path = path.with_suffix("")
    return path.name


def symbol_in(stem: str) -> str | None:
    """Return the symbol in a file's name, without interval and dates; None where it is none."""
    if _OTHER_STEM.fullmatch(stem):
        return None
    found = _STEM.fullmatch(stem)
    return found["symbol"] if found else stem


def _folders(path: Path, root: Path) -> Mapping[str, str]:
    if path == root or not path.is_relative_to(root):
        return {}
    parts = (part.partition("=") for part in path.relative_to(root).parts[:-1])
    return {key: value for key, mark, value in parts if mark}


def _unpacked(blob: Blob, layers: int, budget: _Budget) -> Iterator[Blob]:
    head = blob.head
    for magic, mending in _FOREIGN.items():
        if head.startswith(magic):
            raise HistoryError(
                f"{blob.name}: expected a table as text, JSON or Parquet, got {mending}"
            )
    if head[257:262] == b"ustar":
        raise HistoryError(f"{blob.name}: expected a table, got a tar archive: unpack it first")
    packing = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if packing is None:
        yield blob
        return
    if not layers:
        raise HistoryError(f"{blob.name}: expected at most {_LAYERS} packings, got more")
    if packing == "zip":
        yield from _members(blob, layers, budget)
        return
    inner = _buffered(_opened(blob.stream, packing), budget)
    unpacked = Blob(blob.name, blob.stem, inner, (*blob.packing, packing), blob.folders)
    yield from _unpacked(unpacked, layers - 1, budget)


def _buffered(stream: BinaryIO, budget: _Budget | None = None) -> io.BufferedReader:
    return io.BufferedReader(cast("io.RawIOBase", _Readable(stream, budget)), HEAD_BYTES)


def _opened(stream: io.BufferedReader, packing: str) -> BinaryIO:
    if packing == "gzip":
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    if packing == "bzip2":
        return cast("BinaryIO", bz2.BZ2File(stream))
    if packing == "xz":
        return cast("BinaryIO", lzma.LZMAFile(stream))
    return cast("BinaryIO", pa.CompressedInputStream(pa.PythonFile(stream, "r"), packing))


def _members(blob: Blob, layers: int, budget: _Budget) -> Iterator[Blob]:
    with _archive(blob) as archive:
        members = [
            member
            for member in sorted(archive.infolist(), key=lambda member: member.filename)
            if not member.is_dir()
            and not any(part[:1] in "._" for part in PurePath(member.filename).parts)
        ]
        if any(member.filename == "xl/workbook.xml" for member in members):
            raise HistoryError(
                f"{blob.name}: expected a table as text, JSON or Parquet, got an Excel sheet: "
                "pd.read_excel(path).to_parquet('candles.parquet')"
            )
        if not members:
            raise HistoryError(f"{blob.name}: expected a file in the archive, got none")
        for member in members:
            with _member(blob, archive, member) as opened:
                stream = _buffered(cast("BinaryIO", opened), budget)
                name = PurePath(member.filename)
                shown = blob.name if len(members) == 1 else f"{blob.name}/{member.filename}"
                inner = Blob(shown, stem_of(name), stream, (*blob.packing, "zip"), blob.folders)
                yield from _unpacked(inner, layers - 1, budget)


def _archive(blob: Blob) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(blob.stream.read()))
    except ValueError as error:  # a directory before the start of the file
        raise HistoryError(f"{blob.name}: cannot be unpacked: {error}") from error


def _member(blob: Blob, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return archive.open(member)
    except (RuntimeError, NotImplementedError, ValueError) as error:  # a password, a rare packing
        raise HistoryError(f"{blob.name}: cannot be unpacked: {error}") from error
