from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.edge.compression import SLICE_BYTES, accepted, pack, unpack
from api.edge.problems import ProblemError
from api.edge.requests import SMALL_BODY_BYTES, BodyBudget, BodyShare
from api.edge.slicing import at_once

MAX_BYTES = 1 << 20
PACKERS: dict[str, Any] = {"gzip": gzip.compress, "deflate": zlib.compress}


async def nothing() -> Any:
    raise AssertionError("nothing is received here")


def share_of(budget: BodyBudget | None = None) -> BodyShare:
    return BodyShare(budget or BodyBudget(), nothing, MAX_BYTES)


def unpacked(body: bytes, encoding: str, share: BodyShare | None = None) -> bytes:
    return bytes(at_once(unpack(bytearray(body), encoding, share or share_of())))


@given(
    st.one_of(st.binary(max_size=300), st.integers(0, 3 * SLICE_BYTES).map(bytes)),
    st.sampled_from(sorted(PACKERS)),
)
def test_what_others_pack_is_unpacked_and_what_is_packed_others_unpack(
    body: bytes, encoding: str
) -> None:
    unpackers: dict[str, Any] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
    assert unpacked(PACKERS[encoding](body), encoding) == body
    assert unpackers[encoding](at_once(pack(body, encoding))) == body


def test_identity_is_left_as_it_is() -> None:
    assert unpacked(b"abc", "Identity") == b"abc"


def problem_of(body: bytes, encoding: str, share: BodyShare | None = None) -> tuple[int, str]:
    with pytest.raises(ProblemError) as raised:
        unpacked(body, encoding, share)
    problem = raised.value.problem
    return problem.status, problem.errors[0].rule if problem.errors else ""


@pytest.mark.parametrize("encoding", sorted(PACKERS))
def test_a_damaged_body_is_refused(encoding: str) -> None:
    packed = PACKERS[encoding](bytes(range(256)) * 2_000)
    for spoilt in (packed[:-1], packed[: len(packed) // 2], packed + b"x", b"abc", b"", packed[1:]):
        if spoilt:
            assert problem_of(spoilt, encoding) == (400, "damaged")
    with pytest.raises(ProblemError):
        unpacked(packed[:-3] + b"abc", encoding)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x"])
def test_other_encodings_are_refused(encoding: str) -> None:
    assert problem_of(b"abc", encoding) == (415, "unsupported")


@pytest.mark.parametrize("encoding", sorted(PACKERS))
def test_a_bomb_is_not_unpacked_beyond_the_limit(encoding: str) -> None:
    share = share_of()
    bomb = PACKERS[encoding](bytes(100 * MAX_BYTES))
    assert problem_of(bomb, encoding, share) == (413, "too_large")
    assert share.held_bytes <= MAX_BYTES + SLICE_BYTES


def test_unpacked_bytes_count_among_those_of_all_requests() -> None:
    budget = BodyBudget(max_held_bytes=4 * SMALL_BODY_BYTES)
    with BodyShare(budget, nothing, MAX_BYTES) as first:
        assert len(unpacked(gzip.compress(bytes(3 * SMALL_BODY_BYTES)), "gzip", first)) > 0
        with BodyShare(budget, nothing, MAX_BYTES) as second:
            packed = gzip.compress(bytes(2 * SMALL_BODY_BYTES))
            assert problem_of(packed, "gzip", second) == (503, "")
    with BodyShare(budget, nothing, MAX_BYTES) as third:
        assert len(unpacked(packed, "gzip", third)) == 2 * SMALL_BODY_BYTES


def test_it_is_done_in_slices_of_bounded_size() -> None:
    body = bytes(15 * SLICE_BYTES)
    work: Generator[None, None, Any] = unpack(bytearray(gzip.compress(body)), "gzip", share_of())
    assert sum(1 for _ in work) >= 15
    assert sum(1 for _ in pack(body, "deflate")) == 15


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("br, deflate;q=0.5", "deflate"),
        ("GZIP;q=0, deflate", "deflate"),
        ("gzip; q=0.0", None),
        ("identity", None),
        ("", None),
        ("br", None),
    ],
)
def test_the_encoding_of_an_answer_is_one_that_the_client_accepts(
    header: str, encoding: str | None
) -> None:
    assert accepted(header) == encoding
