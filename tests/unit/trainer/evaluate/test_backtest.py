"""The back-test against the stream's own path, window by window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shared.candles import DAY_MS, Candle
from shared.forecaster import Due, Forecaster, ModelSet, forecast
from shared.history import bundled
from shared.window import Window
from tests.forecasters import LastMove, PersistenceForecaster
from tests.streams import Stream
from tests.unit.stream_app.test_scoring import days
from trainer.dataset import SymbolCandles
from trainer.evaluate import backtest, forecast_table


def series(candles: list[Candle]) -> SymbolCandles:
    rows = [(c.open, c.high, c.low, c.close, c.volume) for c in candles]
    return SymbolCandles(np.array([c.open_ms for c in candles]), np.array(rows))


def real(count: int) -> dict[str, list[Candle]]:
    history = bundled().candles
    return {
        name: [one for one in history if one.symbol == name][:count] for name in ("AAPL", "IBM")
    }


@pytest.mark.parametrize("forecaster", [LastMove(), PersistenceForecaster(window_length=40)])
def test_the_back_test_equals_the_stream_on_real_candles(forecaster: Forecaster) -> None:
    candles = real(70)
    table = backtest.run(forecaster, {name: series(found) for name, found in candles.items()})
    steps, names = len(forecaster.horizons), ["predicted_close", "last_close", "volatility"]
    assert len(table) == 2 * (70 - forecaster.window_length + 1) * steps
    rows = iter(table.to_dict("records"))
    for symbol, found in candles.items():
        window = Window(forecaster.window_length)
        for one in found:
            window, _ = window.push(one)
            if not window.is_full:
                continue
            due = Due(symbol, "1d", one.close_ms, one.close, window)
            for horizon in forecast(ModelSet(forecaster), [due], 0)[0].horizons:
                row = next(rows)
                assert (row["symbol"], row["open_ms"], row["step"]) == (
                    symbol,
                    one.open_ms,
                    horizon.step,
                )
                wanted = [horizon.predicted_close, one.close, horizon.volatility]
                assert [row[name] for name in names] == pytest.approx(wanted, rel=1e-9)
                for level, price in horizon.quantiles.items():
                    assert row[f"q{level}"] == pytest.approx(price, rel=1e-9)


def test_a_calibrated_back_test_is_what_a_worker_publishes() -> None:
    """Quantiles and raw quantiles, of series of several lengths, to the last bits of a price."""
    forecaster = PersistenceForecaster(window_length=20, horizons=(1, 2, 5))
    candles = {"A": days(70, "A", 1), "B": days(45, "B", 2), "C": days(12, "C", 3)}
    stream = Stream(ModelSet(forecaster))
    for found in candles.values():
        for one in found:
            stream.take(one)
    data = {name: series(found) for name, found in candles.items()}
    table = backtest.run_calibrated(forecaster, data)
    rows = iter(table.to_dict("records"))
    for made in stream.forecasts:
        for horizon in made.horizons:
            row = next(rows)
            assert (row["symbol"], row["step"]) == (made.symbol, horizon.step)
            assert horizon.raw_quantiles is not None
            for level, price in horizon.quantiles.items():
                assert row[f"q{level}"] == pytest.approx(price, rel=1e-12)
                own = horizon.raw_quantiles[level]
                assert row[f"raw_q{level}"] == pytest.approx(own, rel=1e-7)
    assert next(rows, None) is None
    assert backtest.rounds(forecaster, data) == 51


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {name: series(found) for name, found in real(60).items()}
    whole = backtest.run(LastMove(), data)
    monkeypatch.setattr(backtest, "BATCH", 7)
    pd.testing.assert_frame_equal(backtest.run(LastMove(), data), whole, check_exact=True)


def test_cutting_the_data_changes_no_forecast_before() -> None:
    data = series(real(60)["AAPL"])
    whole = backtest.run(LastMove(), {"AAPL": data})
    cut = backtest.run(LastMove(), {"AAPL": SymbolCandles(data.open_ms[:31], data.candles[:31])})
    pd.testing.assert_frame_equal(cut, whole[: len(cut)], check_exact=True)


def test_a_short_history_has_no_rows_but_all_columns() -> None:
    short = SymbolCandles(np.arange(2) * DAY_MS, np.full((2, 5), 1.0))
    table = backtest.run(LastMove(), {"A": short})
    assert list(table.columns) == [
        "symbol", "open_ms", "step", "last_close", "predicted_close",
        "q0.05", "q0.5", "q0.95", "volatility",
    ]  # fmt: skip
    assert table.empty


@pytest.mark.parametrize("name", ["out.csv", "folder/out.parquet"])
def test_a_table_written_and_read_is_the_same_to_the_last_bit(tmp_path: Path, name: str) -> None:
    table = backtest.run(LastMove(), {"AAPL": series(real(50)["AAPL"])})
    path = tmp_path / name
    forecast_table.write(table, path)
    if path.suffix == ".parquet":
        read = pd.read_parquet(path)
    else:
        read = pd.read_csv(path, float_precision="round_trip")
    pd.testing.assert_frame_equal(read, table, check_exact=True)


def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for name in ("file/out.csv", "file/deep/out.parquet"):
        with pytest.raises(forecast_table.TableError, match="cannot be written"):
            forecast_table.prepare(tmp_path / name)
    forecast_table.prepare(tmp_path / "folder" / "out.csv")
    assert list((tmp_path / "folder").iterdir()) == []
    (tmp_path / "out.csv").write_text("kept")
    forecast_table.prepare(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "kept"


def test_another_ending_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(forecast_table.TableError, match=r"out\.xlsx: expected a name ending in"):
        forecast_table.write(pd.DataFrame(), tmp_path / "out.xlsx")


def test_a_span_gives_the_same_rows_as_the_whole() -> None:
    data = {name: series(found) for name, found in real(60).items()}
    whole = backtest.run(LastMove(), data)
    start, stop = data["AAPL"].open_ms[[20, 50]].tolist()
    kept = whole[(whole["open_ms"] >= start) & (whole["open_ms"] < stop)]
    part = backtest.run(LastMove(), data, start, stop)
    assert len(part) == 2 * 30 * 2
    pd.testing.assert_frame_equal(part, kept.reset_index(drop=True), check_exact=True)
    assert backtest.run(LastMove(), data, stop, start).empty
    assert backtest.run(LastMove(), data, stop_ms=0).empty


def test_one_of_n_candles_is_forecast_from_alike_by_models_of_other_windows() -> None:
    data = {name: series(candles) for name, candles in real(120).items()}
    whole = backtest.run(LastMove(), data)
    assert backtest.thinning(data, 0, 80) == 3
    some = backtest.run(LastMove(), data, every=3)
    kept = whole.merge(some[forecast_table.KEYS])
    pd.testing.assert_frame_equal(kept, some, check_exact=True)
    start_ms = int(data["AAPL"].open_ms[60])
    times = [
        set(backtest.run(model, data, start_ms, every=3)["open_ms"])
        for model in (LastMove(), PersistenceForecaster(window_length=40))
    ]
    assert times[0] == times[1]
    assert 20 <= len(times[0]) <= 60  # of two symbols with 60 candles each
