"""The stream benchmark compares like with like."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.__main__ import names
from benchmarks.peers import pandas_features
from benchmarks.stream import FULL, QUICK, ratios
from benchmarks.stream_contenders import CONTENDERS
from benchmarks.stream_market import Market, opening_ms
from benchmarks.stream_run import Usage
from shared import bundle
from shared.candles import DAY_MS, WEEKEND, decode_candle
from shared.window import Window
from stream_app.state import SymbolState
from trainer.features import Candles, extract

NOW_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def config() -> bundle.BundleConfig:
    return bundle.load(bundle.default_path()).config


def test_stream_is_listed_and_its_helpers_are_not() -> None:
    assert "stream" in names()
    assert not any("_" in name for name in names())
    assert "peers" not in names()


def test_every_contender_is_of_the_issue() -> None:
    assert [one.name for one in CONTENDERS] == [
        "worker", "faust_default", "quix_tuned", "quix_idiomatic", "bare",
    ]  # fmt: skip
    assert FULL.days > QUICK.days


def test_candles_are_valid_in_order_and_without_weekends() -> None:
    market = Market(3, 20, 12)
    decoded = [
        [decode_candle(one.key, one.value, NOW_MS) for one in market.day(day)] for day in range(12)
    ]
    assert [one.symbol for one in decoded[0]] == ["S0000", "S0001", "S0002"]
    openings = [day[0].open_ms for day in decoded]
    assert openings == [opening_ms(20 + day) for day in range(12)]
    assert all(open_ms // DAY_MS % 7 not in WEEKEND for open_ms in openings)


def test_states_are_full_windows_that_end_where_the_days_begin() -> None:
    market = Market(2, 20, 1)
    states = dict(market.states())
    assert list(states) == [b"S0000|1d", b"S0001|1d"]
    state = SymbolState.decode(states[b"S0001|1d"], 20)
    assert state.window.is_full
    assert state.order == 0
    assert state.window.last_open_ms == opening_ms(19)
    assert Window(20, market.windows[1].tobytes()) == state.window


def test_the_same_seed_gives_the_same_candles() -> None:
    assert Market(2, 5, 3).day(2) == Market(2, 5, 3).day(2)


def test_pandas_features_are_the_models(config: bundle.BundleConfig) -> None:
    market = Market(4, config.window_length, 1)
    times = torch.arange(config.window_length) * DAY_MS
    for row in market.windows:
        candles = Window(config.window_length, row.tobytes()).ohlcv().astype(np.float64)
        rows = [
            dict(zip(("open", "high", "low", "close", "volume", "open_ms"), values, strict=True))
            for values in np.column_stack([candles, times]).tolist()
        ]
        steps = int(str(config.training["sequence_length"]))
        got = pandas_features.compute(rows, list(config.features), steps)
        window = Candles(torch.from_numpy(candles)[None], times[None], steps)
        want = extract(list(config.features), window)[0].numpy()
        # the graph has variances of whole windows without logarithms, which shows near 0
        np.testing.assert_allclose(got.to_numpy(), want, rtol=1e-4, atol=5e-5)


def test_rates_are_by_cpu_time_and_by_the_clock() -> None:
    rates = Usage(14.0, 3.0, 0.8, 5000).rates_since(Usage(10.0, 1.0, 0.4, 1000))
    assert rates["candles_per_cpu_second"] == 2000
    assert rates["candles_per_wall_second"] == 1000
    assert rates["cpu_us_per_candle"] == 500
    assert rates["broker_us_per_candle"] == 100
    assert rates["cores_used"] == 0.5


def test_ratios_are_of_the_worker() -> None:
    assert ratios({"worker": 100.0, "bare": 200.0}) == {"worker_over": {"bare": 0.5}}
    assert ratios({"bare": 200.0}) == {}
