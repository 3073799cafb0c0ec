"""Cost of the drift of features: the worker's step with and without its samples, by batch size."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from prometheus_client import CollectorRegistry

from shared import bundle
from shared.candles import Candle
from shared.forecaster import ModelSet, OnnxForecaster, references_of
from shared.metrics import WorkerMetrics
from stream_app.drifting import FeatureBoard
from stream_app.pipeline import BatchResult, Incoming, advance
from tests.candles import walk

SERIES: Final = 64
TURNS: Final = 200
BATCHES: Final = (1, 64)


def main(_: Sequence[str]) -> int:
    """Print microseconds of processor time a candle as JSON, and the share that samples add."""
    print(json.dumps([_measure(batch) for batch in BATCHES], indent=1))
    return 0


def _measure(batch: int) -> dict[str, Any]:
    """Return the times of the same candles both ways, batch by batch, the first in turn."""
    loaded = bundle.load(bundle.default_path())
    sampling = OnnxForecaster(loaded)
    plain = OnnxForecaster(replace(loaded, reference=None))
    ways = {"sampled": ModelSet(sampling), "plain": ModelSet(plain)}
    board = FeatureBoard(WorkerMetrics(CollectorRegistry()), lambda: references_of(ways["sampled"]))
    filled = sampling.window_length
    turns = TURNS if batch > 1 else TURNS // 4
    series = [walk(filled + turns, symbol=f"S{number}") for number in range(SERIES)]
    table: dict[bytes, bytes] = {}
    for candles in series:
        result = _advance(candles[:filled], 0, table, ways["plain"])
        table |= {key: state for key, (_, state) in result.states.items()}
    order = [candles[filled + turn] for turn in range(turns) for candles in series]
    seconds: dict[str, float] = dict.fromkeys(ways, 0.0)
    for at in range(0, len(order), batch):
        some = order[at : at + batch]
        for way in sorted(ways, reverse=bool(at // batch % 2)):
            began_s = time.process_time()
            result = _advance(some, filled * SERIES + at, table, ways[way])
            if way == "sampled":
                board.note(forecast for _, forecast in result.forecasts)
            seconds[way] += time.process_time() - began_s
        table |= {key: state for key, (_, state) in result.states.items()}
    each = {way: spent / len(order) * 1e6 for way, spent in seconds.items()}
    added = each["sampled"] / each["plain"] - 1.0
    return {
        "batch": batch,
        "candles": len(order),
        **{f"{way}_us": round(spent, 1) for way, spent in each.items()},
        "added_percent": round(100 * added, 2),
    }


def _advance(
    candles: Sequence[Candle], first: int, table: dict[bytes, bytes], models: ModelSet
) -> BatchResult:
    incoming = [
        Incoming(candle.symbol.encode(), candle.encode(), 0, first + place, 1 << 42)
        for place, candle in enumerate(candles)
    ]
    return advance(incoming, table.get, models, 0, 1)
