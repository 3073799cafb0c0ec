"""Whole records and spans: any log of them gives a state back as it was, calibration included."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.candles import Candle
from shared.context import Closes
from shared.forecaster import ModelSet, Prediction
from shared.score_messages import Scores
from shared.window import Window
from stream_app.pipeline import Incoming, Record, advance, step
from stream_app.state import (
    SPANS,
    STALE,
    StateError,
    SymbolState,
    join,
    series_of,
    stored_order,
)
from tests.candles import candle
from tests.forecasters import LastMove

CAPACITY: Final = 24
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
    """Return each symbol's state as of each message that touched it, one message at a time."""
    table: dict[bytes, bytes] = {}
    states = {}
    for message in messages:
        result = advance([message], table.get, MODELS, CAPACITY, NOW_MS)
        for key, (_, stored) in result.states.items():
            table[key] = stored
            states[key, message.offset] = SymbolState.decode(stored, CAPACITY).with_tail(0)
    return states


def recover(log: Iterable[Record]) -> dict[bytes, bytes]:
    """Return the states that a log gives back, by the rule of ``WindowStore``."""
    wholes: dict[bytes, bytes] = {}
    spans: dict[bytes, list[bytes]] = {}
    for key, record in log:
        series, is_span = series_of(key)
        if is_span:
            spans.setdefault(series, []).append(record)
        elif key not in wholes or stored_order(record) > stored_order(wholes[key]):
            wholes[key] = record
    return {key: join(whole, spans.get(key, []), CAPACITY) for key, whole in wholes.items()}


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
                key: stored_order(state) for key, (_, state) in result.states.items()
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
            assert state.with_tail(0) == self._truth[key, state.order]
        for key, offset in self._acknowledged.items():
            assert stored_order(recovered[key]) >= offset


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 120))
def test_any_log_of_any_writers_gives_the_windows_back(seed: int, count: int) -> None:
    Simulation(random.Random(seed), count, zombies=True).run()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 120))
def test_compaction_takes_nothing_away(seed: int, count: int) -> None:
    """It leaves the last record of each key, which without paused writers is also the newest."""
    simulation = Simulation(random.Random(seed), count, zombies=False)
    simulation.run()
    kept = dict(simulation.log)  # the last of each key
    assert recover(kept.items()) == recover(simulation.log)


def test_a_new_candle_writes_a_span_and_every_33rd_the_whole_state() -> None:
    table: dict[bytes, bytes] = {}
    sizes, wholes = [], []
    cycle = SPANS + 1
    for i in range(CAPACITY + 3 * cycle):
        message = Incoming(b"AAPL", candle(i).encode(), 0, i, NOW_MS)
        result = advance([message], table.get, MODELS, CAPACITY, NOW_MS)
        table.update({key: state for key, (_, state) in result.states.items()})
        [(key, record)] = result.records[0]
        if not series_of(key)[1]:
            wholes.append(i)
        sizes.append(len(record))
    # new; the first forecast, whose layout it names; then by turns
    assert wholes == [0, CAPACITY - 1, *range(CAPACITY - 1 + cycle, CAPACITY + 3 * cycle, cycle)]
    assert 6 * sizes[-2] < sizes[wholes[-1]]


def test_what_a_paused_writer_with_another_model_wrote_is_passed_over() -> None:
    """Its record does not fit the series' layout; the one of its successor does."""
    days = [candle(i) for i in range(CAPACITY + 2)]
    messages = [Incoming(b"AAPL", day.encode(), 0, i, NOW_MS) for i, day in enumerate(days)]
    table: dict[bytes, bytes] = {}
    result = advance(messages[:CAPACITY], table.get, MODELS, CAPACITY, NOW_MS)
    table = {key: state for key, (_, state) in result.states.items()}
    log = result.records[0]
    swapped = ModelSet(Wider(CAPACITY))
    ours = advance(messages[CAPACITY:], table.get, MODELS, CAPACITY, NOW_MS)
    theirs = advance(messages[CAPACITY:], table.get, swapped, CAPACITY, NOW_MS)
    expected = recover([*log, *ours.records[0]])
    assert not series_of(theirs.records[0][0][0])[1]  # a new layout is named by a whole record
    later = advance(
        [Incoming(b"AAPL", candle(CAPACITY + 2).encode(), 0, CAPACITY + 2, NOW_MS)],
        lambda key: theirs.states[key][1], swapped, CAPACITY, NOW_MS,
    )  # fmt: skip
    assert recover([*log, *ours.records[0], *later.records[0]]) == expected


def test_a_model_swap_keeps_what_is_pending_and_the_calibration_of_what_both_have() -> None:
    messages = [
        Incoming(b"AAPL", candle(i, 100 + i % 7).encode(), 0, i, NOW_MS)
        for i in range(CAPACITY + 30)
    ]
    table: dict[bytes, bytes] = {}
    half = CAPACITY + 15
    scored = []
    for some, models in ((messages[:half], MODELS), (messages[half:], ModelSet(Wider(CAPACITY)))):
        for message in some:
            result = advance([message], table.get, models, CAPACITY, NOW_MS)
            table.update({key: state for key, (_, state) in result.states.items()})
            scored += [
                (horizon.model_version, horizon.as_of_ms, horizon.step)
                for _, scores in result.scores
                for horizon in Scores.decode(scores.value).horizons
            ]
    made = half - CAPACITY + 1  # by the first model
    assert sum(version == "last-move" for version, _, _ in scored) == made * 2
    assert sum(version == "wider" for version, _, _ in scored) == 14 + 10 + 8  # of 15 forecasts
    assert len(set(scored)) == len(scored)


class Wider(LastMove):
    """Another model: more horizons and levels."""

    model_version = "wider"
    horizons = (1, 5, 7)  # type: ignore[assignment]
    quantile_levels = (0.05, 0.25, 0.5, 0.75, 0.95)  # type: ignore[assignment]

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        made = super().predict(candles, open_ms, context)
        low, mid, high = (made.log_return[:, :1, at : at + 1] for at in range(3))
        quantiles = np.concatenate([low, (low + mid) / 2, mid, (mid + high) / 2, high], axis=2)
        return Prediction(np.repeat(quantiles, 3, axis=1), np.repeat(made.volatility[:, :1], 3, 1))


def test_a_state_of_another_format_is_refused() -> None:
    stored = SymbolState(Window(3)).encode()
    with pytest.raises(StateError, match="expected format 5, got 3"):
        SymbolState.decode(b"\x03" + stored[1:], 3)


@pytest.mark.parametrize("cut", [1, 40, 100])
def test_a_record_that_is_cut_short_is_refused(cut: int) -> None:
    message = Incoming(b"AAPL", candle(0).encode(), 0, 0, NOW_MS)
    [(_, record)] = advance([message], lambda _: None, MODELS, CAPACITY, NOW_MS).records[0]
    with pytest.raises(StateError, match="expected"):
        SymbolState.decode(record[:-cut], CAPACITY)


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
    for offset, made in enumerate(candles):
        if offset == grown:
            live = replace(live, window=Window(large, live.window.records))
        live, _ = step(live, made, 0, offset, None)
        always, _ = step(always, made, 0, offset, None)
        if offset < read:
            rebuilt = always
    grew = live.lengthened(rebuilt.window.records, large)
    assert grew.window.records == always.window.records
    assert grew.tail == STALE
    assert grew.order == live.order
