"""Whole records and tails: any log of them gives a window back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.candles import Candle
from shared.forecaster import ModelSet
from shared.window import RECORD_BYTES, Window
from stream_app.pipeline import Incoming, Record, advance, step, table_key
from stream_app.state import TAIL_CANDLES, TAIL_KEY, StateError, SymbolState, join, stored_order
from tests.candles import candle
from tests.forecasters import LastMove

CAPACITY: Final = TAIL_CANDLES + 8
MODELS: Final = ModelSet(LastMove(window_length=CAPACITY))
NOW_MS: Final = 2_000_000_000_000
SYMBOLS: Final = ("AAPL", "MSFT")


def messages_of(chance: random.Random, count: int) -> list[Incoming]:
    """Return candles of some symbols: new ones, gaps, late ones, duplicates and corrections."""
    newest = dict.fromkeys(SYMBOLS, 0)
    sent: list[Candle] = []
    for _ in range(count):
        symbol = chance.choice(SYMBOLS)
        kind = chance.random()
        if kind < 0.08 and sent:
            sent.append(chance.choice(sent[-8:]))
            continue
        if kind < 0.8:
            newest[symbol] += chance.choice((1, 1, 1, 2))
            day = newest[symbol]
        else:
            day = max(0, newest[symbol] - chance.randint(0, CAPACITY + 2))
        sent.append(candle(day, chance.uniform(90, 110), symbol=symbol))
    return [Incoming(one.symbol.encode(), one.encode(), 0, i, NOW_MS) for i, one in enumerate(sent)]


def truth(messages: list[Incoming]) -> dict[tuple[bytes, int], SymbolState]:
    """Return each symbol's state as of each message that touched it, by single steps."""
    states: dict[bytes, SymbolState] = {}
    found = {}
    for one in messages:
        decoded = Candle.model_validate_json(one.value or b"")
        key = table_key(decoded)
        states[key], _ = step(
            states.get(key, SymbolState(Window(CAPACITY))), decoded, 0, one.offset, None
        )
        found[key, one.offset] = replace(states[key], tail=0)
    return found


def recover(log: Iterable[Record]) -> dict[bytes, bytes]:
    """Return the states that a log gives back, by the rule of ``WindowStore``."""
    held: dict[bytes, bytes] = {}
    for key, record in log:
        if key not in held or stored_order(record) > stored_order(held[key]):
            held[key] = record
    return {
        key: join(whole, held.get(key + TAIL_KEY, whole), CAPACITY)
        for key, whole in held.items()
        if not key.endswith(TAIL_KEY)
    }


class Simulation:
    """Writers of one partition, one after the other, each of which may be killed or paused."""

    def __init__(self, chance: random.Random, count: int, *, zombies: bool) -> None:
        self._chance = chance
        self._zombies = zombies
        self._messages = messages_of(chance, count)
        self._truth = truth(self._messages)
        self.log: list[Record] = []
        self._late: list[list[Record]] = []  # what paused writers have yet to send
        self._acknowledged: dict[bytes, int] = {}  # symbol -> offset that must not be lost
        self._committed = 0

    def run(self) -> None:
        """Go through all messages, with faults on the way."""
        while self._committed < len(self._messages):
            self._writer()
        while self._late:
            self._send_late()

    def _writer(self) -> None:
        """Recover, go on from the committed offset, and end somewhere."""
        table = recover(self.log)
        at = self._committed
        while at < len(self._messages):
            if self._late and self._chance.random() < 0.3:
                self._send_late()
            batch = self._messages[at : at + self._chance.choice((1, 2, 5, 30))]
            result = advance(batch, table.get, MODELS, CAPACITY, NOW_MS)
            records = result.records.get(0, [])
            fate = self._chance.random()
            if fate < 0.1:  # killed with some of the batch sent
                for one in records[: self._chance.randint(0, len(records))]:
                    self._append(one)
                return
            if fate < 0.25 and self._zombies:  # paused, and declared dead by the group
                self._late.append(records)
                return
            for one in records:
                self._append(one)
            table.update({key: state for key, (_, state) in result.states.items()})
            self._acknowledged |= {
                key: stored_order(one) for key, (_, one) in result.states.items()
            }
            at += len(batch)
            if self._chance.random() < 0.7:
                self._committed = at

    def _send_late(self) -> None:
        for one in self._late.pop(self._chance.randrange(len(self._late))):
            self._append(one)

    def _append(self, record: Record) -> None:
        self.log.append(record)
        self.check(recover(self.log))

    def check(self, recovered: dict[bytes, bytes]) -> None:
        """Every window is what its offset says, and nothing acknowledged is missing."""
        for key, stored in recovered.items():
            state = SymbolState.decode(stored, CAPACITY)
            assert replace(state, tail=0) == self._truth[key, state.order]
        for key, offset in self._acknowledged.items():
            assert stored_order(recovered[key]) >= offset


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 200))
def test_any_log_of_any_writers_gives_the_windows_back(seed: int, count: int) -> None:
    Simulation(random.Random(seed), count, zombies=True).run()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 200))
def test_compaction_takes_nothing_away(seed: int, count: int) -> None:
    """It leaves the last record of each key, which without paused writers is also the newest."""
    simulation = Simulation(random.Random(seed), count, zombies=False)
    simulation.run()
    kept = dict(simulation.log)  # the last of each key
    assert recover(kept.items()) == recover(simulation.log)


def test_a_new_candle_writes_its_tail_and_every_17th_the_whole_window() -> None:
    table: dict[bytes, bytes] = {}
    sizes = []
    cycle = TAIL_CANDLES + 1
    for i in range(4 * cycle):
        one = candle(i)
        result = advance(
            [Incoming(b"AAPL", one.encode(), 0, i, NOW_MS)], table.get, MODELS, CAPACITY, NOW_MS
        )
        table.update({key: state for key, (_, state) in result.states.items()})
        [(key, record)] = result.records[0]
        assert key.endswith(TAIL_KEY) is (i % cycle > 0)
        sizes.append(len(record))
    head = 52
    tails = [head + RECORD_BYTES * n for n in range(1, cycle)]
    assert sizes[-cycle:] == [head + RECORD_BYTES * CAPACITY, *tails]


@pytest.mark.parametrize(
    ("days", "is_tail"),
    [
        ((CAPACITY, CAPACITY), True),  # a correction of the newest, which is in the tail
        ((CAPACITY, CAPACITY - 1), False),  # one of a candle that only the whole record has
        ((CAPACITY, CAPACITY - 1, CAPACITY + 1), False),  # whatever comes behind it
        ((CAPACITY + 2, CAPACITY + 1), False),  # a late candle before the tail's first
        ((CAPACITY, CAPACITY + 2, CAPACITY + 1), True),  # one within the tail
    ],
)
def test_a_tail_is_written_only_when_the_whole_record_still_holds(
    days: tuple[int, ...], is_tail: bool
) -> None:
    whole = [Incoming(b"AAPL", candle(i).encode(), 0, i, NOW_MS) for i in range(CAPACITY)]
    table: dict[bytes, bytes] = {}
    result = advance(whole, table.get, MODELS, CAPACITY, NOW_MS)
    table = {key: state for key, (_, state) in result.states.items()}
    batch = [
        Incoming(b"AAPL", candle(day, 90.0 + i).encode(), 0, CAPACITY + i, NOW_MS)
        for i, day in enumerate(days)
    ]
    [(key, _)] = advance(batch, table.get, MODELS, CAPACITY, NOW_MS).records[0]
    assert key.endswith(TAIL_KEY) is is_tail


def test_a_state_of_another_format_is_refused() -> None:
    stored = SymbolState(Window(3)).encode()
    with pytest.raises(StateError, match="expected format 3, got 9"):
        SymbolState.decode(b"\x09" + stored[1:], 3)


@given(st.data())
def test_a_window_that_grows_and_gets_its_older_candles_is_as_if_it_had_always_been_long(
    data: st.DataObject,
) -> None:
    small, large = 3, 7
    days = data.draw(st.lists(st.integers(0, 12), min_size=3, max_size=25))
    closes = data.draw(st.lists(st.sampled_from([90.0, 100.0, 110.0]), min_size=len(days)))
    candles = [candle(day, close) for day, close in zip(days, closes, strict=False)]
    grown, read = sorted(data.draw(st.tuples(*[st.integers(0, len(candles))] * 2)))
    live, rebuilt, always = (SymbolState(Window(size)) for size in (small, large, large))
    for offset, one in enumerate(candles):
        if offset == grown:
            live = replace(live, window=Window(large, live.window.records))
        live, _ = step(live, one, 0, offset, None)
        always, _ = step(always, one, 0, offset, None)
        if offset < read:
            rebuilt = always
    grew = live.lengthened(rebuilt.window.records, large)
    assert grew.window.records == always.window.records
    assert grew.tail == len(grew.window)
    assert grew.order == live.order
