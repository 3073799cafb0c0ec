"""Words and names that the project does not use stay out of what is listed as clean."""

from __future__ import annotations

import pytest

from docs import words


def words_in(source: str) -> list[str]:
    return [word for _, word, _ in words.in_python(source)]


def test_clean_files_stay_clean() -> None:
    assert [str(finding) for finding in words.find(words.ROOT / path for path in words.CLEAN)] == []


@pytest.mark.parametrize("path", words.CLEAN)
def test_every_clean_path_exists(path: str) -> None:
    assert (words.ROOT / path).exists()


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ('"""Fits the net anew."""', "anew"),
        ("x = 1  # lest it stop", "lest"),
        ('raise E(f"{x}: waits for ever")', "for ever"),
        ('"""A row that is no\n    candle."""', "is no candle"),
        ('"""The sink is told of it."""', "is told"),
        ('"""The client is asked."""', "is asked"),
        ('"""Compares with what\n    came."""', "what came"),
        ('def f() -> bool:\n    """Whether it runs."""', "Whether"),
        ('LIMIT = 1\n"""What of a window is kept."""', "What of"),
        ("for one in candles: pass", "one"),
        ("total = sum(one for _, one in pairs)", "one"),
        ("def f(one: int) -> int: return one", "one"),
    ],
)
def test_a_word_is_found(source: str, word: str) -> None:
    assert words_in(source) == [word]


@pytest.mark.parametrize(
    "source",
    [
        '"""There is no candle; it is no longer there."""',
        '"""Returns one candle, whether it is new or not, and for every one of them."""',
        "blest = 'tells and asks'",
    ],
)
def test_ordinary_words_are_not_found(source: str) -> None:
    assert words_in(source) == []


def test_a_finding_names_file_line_and_replacement() -> None:
    (finding,) = words.in_text("first\nsecond, anew\n")
    assert finding == (2, "anew", "again")
    assert str(words.Finding("a.md", *finding)) == "a.md:2: 'anew': write again"
