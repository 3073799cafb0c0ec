"""Which model serves a series: the most specific champion whose window is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.champions import KEPT_BEFORE, Champion, Champions, Choice


def choice(number: int, window_length: int = 100) -> Choice:
    return Choice(
        version=f"m-{number}",
        bundle=f"{number:064x}",
        window_length=window_length,
        by="someone@somewhere",
        at_ms=number,
        why="better",
    )


def names(champions: Champions, interval: str, symbol: str) -> list[str]:
    return [choice.version for choice in champions.chain(interval, symbol)]


def test_the_most_specific_champion_serves() -> None:
    champions = Champions()
    for number, (interval, symbols) in enumerate(
        [("*", "*"), ("5m", "*"), ("5m", "BTC*"), ("5m", "BTC-USD"), ("*", "E*")]
    ):
        champions = champions.with_promoted(interval, symbols, choice(number))
    assert names(champions, "1d", "AAPL") == ["m-0"]
    assert names(champions, "5m", "AAPL") == ["m-1"]
    assert names(champions, "5m", "BTC-EUR") == ["m-2"]
    assert names(champions, "5m", "BTC-USD") == ["m-3"]
    assert names(champions, "1d", "ETH") == ["m-4"]
    assert names(champions, "5m", "ETH") == ["m-1"]  # the interval counts before the pattern
    assert names(Champions(), "5m", "AAPL") == []


def test_shorter_models_stand_in_until_the_window_is_there() -> None:
    champions = Champions().with_promoted("*", "*", choice(0, 50))
    for number, length in enumerate([100, 300, 200, 400], 1):
        champions = champions.with_promoted("5m", "*", choice(number, length))
    assert names(champions, "5m", "A") == ["m-4", "m-3", "m-1", "m-0"]
    assert {choice[-1] for choice in champions.needed} == {"4", "3", "1", "0"}


def test_roll_back_goes_further_each_time_and_ends_without_a_champion() -> None:
    champions = Champions()
    for number in range(3):
        champions = champions.with_promoted("5m", "*", choice(number))
    served = []
    while champions.at("5m") is not None:
        champions = champions.with_rolled_back("5m", "*", "someone", 9)
        entry = champions.at("5m")
        served.append(entry.choice.version if entry else None)
    assert served == ["m-1", "m-0", None]
    assert champions.generation == 6
    with pytest.raises(KeyError):
        champions.with_rolled_back("5m", "*", "someone", 9)


def test_the_past_is_bounded_and_a_repetition_is_no_past() -> None:
    champions = Champions()
    for number in range(KEPT_BEFORE + 5):
        champions = champions.with_promoted("5m", "*", choice(number))
    champions = champions.with_promoted("5m", "*", choice(KEPT_BEFORE + 4))
    entry = champions.at("5m")
    assert entry is not None
    assert len(entry.before) == KEPT_BEFORE
    assert entry.before[0].version == f"m-{KEPT_BEFORE + 3}"


@given(st.lists(st.tuples(st.integers(2, 9), st.sampled_from(["*", "1d", "5m"])), max_size=12))
def test_a_chain_is_of_ever_shorter_windows_and_all_of_it_is_kept(
    promotions: list[tuple[int, str]],
) -> None:
    champions = Champions()
    for number, (length, interval) in enumerate(promotions):
        champions = champions.with_promoted(interval, "*", choice(number, length))
    chain = champions.chain("5m", "A")
    lengths = [choice.window_length for choice in chain]
    assert lengths == sorted(set(lengths), reverse=True)
    assert {choice.bundle for choice in chain} <= champions.kept(0)
    assert Champions.model_validate_json(champions.model_dump_json()) == champions


@pytest.mark.parametrize("interval", ["7m", "", "1D"])
def test_an_unknown_interval_is_refused(interval: str) -> None:
    with pytest.raises(ValidationError, match="expected \\* or one of"):
        Champion(interval=interval, choice=choice(0))
