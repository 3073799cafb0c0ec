"""What scores, calibration and drift add to a series' state and to the windows' changelog."""

from __future__ import annotations

from statistics import mean

import numpy as np

from shared import bundle
from shared.forecaster import ModelSet, OnnxForecaster
from stream_app.pipeline import Incoming, advance
from tests.candles import candle

NOW_MS = 2_000_000_000_000
LONGEST_DAILY = 512
BEFORE = {"state": 14_388, "changelog": 1_104}
"""Bytes of a series, and written a candle, before scores: at 600471f with such windows."""


def test_scores_cost_half_as_many_bytes_again_at_most_and_memory_twice() -> None:
    models = ModelSet(OnnxForecaster(bundle.load(bundle.default_path())))
    assert models.default.lengths("1d")[-1] == LONGEST_DAILY
    closes = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, 700)))
    table: dict[bytes, bytes] = {}
    written = []
    for at, close in enumerate(closes.tolist()):
        incoming = Incoming(b"AAPL", candle(at, close).encode(), 0, at, NOW_MS)
        result = advance([incoming], table.get, models, 0, NOW_MS)
        table.update({key: state for key, (_, state) in result.states.items()})
        written.append(sum(len(key) + len(value or b"") for key, value in result.records[0]))
    whole = written[-165:]  # five times 32 spans and a whole record
    assert mean(whole) <= 1.5 * BEFORE["changelog"]
    assert len(table[b"AAPL|1d"]) <= 2 * BEFORE["state"]
    assert max(len(state) for state in table.values()) > LONGEST_DAILY * 28  # windows are full
