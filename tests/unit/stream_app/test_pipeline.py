"""The worker's step and batch, without Kafka: every rule of delivery, one test each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.candles import Candle, RejectReason
from shared.context import Closes
from shared.forecaster import ModelSet, Prediction
from shared.window import Push, Window
from stream_app.pipeline import BatchResult, Incoming, advance, step, table_key
from stream_app.state import SymbolState, stored_order
from tests.candles import candle, walk
from tests.forecasters import LastMove

NOW_MS = 2_000_000_000_000
MODELS = ModelSet(LastMove(window_length=3))


def incoming(candles: list[Candle], first_offset: int = 0) -> list[Incoming]:
    return [
        Incoming(one.symbol.encode(), one.encode(), 0, first_offset + i, NOW_MS)
        for i, one in enumerate(candles)
    ]


def run(messages: list[Incoming], table: dict[bytes, bytes] | None = None) -> BatchResult:
    table = {} if table is None else table
    result = advance(messages, table.get, MODELS, 3, NOW_MS)
    table.update({key: state for key, (_, state) in result.states.items()})
    return result


def contents(table: dict[bytes, bytes]) -> dict[bytes, SymbolState]:
    """Return the states without what depends on how records are written."""
    return {key: SymbolState.decode(one, 3).with_tail(0) for key, one in table.items()}


def warm(table: dict[bytes, bytes]) -> None:
    run(incoming(walk(5)), table)


def test_a_symbol_is_forecast_from_its_first_full_window_on() -> None:
    result = run(incoming(walk(5)))
    assert [i for i, _ in result.forecasts] == [2, 3, 4]
    assert [f.as_of_ms for _, f in result.forecasts] == [c.close_ms for c in walk(5)[2:]]
    assert result.outcomes == {"appended": 5}


def test_the_last_close_is_exact_and_the_median_in_the_quantiles() -> None:
    candles = walk(3)
    [(_, forecast)] = run(incoming(candles)).forecasts
    assert forecast.last_close == candles[-1].close
    for horizon in forecast.horizons:
        assert list(horizon.quantiles) == ["0.05", "0.5", "0.95"]
        assert horizon.predicted_close == horizon.quantiles["0.5"]


def test_symbols_and_intervals_do_not_mix() -> None:
    daily = walk(3)
    weekly = [candle(7 * week, interval="1wk") for week in range(3)]
    other = walk(3, symbol="MSFT")
    mixed = [one for trio in zip(daily, weekly, other, strict=True) for one in trio]
    table: dict[bytes, bytes] = {}
    result = run(incoming(mixed), table)
    assert [i for i, _ in result.forecasts] == [6, 7, 8]
    assert set(table) == {b"AAPL|1d", b"AAPL|1wk", b"MSFT|1d"}


def test_a_redelivered_message_changes_nothing_and_is_not_forecast() -> None:
    table: dict[bytes, bytes] = {}
    warm(table)
    before = dict(table)
    result = run(incoming(walk(5)), table)
    assert result.forecasts == []
    assert result.states == {}
    assert result.outcomes == {"redelivered": 5}
    assert table == before


def test_a_duplicate_under_a_new_offset_is_counted_and_not_forecast() -> None:
    table: dict[bytes, bytes] = {}
    warm(table)
    result = run(incoming(walk(5)[-1:], first_offset=5), table)
    assert result.forecasts == []
    assert result.outcomes == {"duplicate": 1}
    assert stored_order(table[b"AAPL|1d"]) == 5


def test_a_correction_of_the_newest_candle_yields_a_new_forecast() -> None:
    table: dict[bytes, bytes] = {}
    first = run(incoming(walk(5)), table).forecasts[-1][1]
    [(_, second)] = run(incoming([candle(4, 90.0)], first_offset=5), table).forecasts
    assert second.as_of_ms == first.as_of_ms
    assert second.id != first.id
    assert second.last_close == 90.0


def test_a_correction_inside_the_window_is_kept_for_the_next_forecast() -> None:
    table: dict[bytes, bytes] = {}
    warm(table)
    result = run(incoming([candle(3, 90.0)], first_offset=5), table)
    assert result.forecasts == []
    assert result.outcomes == {"replaced": 1}
    state = SymbolState.decode(table[b"AAPL|1d"], 3)
    assert state.close_ms == walk(5)[-1].close_ms
    assert state.window.ohlcv()[1, 3] == 90.0


def test_a_late_candle_takes_its_place_and_counts_in_the_next_forecast() -> None:
    """Out of order, but not older than the window: no forecast of its own."""
    table: dict[bytes, bytes] = {}
    run(incoming([candle(day) for day in (0, 1, 3)]), table)
    late = run(incoming([candle(2, 90.0)], first_offset=3), table)
    assert late.forecasts == []
    assert late.outcomes == {"inserted": 1}
    state = SymbolState.decode(table[b"AAPL|1d"], 3)
    assert [float(row[3]) for row in state.window.ohlcv()] == [100.0, 90.0, 100.0]
    [(_, forecast)] = run(incoming([candle(4)], first_offset=4), table).forecasts
    in_order: dict[bytes, bytes] = {}
    days = [candle(0), candle(1), candle(2, 90.0), candle(3), candle(4)]
    [*_, (_, same)] = run(incoming(days), in_order).forecasts
    # the calibration knows what was settled on the way, the model sees the same window
    assert [one.raw_quantiles for one in forecast.horizons] == [
        one.raw_quantiles for one in same.horizons
    ]


def test_a_forecast_of_no_finite_price_is_not_sent_and_its_candle_stays() -> None:
    """As the default model gives for a window without a move."""

    class Nothing(LastMove):
        def predict(
            self,
            candles: NDArray[np.float64],
            open_ms: NDArray[np.int64],
            context: Closes | None = None,
        ) -> Prediction:
            made = super().predict(candles, open_ms, context)
            return Prediction(made.log_return * np.nan, made.volatility)

    table: dict[bytes, bytes] = {}
    result = advance(incoming(walk(3)), table.get, ModelSet(Nothing()), 3, NOW_MS)
    assert not result.forecasts
    [(number, error)] = result.rejected
    assert (number, error.reason) == (2, RejectReason.NO_FORECAST)
    assert result.states[b"AAPL|1d"]


def test_a_candle_older_than_the_window_is_dead_lettered() -> None:
    table: dict[bytes, bytes] = {}
    warm(table)
    result = run(incoming([candle(0, 90.0)], first_offset=5), table)
    [(index, error)] = result.rejected
    assert index == 0
    assert error.reason is RejectReason.OLDER_THAN_WINDOW
    assert "AAPL 1d" in error.detail
    assert result.forecasts == []


def test_a_gap_in_time_is_accepted_and_counted() -> None:
    result = run(incoming([candle(0), candle(1), candle(5)]))
    assert result.gaps == 1
    assert len(result.forecasts) == 1


def test_a_bad_message_never_stops_the_others() -> None:
    good = incoming(walk(3))
    bad = Incoming(b"AAPL", b"{", 0, 99, NOW_MS)
    result = run([good[0], bad, good[1], bad, good[2]])
    assert [i for i, _ in result.rejected] == [1, 3]
    assert [i for i, _ in result.forecasts] == [4]


@given(st.lists(st.integers(0, 8), max_size=25), st.data())
def test_numbers_do_not_depend_on_how_the_stream_is_cut_into_batches(
    days: list[int], data: st.DataObject
) -> None:
    messages = incoming([candle(day, 100.0 + i) for i, day in enumerate(days)])
    whole: dict[bytes, bytes] = {}
    expected = [f for _, f in run(messages, whole).forecasts]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(messages)))))
    parts: dict[bytes, bytes] = {}
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(messages)], strict=True):
        got += [f for _, f in run(messages[start:end], parts).forecasts]
    assert got == expected
    assert contents(parts) == contents(whole)


@given(st.data())
def test_a_crash_and_redelivery_repeats_forecasts_with_equal_numbers(data: st.DataObject) -> None:
    messages = incoming(walk(12))
    expected = {f.id: f for _, f in run(messages).forecasts}
    table: dict[bytes, bytes] = {}
    done = data.draw(st.integers(0, 12))
    run(messages[:done], table)
    again = data.draw(st.integers(0, done))
    lost = data.draw(st.booleans())
    if lost:  # the crash came after the forecasts and before the windows
        table = {}
        again = 0
    repeated = run(messages[again:], table).forecasts
    for _, forecast in repeated:
        assert expected[forecast.id] == forecast


def test_step_is_pure() -> None:
    state = SymbolState(Window(3))
    moved, outcome = step(state, candle(), 0, 7, MODELS)
    assert state == SymbolState(Window(3))
    assert outcome.push is Push.APPENDED
    assert moved.order == 7
    assert SymbolState.decode(moved.encode(), 3) == moved
    assert table_key(candle()) == b"AAPL|1d"


def test_after_a_split_the_republished_window_is_on_one_scale() -> None:
    """The producer republishes the window's candles, oldest first, before it goes on."""
    table: dict[bytes, bytes] = {}
    warm(table)
    rescaled = [candle(day, one.close / 4) for day, one in enumerate(walk(5))][2:]
    result = run(incoming(rescaled, first_offset=5), table)
    assert result.outcomes == {"replaced": 2, "replaced_newest": 1}
    [(_, forecast)] = result.forecasts
    assert forecast.last_close == walk(5)[-1].close / 4
    state = SymbolState.decode(table[b"AAPL|1d"], 3)
    closes = [float(row[3]) for row in state.window.ohlcv()]
    assert closes == pytest.approx([one.close / 4 for one in walk(5)[2:]], rel=1e-6)


def test_each_interval_is_forecast_by_its_own_model() -> None:
    models = ModelSet(LastMove(window_length=3), {"1h": LastMove(window_length=2)})
    daily = walk(4)
    hourly = [
        one.model_copy(update={"interval": "1h", "close_ms": one.open_ms + 3_600_000})
        for one in daily
    ]
    mixed = [candle for pair in zip(daily, hourly, strict=True) for candle in pair]
    table: dict[bytes, bytes] = {}
    result = advance(incoming(mixed), table.get, models, 0, NOW_MS)
    assert [(i, made.interval) for i, made in result.forecasts] == [
        (3, "1h"), (4, "1d"), (5, "1h"), (6, "1d"), (7, "1h"),
    ]  # fmt: skip


def test_a_larger_capacity_keeps_more_candles_and_changes_no_forecast() -> None:
    table: dict[bytes, bytes] = {}
    result = advance(incoming(walk(9)), table.get, MODELS, 7, NOW_MS)
    assert result.forecasts == run(incoming(walk(9))).forecasts
    [(_, state)] = result.states.values()
    assert len(SymbolState.decode(state, 7).window) == 7
