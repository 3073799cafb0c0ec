"""Which series a worker takes, and what becomes of candles that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest
from aiokafka import ConsumerRecord

from shared.candles import DAY_MS, MINUTE_MS, Candle, RejectReason
from shared.forecaster import ModelSet, nearest_trained
from stream_app.pipeline import BatchResult, Incoming, advance
from stream_app.rebuild import Rebuilt
from stream_app.rules import Rules
from stream_app.state import SymbolState
from tests.candles import START_MS, candle, walk
from tests.forecasters import LastMove

NEEDED: Final = 3
MODELS: Final = ModelSet(LastMove())
NOW_MS: Final = 2_000_000_000_000
HOUR_MS: Final = 60 * MINUTE_MS


class Worker:
    """A table, and what becomes of candles one by one."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.table: dict[bytes, bytes] = {}
        self.offset = 0

    def take(self, *candles: Candle) -> BatchResult:
        incoming = []
        for made in candles:
            key = made.symbol.encode()
            incoming.append(Incoming(key, made.encode(), 0, self.offset, NOW_MS))
            self.offset += 1
        result = advance(
            incoming, self.table.get, MODELS, 8, NOW_MS,
            rules=self.rules, held_series=len(self.table),
        )  # fmt: skip
        self.table.update({key: state for key, (_, state) in result.states.items()})
        return result

    def opens(self, key: bytes = b"AAPL|1d") -> list[int]:
        state = SymbolState.decode(self.table[key], 8)
        return [(int(at) - START_MS) for at in state.window._view()["open_ms"]]


def reasons(result: BatchResult) -> list[RejectReason]:
    return [error.reason for _, error in result.rejected]


def of(open_ms: int, length_ms: int, interval: str = "1d", source: str = "fake") -> Candle:
    times = {"open_ms": START_MS + open_ms, "close_ms": START_MS + open_ms + length_ms}
    return candle().model_copy(update=times | {"interval": interval, "source": source})


@pytest.mark.parametrize("interval", ["1d", "60m"])
def test_a_moment_s_candle_does_not_suppress_the_real_one(interval: str) -> None:
    """It opened within the interval, before the real candle came; that wins, though late."""
    length = DAY_MS if interval == "1d" else HOUR_MS
    worker = Worker()
    worker.take(*(of(number * length, length, interval) for number in range(3)))
    fake, real = of(3 * length + 15 * MINUTE_MS, 1, interval), of(3 * length, length, interval)
    assert len(worker.take(fake).forecasts) == 1
    result = worker.take(real)
    assert [made.as_of_ms for _, made in result.forecasts] == [real.close_ms]
    key = f"AAPL|{interval}".encode()
    assert worker.opens(key) == [number * length for number in range(4)]
    assert len(worker.take(of(4 * length, length, interval)).forecasts) == 1


def test_candles_of_a_moment_do_not_empty_a_window() -> None:
    worker = Worker()
    worker.take(*walk(8))
    fakes = [of(8 * DAY_MS + number * MINUTE_MS, 1) for number in range(142)]
    refused = worker.take(*fakes)
    assert reasons(refused) == [RejectReason.OVERLAPS] * 141
    assert worker.opens() == [day * DAY_MS for day in range(1, 8)] + [8 * DAY_MS]
    worker.take(candle(8))
    assert worker.opens() == [day * DAY_MS for day in range(1, 9)]


def test_a_candle_within_a_regular_one_is_refused() -> None:
    worker = Worker()
    worker.take(*walk(4))
    for fake in (of(3 * DAY_MS + HOUR_MS, 1), of(3 * DAY_MS + HOUR_MS, DAY_MS)):
        assert reasons(worker.take(fake)) == [RejectReason.OVERLAPS]
    assert worker.opens() == [day * DAY_MS for day in range(4)]


def test_a_regular_candle_wins_over_the_one_that_it_opens_in() -> None:
    worker = Worker()
    worker.take(*walk(3), of(3 * DAY_MS - HOUR_MS * 2, DAY_MS))
    result = worker.take(candle(3))
    assert len(result.forecasts) == 1
    assert worker.opens() == [day * DAY_MS for day in range(4)]


def test_sessions_that_end_early_and_open_late_do_not_overlap() -> None:
    """Hours from 9:30, with a short last one, as Yahoo has them; days by daylight saving."""
    worker = Worker()
    first = 9 * HOUR_MS + 30 * MINUTE_MS
    hours = [
        of(day * DAY_MS + first + hour * HOUR_MS, HOUR_MS if hour < 6 else HOUR_MS // 2, "60m")
        for day in range(2)
        for hour in range(7)
    ]
    assert not worker.take(*hours).rejected
    days = [of(5 * HOUR_MS, DAY_MS), of(DAY_MS + 4 * HOUR_MS, DAY_MS)]
    assert not worker.take(*days).rejected


def test_an_intraday_candle_opens_on_a_minute_unless_its_source_is_named() -> None:
    odd = of(17, MINUTE_MS, "1m", "ticks")
    assert reasons(Worker().take(odd)) == [RejectReason.OFF_GRID]
    assert not Worker(Rules(off_grid=frozenset({"ticks"}))).take(odd).rejected


def test_only_listed_symbols_are_taken() -> None:
    worker = Worker(Rules(symbols=("AAPL", "*-USD")))
    result = worker.take(*(candle(0, symbol=name) for name in ("AAPL", "BTC-USD", "JUNK")))
    assert reasons(result) == [RejectReason.NOT_LISTED]
    assert set(worker.table) == {b"AAPL|1d", b"BTC-USD|1d"}


def test_a_candle_that_the_model_was_not_trained_on_is_marked_or_refused() -> None:
    hourly = LastMove()
    hourly.intervals = ("5m", "1h")
    models = ModelSet(hourly)
    table: dict[bytes, bytes] = {}
    given = [Incoming(b"AAPL", one.encode(), 0, at, one.close_ms) for at, one in enumerate(walk(4))]
    made = advance(given, table.get, models, 3, 0)
    assert [forecast.model_interval for _, forecast in made.forecasts] == ["1h", "1h"]
    refused = advance(given, table.get, models, 3, 0, rules=Rules(strict_models=models))
    assert reasons(refused) == [RejectReason.NO_MODEL] * 4
    assert not refused.states
    trained = ModelSet(hourly, {"1d": LastMove()})
    made = advance(given, table.get, trained, 3, 0, rules=Rules(strict_models=trained))
    assert [forecast.model_interval for _, forecast in made.forecasts] == [None, None]


def test_windows_that_are_rebuilt_are_those_that_a_strict_worker_holds() -> None:
    hourly = LastMove()
    hourly.intervals = ("1h",)
    for model, series in ((hourly, []), (LastMove(), [b"AAPL|1d"])):
        found = Rebuilt(rules=Rules(strict_models=ModelSet(model)))
        for at, one in enumerate(walk(4)):
            value = one.encode()
            where = ("candles", 0, at, NOW_MS, 0)
            found.apply(ConsumerRecord(*where, b"AAPL", value, None, 4, len(value), ()), 3)
        assert list(found.states) == series


@pytest.mark.parametrize(
    ("trained", "interval", "nearest"),
    [
        (("1d", "5m"), "5m", None),
        (("1d", "1h"), "60m", None),
        (("1d", "5m"), "1m", "5m"),
        (("1d", "5m"), "1h", "5m"),  # 12 times as long, and a 24th
        (("4h", "15m"), "1h", "15m"),  # of two alike the shorter
        (("1d",), "1mo", "1d"),
    ],
)
def test_the_nearest_interval_of_training_serves(
    trained: tuple[str, ...], interval: str, nearest: str | None
) -> None:
    assert nearest_trained(trained, interval) == nearest


def series(names: Sequence[str]) -> list[Candle]:
    return [candle(0, symbol=name) for name in names]


def test_series_beyond_the_most_are_refused_and_those_held_go_on() -> None:
    worker = Worker(Rules(max_series=3))
    result = worker.take(*series("ABCDE"), *(candle(1, symbol=name) for name in "AD"))
    assert reasons(result) == [RejectReason.TOO_MANY_SERIES] * 3
    assert set(worker.table) == {b"A|1d", b"B|1d", b"C|1d"}
    assert worker.opens(b"A|1d") == [0, DAY_MS]
    assert reasons(worker.take(*series("EA"))) == [RejectReason.TOO_MANY_SERIES]
