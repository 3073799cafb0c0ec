"""Contender ``bare``: aiokafka consumes, forecasts and produces without state; the ceiling.

Every candle is decoded and forecast from the window of its symbol as it was at the start, in one
model call for all that a fetch has brought, and sent with the same headers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.peers.options import Options, row_of
from shared import bundle
from shared.candles import decode_candle
from shared.forecaster import Due, ModelSet, OnnxForecaster, forecast
from shared.forecasts import Forecast
from shared.headers import cloud_event
from shared.window import Window

MAX_BATCH = 512


async def main(options: Options) -> None:
    """Consume, forecast and produce until killed."""
    models = ModelSet(OnnxForecaster(bundle.load(options.model)))
    length = models.default.lengths("1d")[-1]
    windows = [Window(length, row.tobytes()) for row in np.load(options.windows)]
    consumer = AIOKafkaConsumer(
        options.candles,
        bootstrap_servers=options.bootstrap,
        group_id=options.group,
        auto_offset_reset="earliest",
        enable_auto_commit=True,
        auto_commit_interval_ms=1000,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=options.bootstrap,
        enable_idempotence=True,
        acks="all",
        max_batch_size=1 << 18,
    )
    await producer.start()
    await consumer.start()
    while True:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=MAX_BATCH)
        records = [record for of in fetched.values() for record in of]
        now_ms = time.time_ns() // 1_000_000
        due = [_due(record, windows, now_ms) for record in records]
        forecasts = forecast(models, due, now_ms)
        await _send(producer, options.forecasts, records, forecasts)


def _due(record: Any, windows: Sequence[Window], now_ms: int) -> Due:
    candle = decode_candle(record.key, record.value, now_ms)
    window = windows[row_of(candle.symbol)]
    return Due(candle.symbol, candle.interval, candle.close_ms, candle.close, window)


async def _send(
    producer: AIOKafkaProducer, topic: str, records: Sequence[Any], forecasts: Sequence[Forecast]
) -> None:
    sent = [
        await producer.send(
            topic,
            value=message.encode(),
            key=record.key,
            partition=record.partition,
            headers=cloud_event(
                message.id, "market.forecast.v1", "benchmark/bare", message.made_at_ms
            ),
        )
        for record, message in zip(records, forecasts, strict=True)
    ]
    await asyncio.gather(*sent)


if __name__ == "__main__":
    uvloop.run(main(Options.read()))
