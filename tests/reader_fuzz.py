"""Fuzz of the reader of files: real forms, mutated, are read or refused in words.

``python -m tests.reader_fuzz 100000`` tries so many files and prints how many were read and how
many refused; a failure names its seed, and ``python -m tests.reader_fuzz 1 SEED`` repeats it.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.progress import track

from shared.files import findings
from shared.files.series import HistoryError
from shared.history import ReadOptions, from_file, interval_of
from tests import panels
from tests.vendors import VENDORS, walk

TOKENS: Final = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xf0\x9f\x92\xb0", b"\n", b"\r", b"\r\n", b",",
    b";", b"\t", b"|", b'"', b"'", b"\\", b"[", b"]", b"{", b"}", b":", b"nan", b"inf", b"-",
    b"+", b"0", b"1e999", b"1e-999", b"-1", b"1,234", b"1.234", b"1.234,5", b"$", b"%", b"(",
    b"null", b"None", b"true", b"99999999999999999999", b"9223372036854775807",
    b"-9223372036854775808", b"1.7976931348623157e308", b"4.9e-324", b"0001-01-01", b"9999-12-31",
    b"1969-12-31", b"2262-04-12", b"1677-09-21", b"2024-02-30", b"31/02/2024", b"01/02/2024",
    b"24:00", b"23:59:60", b"+99:99", b"2024-01-02T00:00:00Z", b"20240102", b"1704153600",
    b"1704153600000", b"1704153600000000", b"1704153600000000000", b"Date", b"Open", b"Close",
    b"Ticker", b"symbol", b"AAPL", b"Volume", b"\xe2\x88\x92", b"\xc2\xa0", b"1K", b"12:30 PM",
    b"('Close', 'AAPL')",
)  # fmt: skip
"""What goes wrong in files, between what is right in them."""

OPTIONS: Final = (
    *[ReadOptions()] * 6,
    ReadOptions(allow_bad_rows=True),
    ReadOptions(allow_bad_rows=True, symbol="X", timezone="America/New_York"),
    ReadOptions(date_format="%m/%d/%Y", decimal=","),
    ReadOptions(columns={"time": "1", "open": "2", "high": "3", "low": "4", "close": "5",
                         "volume": "6"}, decimal="."),
    ReadOptions(symbols=("AAPL",), rename={"MSFT": "AAPL"}, timezone="Asia/Tokyo"),
)  # fmt: skip


def _forms() -> Iterator[bytes]:
    for vendor in VENDORS.values():
        yield vendor.write(vendor.rows())
    rows = walk("A", "1d", 1) + walk("BRK B", "1d", 2)
    for time_form in panels.TIMES:
        yield panels.text_of(rows, panels.Written(time=time_form))
    for encoding in ("utf-8-sig", "utf-16", "utf-16-be", "utf-32"):
        yield panels.text_of(rows, panels.Written(encoding=encoding, quoted=True, above=("x", "")))
    yield panels.text_of(
        rows, panels.Written(separator=";", decimal=",", thousands=".", repeat_header=True)
    )
    yield panels.wide_of(rows)
    yield panels.wide_of(rows, price_first=False)
    with TemporaryDirectory() as folder:
        for name, write in panels.FRAMES.items():
            path = Path(folder) / name.replace(",", "")
            write(panels.frame_of(rows), path)
            yield path.read_bytes()


@cache
def forms() -> tuple[bytes, ...]:
    """Return files of every form that is read."""
    return tuple(_forms())


def _mutated(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        if chance.random() < 0.4:  # where a cell begins
            at = data.find(chance.choice((b",", b"\n", b'"', b":", b" ")), at) + 1
        end = min(at + int(chance.expovariate(0.2)), len(data))
        other = chance.choice(forms())
        start = chance.randrange(len(other) + 1)
        token = chance.choice(TOKENS)
        byte = bytes([chance.randrange(256)])
        inserts = (token, token * 40, byte, data[at:end] * 2, other[start : start + 200])
        between = chance.choice(inserts)
        data = data[:at] + between + data[end:]
        if chance.random() < 0.05:
            data = data[: chance.randrange(len(data) + 1)]
        if chance.random() < 0.02:
            data += other
    return data


def mutated(seed: int) -> tuple[bytes, ReadOptions]:
    """Return a file made of a form by mutation, and options to read it with."""
    chance = random.Random(seed)
    data = _mutated(chance.choice(forms()), chance)
    if chance.random() < 0.25:
        packing = panels.PACKINGS[chance.choice(sorted(panels.PACKINGS))]
        data = packing(data)
        if chance.random() < 0.5:
            data = _mutated(data, chance)
    return data, chance.choice(OPTIONS)


def read(path: Path, options: ReadOptions) -> bool:
    """Return True when a file is read, False when it is refused; any other end is a fault."""
    try:
        interval = interval_of(path, options)
    except HistoryError:
        interval = "1d"
    try:
        history = from_file(path, interval, options)
    except HistoryError as error:
        if not str(error).strip() or len(str(error)) > 5000:
            raise AssertionError(f"expected a short reason, got {str(error)[:200]!r}") from error
        return False
    list(findings.lines(history, findings.of_history(history)))
    return True


def fuzz(count: int, first: int = 0) -> Counter[str]:
    """Return how many of some mutated files are read and refused.

    Args:
        count: of files.
        first: seed of the first one; the others follow.

    Raises:
        AssertionError: with the seed, for any end but candles or a ``HistoryError``.
    """
    ends: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "AAPL.csv"
        for seed in range(first, first + count):
            data, options = mutated(seed)
            path.write_bytes(data)
            try:
                ends["read" if read(path, options) else "refused"] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return ends


if __name__ == "__main__":
    count, first = (int(text) for text in (*sys.argv[1:], "0")[:2])
    started, ends = time.monotonic(), Counter[str]()
    for seed in track(range(first, first + count, 100), "Fuzz", console=Console(stderr=True)):
        ends += fuzz(min(100, first + count - seed), seed)
    print(dict(ends), f"{time.monotonic() - started:.0f} s")
