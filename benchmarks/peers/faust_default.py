"""Contender ``faust_default``: the worker as Faust's manual writes it, with its own consumer.

One model call an event, the changelog by writing the table, acknowledgement by the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import faust
import uvloop
from faust.types import EventT, StreamT

from benchmarks.peers.options import Options
from shared import bundle
from shared.forecaster import Models, ModelSet, OnnxForecaster
from shared.headers import cloud_event
from stream_app.pipeline import Incoming, advance

PARTITIONS = 8


def make_app(options: Options, models: Models) -> faust.App:
    """Return the app with its topics, its table and its agent."""
    app = faust.App(
        options.group,
        broker=f"kafka://{options.bootstrap}",
        store="memory://",
        datadir=options.state_dir,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=PARTITIONS,
        key_serializer="raw",
        value_serializer="raw",
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
    )
    candles = app.topic(options.candles, key_type=bytes, value_type=bytes)
    forecasts = app.topic(options.forecasts, key_type=bytes, value_type=bytes)
    table = app.Table("windows", key_type=bytes, value_type=bytes, partitions=PARTITIONS)

    async def forecast_candles(stream: StreamT[bytes]) -> AsyncIterator[None]:
        async for event in stream.events():
            await handle(event)
            yield

    async def handle(event: EventT[bytes]) -> None:
        m = event.message
        incoming = Incoming(m.key, m.value, m.partition, m.offset, round(m.timestamp * 1000))
        now_ms = time.time_ns() // 1_000_000
        result = advance([incoming], table.get, models, 0, now_ms)
        for _, message in result.forecasts:
            await forecasts.send(
                key=m.key,
                value=message.encode(),
                headers=cloud_event(
                    message.id, "market.forecast.v1", "benchmark", message.made_at_ms
                ),
            )
        for key, (_, state) in result.states.items():
            table[key] = state

    app.agent(candles, name="forecast-candles")(forecast_candles)
    return app


async def main(options: Options) -> None:
    """Run until killed."""
    app = make_app(options, ModelSet(OnnxForecaster(bundle.load(options.model))))
    await app.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(Options.read()))
