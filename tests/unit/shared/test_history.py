"""The bundled data against pandas, candles of computed prices, and a history's order."""

from __future__ import annotations

import importlib.resources
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared import history
from shared.candles import DAY_MS, Candle
from shared.files.series import HAIR, History, HistoryError, make_candle, place_of, row_of
from shared.history import bundled
from tests.candles import candle, ohlcv


def test_the_bundled_candles_are_those_of_the_data_set_scaled_by_adj_close() -> None:
    data = importlib.resources.files("bokeh_sampledata") / "_data" / "stocks.csv.gz"
    with data.open("rb") as stream:
        frame = pd.read_csv(stream, compression="gzip", float_precision="round_trip")
    frame = frame[frame["Ticker"] != "FB"].sort_values(["Date", "Ticker"], kind="stable")
    got = bundled()
    assert got.rejected == ()
    assert [candle.symbol for candle in got.candles] == frame["Ticker"].tolist()
    dates = pd.to_datetime(frame["Date"]).to_numpy().astype("datetime64[ms]").astype(np.int64)
    assert [candle.open_ms for candle in got.candles] == dates.tolist()
    scale = (frame["Adj Close"] / frame["Close"]).to_numpy()
    for column in ("Open", "High", "Low", "Close"):
        prices = [getattr(candle, column.lower()) for candle in got.candles]
        np.testing.assert_allclose(prices, frame[column].to_numpy() * scale, rtol=1e-12)
    assert [candle.volume for candle in got.candles] == frame["Volume"].tolist()
    assert all(candle.close_ms == candle.open_ms + DAY_MS for candle in got.candles)


def test_bundled_symbols_can_be_chosen_and_must_exist() -> None:
    assert {candle.symbol for candle in bundled(["IBM"]).candles} == {"IBM"}
    with pytest.raises(HistoryError, match=r"expected candles of NOPE, got none beside AAPL, FB"):
        bundled(["IBM", "NOPE"])


def test_without_the_data_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(package: str) -> object:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(history, "files", missing)
    with pytest.raises(HistoryError, match=r'pip install "candlecast\[local\]"'):
        bundled()


def test_without_pyarrow_the_error_says_what_to_install() -> None:
    """In a process of its own: what is imported once stays."""
    code = (
        "import sys; sys.modules['pyarrow'] = None; from pathlib import Path; "
        "from shared.history import bundled, from_file; print(bundled().count); "
        "from_file(Path('candles.csv'), '1d')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "11958"
    assert 'one more package (pyarrow): pip install "candlecast[files]"' in done.stderr


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 9)), unique=True))
def test_a_history_is_ordered_as_a_market_delivers(keys: list[tuple[str, int]]) -> None:
    candles = [candle(day, symbol=symbol) for symbol, day in keys]
    history = History.of("test", candles)
    expected = sorted(candles, key=lambda candle: (candle.open_ms, candle.symbol))
    assert [without_source(candle) for candle in history.candles] == [
        without_source(candle) for candle in expected
    ]
    assert history.count == len(candles)
    after = {"A": candle(4).open_ms, "Z": 0}
    assert [(candle.symbol, candle.open_ms) for candle in history.stream(after)] == [
        (candle.symbol, candle.open_ms)
        for candle in expected
        if candle.symbol != "A" or candle.open_ms > after["A"]
    ]


def without_source(value: Candle) -> Candle:
    return value.model_copy(update={"source": "replay"})


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 31))
def test_a_place_holds_file_and_row(file: int, row: int) -> None:
    [place] = place_of(file, np.array([row])).tolist()
    assert row_of(place) == (file, row)


@given(values=ohlcv(), above=st.floats(0, HAIR / 2), below=st.floats(0, HAIR / 2))
def test_a_hair_of_rounding_is_no_contradiction(
    values: tuple[float, float, float, float, float], above: float, below: float
) -> None:
    opened, _, _, close, volume = values
    top, bottom = max(opened, close), min(opened, close)
    made = make_candle(
        "A", "1d", (0, 1), (opened, top * (1 - above), bottom * (1 + below), close, volume), "test"
    )
    assert made.high == top
    assert made.low == bottom
    assert (made.open, made.close, made.volume) == (opened, close, volume)


@given(values=ohlcv())
def test_agreeing_prices_are_not_touched(
    values: tuple[float, float, float, float, float],
) -> None:
    made = make_candle("A", "1d", (0, 1), values, "test")
    assert (made.open, made.high, made.low, made.close, made.volume) == values


def test_more_than_a_hair_is_refused() -> None:
    with pytest.raises(ValidationError, match="high: expected at least open and close"):
        make_candle("A", "1d", (0, 1), (10.0, 10.0, 9.0, 10.001, 1.0), "test")
