"""Hypothesis strategies that spoil what is right, and their use for a given time."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

T = TypeVar("T")

EXAMPLES: Final = 20
"""Examples between two looks at the clock."""

LONGEST_CPU_S: Final = 5.0
"""Most processor time that an example may take."""

BYTES: Final = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"\x9b", b"\xe2\x80\xae", b"[/red]",
    b"\xed\xa0\x80", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\\ud800", b'"', b"[" * 3000, b"{",
    b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 400, b"null", b"true", b"\x80" * 10,
    b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff" * 8, b"x" * 70_000,
)  # fmt: skip
"""What goes wrong, put between bytes that are right."""

VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 0.0, -0.0, 1e-300, 1e300, -1e300, 5e-324, 10**40, -(10**40),
    1 << 31, 1 << 63, (1 << 64) - 1, float("nan"), float("inf"), "", " ", "NaN", "1", "x" * 9000,
    "\x00", "\x1b[2J", "[/red]", "\u202e", "\ud800", "\U0001f4b0", [], {}, [[]], [None], {"": None},
    {"0.5": 1}, {"0.5": 0, "0.50": 1}, [1] * 300, {str(number): number for number in range(300)},
)  # fmt: skip
"""What goes wrong in a document, in the place of a value that is right."""


def spoilt(corpus: Sequence[bytes], *, tokens: Sequence[bytes] = BYTES) -> st.SearchStrategy[bytes]:
    """Return right bytes in which up to five places are cut, replaced, doubled or lengthened."""
    known = st.sampled_from(corpus)
    put = st.sampled_from(tokens) | st.binary(max_size=9)
    cut = st.integers(0, 9) | st.integers(0, 9000)
    edits = st.lists(st.tuples(st.integers(0, 1 << 20), cut, put, st.booleans()), max_size=5)

    def apply(data: bytes, edits: Sequence[tuple[int, int, bytes, bool]]) -> bytes:
        for place, length, between, doubles in edits:
            at = place % (len(data) + 1)
            kept = data[at:] if doubles else data[at + length :]
            data = data[:at] + between + (data[at : at + length] if doubles else b"") + kept
        return data[: 1 << 20]

    return st.builds(apply, known, edits)


def places(document: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the paths of all values in a JSON document, the whole first."""
    yield before
    inner: Any = ()
    if isinstance(document, dict):
        inner = document.items()
    elif isinstance(document, list):
        inner = enumerate(document)
    for name, value in inner:
        yield from places(value, (*before, name))


def with_value(document: Any, place: Sequence[Any], value: Any) -> Any:
    """Return a document with another value in a place, or without it for ``Ellipsis``."""
    if not place:
        return {} if value is ... else value
    name, *rest = place
    if isinstance(document, list):
        put = [] if value is ... and not rest else [with_value(document[name], rest, value)]
        return document[:name] + put + document[name + 1 :]
    if value is ... and not rest:
        return {key: kept for key, kept in document.items() if key != name}
    return document | {name: with_value(document[name], rest, value)}


def spoilt_documents(corpus: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Return JSON in which up to three values are others, or missing; some is spoilt as bytes."""
    number = st.floats() | st.integers() | st.floats(0, 1000)
    value = st.sampled_from(VALUES) | number | st.text(max_size=40) | st.just(...)
    edits = st.lists(st.tuples(st.integers(0, 1 << 16), value), max_size=3)

    def apply(document: Any, edits: Sequence[tuple[int, Any]]) -> bytes:
        for number, value in edits:
            found = list(places(document))
            document = with_value(document, found[number % len(found)], value)
        return json.dumps(document, ensure_ascii="\ud800" in repr(document)).encode(
            errors="surrogatepass"
        )

    whole = st.builds(apply, st.sampled_from(corpus), edits)
    raw = spoilt([json.dumps(document).encode() for document in corpus])
    return whole | whole | raw


def fuzz(
    body: Callable[[T], str], examples: st.SearchStrategy[T], seconds: float, first_seed: int = 0
) -> Counter[str]:
    """Try examples for some time, each round with another seed.

    Args:
        body: takes an example and returns how it ended, in a word; raises for a fault.
        examples: what to try.
        seconds: of the whole, at least one round.
        first_seed: of the first round.

    Returns:
        How many ended how.

    Raises:
        BaseException: the first fault, with the smallest example of it and the round's seed.
    """
    ends: Counter[str] = Counter()
    until, number = time.monotonic() + seconds, first_seed

    def check(example: T) -> None:
        started = time.process_time()
        ends[body(example)] += 1
        took = time.process_time() - started
        assert took < LONGEST_CPU_S, f"{took:.1f} s of processor time"

    while True:
        run = given(examples)(check)
        run = settings(
            max_examples=EXAMPLES, database=None, derandomize=False,
            suppress_health_check=list(HealthCheck),
        )(run)  # fmt: skip
        try:
            seed(number)(run)()
        except BaseException as error:
            error.add_note(f"seed {number}; CANDLECAST_FUZZ_SEED={number} begins with it")
            raise
        number += 1
        if time.monotonic() >= until:
            return ends


def in_words(ends: Mapping[str, int]) -> str:
    """Return counts in a line."""
    return ", ".join(f"{name} {ends[name]:,}" for name in sorted(ends))
