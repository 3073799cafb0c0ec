"""Codecs of Kafka on our own messages: bytes and microseconds of each message, by batch size."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from shared import bundle, codecs
from shared.forecaster import ModelSet, OnnxForecaster
from shared.headers import cloud_event
from stream_app.pipeline import Incoming, advance
from tests.candles import walk

CODECS: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
SIZES: Final = (1, 8, 40)
REPEATS: Final = 30

Record = tuple[bytes, bytes, list[tuple[str, bytes]]]


def main(_: Sequence[str]) -> int:
    """Print the measures as JSON; each time is the best of some."""
    codecs.install()
    measured = [
        {"messages": name, "batch": size, "codec": codec, **_measure(records[:size], codec)}
        for name, records in _messages().items()
        for size in SIZES
        for codec in CODECS
    ]
    print(json.dumps(measured, indent=1))
    return 0


def _messages() -> dict[str, list[Record]]:
    models = ModelSet(OnnxForecaster(bundle.load(bundle.default_path())))
    candles = walk(models.default.window_length + max(SIZES))
    incoming = [
        Incoming(candle.symbol.encode(), candle.encode(), 0, offset, 1 << 42)
        for offset, candle in enumerate(candles)
    ]
    made = advance(incoming, lambda _: None, models, 0, 1).forecasts
    headers = cloud_event("AAPL/1d/1/0", "market.candle.v1", "candlecast/benchmark", 1)
    return {
        "candles": [(candle.symbol.encode(), candle.encode(), headers) for candle in candles],
        "forecasts": [(b"AAPL", forecast.encode(), headers) for _, forecast in made],
    }


def _measure(records: Sequence[Record], codec: str) -> dict[str, Any]:
    best_s, size = 1e9, 0
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        builder: Any = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, 0, 1 << 20)
        for offset, (key, value, headers) in enumerate(records):
            builder.append(offset, 1, key, value, headers)
        size = len(builder.build())
        best_s = min(best_s, time.perf_counter() - started_s)
    return {
        "bytes": round(size / len(records), 1),
        "us": round(best_s * 1e6 / len(records), 1),
    }
