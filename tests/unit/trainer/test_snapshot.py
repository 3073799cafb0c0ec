"""Messages as columns: what the worker would take, and nothing else; splits on one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.candles import DAY_MS, InvalidCandle, decode_candle
from shared.files.series import HistoryError
from tests.candles import START_MS, candle
from tests.poison import POISON
from trainer import snapshot

NOW_MS = 2_000_000_000_000


@dataclass
class Message:
    """A message as a consumer gives it."""

    key: bytes | None
    value: Any
    offset: int = 0
    partition: int = 0
    timestamp: int = NOW_MS
    headers: tuple[tuple[str, bytes], ...] = ()


def of(day: int, close: float, **options: Any) -> Message:
    made = candle(day, close, symbol=options.pop("symbol", "AAPL"))
    return Message(made.symbol.encode(), made.encode(), **options)


SOUND = st.builds(
    of, st.integers(0, 30), st.sampled_from([90.0, 100.5]), symbol=st.sampled_from(["A", "B C"])
)
ODD = [
    of(1, 100.0, timestamp=START_MS),  # in the future
    Message(b"B", candle(2).encode()),  # another's key
    Message(None, None),
    Message(b"AAPL", b'{"symbol": "AAPL"}'),
    Message(b"AAPL", b"[" * 100),
    Message(b"AAPL", b"null"),
    Message(b"AAPL", b" null"),
    Message(b"AAPL", b"null{}"),
    Message(b"AAPL", b"\xef\xbb\xbfnull"),
    Message(b"AAPL", b"{}null"),
    Message(b"AAPL", candle(3).encode().replace(b"AAPL", b"\xff")),
    Message(b"AAPL", candle(3).encode().replace(b'"1d"', b'"\xff"')),
    Message(b"AAPL", candle(3).encode().replace(b'"test"', b'"\xed\xa0\x80"')),
    Message(b"AAPL", b'{"symbol": null}{"symbol": null}'),
    Message(b"AAPL", candle(3).encode().replace(b"1000000.0", b'"1000000.0"')),
    Message(b"AAPL", candle(3).encode().replace(b"1000000.0", b"1e400")),
    Message(b"AAPL", candle(3).encode().replace(b"1000000.0", b"-1")),
    Message(b"AAPL", candle(3).encode().replace(b'"1d"', b'"7d"')),
    Message(b"AAPL", candle(3).encode().replace(b"{", b"{\n", 1)),  # sound
    Message(b"A,B", candle(3).encode().replace(b"AAPL", b"A,B")),
    Message(b"AAPL", candle(3).encode().replace(b'"test"', b'"' + b"x" * 65 + b'"')),
    Message(b"AAPL", candle(3).encode() + b"\n" + candle(4).encode()),
    Message(b"AAPL", b"{}" + b" " * 5000),
]


def accepted(messages: list[Message]) -> tuple[list[tuple[str, int, float]], int]:
    """Return what the worker takes of messages, and how many it refuses."""
    rows, refused = [], 0
    for message in messages:
        try:
            made = decode_candle(message.key, message.value, message.timestamp)
            rows.append((made.symbol, made.open_ms, made.close))
        except InvalidCandle:
            refused += 1
    return rows, refused


def parsed(messages: list[Any]) -> tuple[list[tuple[str, int, float]], int]:
    table, rejected = snapshot._parse(messages)
    columns = [table[name].to_pylist() for name in ("symbol", "open_ms", "close")]
    return list(zip(*columns, strict=True)), rejected.total()


@given(st.lists(st.one_of(SOUND, SOUND, SOUND, st.sampled_from(ODD)), max_size=20))
@settings(max_examples=60)
def test_columns_hold_what_the_worker_would_take_in_order(messages: list[Message]) -> None:
    assert parsed(messages) == accepted(messages)


def test_every_poison_is_refused_and_the_others_stay() -> None:
    poison = [Message(b"AAPL", value) for value, _ in POISON.values()]
    messages = [of(0, 100.0), *poison, of(1, 101.0)]
    assert parsed(messages) == accepted(messages)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd.value)[:40])
def test_what_is_odd_comes_out_alike_alone_first_and_last(odd: Message) -> None:
    """pyarrow crashes on a null that comes first and is not a field (apache/arrow#47409)."""
    assert parsed([odd]) == accepted([odd])
    messages = [odd, *(of(day % 300, 100.0) for day in range(600)), odd]
    assert parsed(messages) == accepted(messages)


def test_many_messages_with_one_that_is_not_json_are_cut_down_to_it() -> None:
    messages = [of(day % 300, 100.0) for day in range(2000)]
    messages[777] = Message(b"AAPL", b"{")
    rows, refused = parsed(messages)
    assert (len(rows), refused) == (1999, 1)


def scaled(
    days: list[int], closes: list[float], rescaled: list[bool]
) -> dict[int, tuple[float, float]]:
    candles = np.array([[close, close, close, close, 100.0] for close in closes])
    times, values = snapshot._on_one_scale(
        np.array(days, np.int64) * DAY_MS, candles, np.array(rescaled)
    )
    assert (np.diff(times) > 0).all()
    return {
        int(at) // DAY_MS: (float(row[3]), float(row[4]))
        for at, row in zip(times, values, strict=True)
    }


def test_candles_before_a_split_come_on_the_scale_after_it() -> None:
    days = [0, 1, 2, 3, 2, 3, 4]
    closes = [100.0, 104.0, 108.0, 112.0, 27.0, 28.0, 29.0]
    rescaled = [False] * 4 + [True] * 2 + [False]
    assert scaled(days, closes, rescaled) == {
        0: (25.0, 400.0),  # what was traded before the split, in today's shares
        1: (26.0, 400.0),
        2: (27.0, 100.0),
        3: (28.0, 100.0),
        4: (29.0, 100.0),
    }


def test_a_repetition_of_a_split_after_a_crash_changes_nothing() -> None:
    days = [0, 1, 2, 1, 1, 2, 3]
    closes = [100.0, 104.0, 108.0, 26.0, 26.0, 27.0, 28.0]
    rescaled = [False] * 3 + [True] * 3 + [False]
    closes_on = {day: close for day, (close, _) in scaled(days, closes, rescaled).items()}
    assert closes_on == {0: 25.0, 1: 26.0, 2: 27.0, 3: 28.0}


def test_a_damaged_state_says_what_to_remove(tmp_path: Any) -> None:
    (tmp_path / snapshot.STATE).write_text("{}")
    with pytest.raises(HistoryError, match="remove the folder to read the topic again"):
        snapshot.State.read(tmp_path)
