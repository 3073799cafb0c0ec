"""Prints the forecasts of one symbol as they come, by aiokafka: pip install aiokafka cramjam."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from aiokafka import AIOKafkaConsumer

REMEMBERED = 10_000


async def main(symbol: str) -> None:
    """Read from the oldest message on, and go on after the last one read at the next start."""
    consumer = AIOKafkaConsumer(
        os.environ.get("FORECASTS", "market.forecasts.v1"),
        bootstrap_servers=os.environ.get("BOOTSTRAP", "127.0.0.1:9092"),
        group_id=os.environ.get("GROUP", "example-aiokafka"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    seen: dict[str, None] = {}
    async with consumer:
        async for message in consumer:
            forecast = json.loads(message.value)
            if forecast["symbol"] == symbol and forecast["id"] not in seen:
                seen[forecast["id"]] = None
                if len(seen) > REMEMBERED:
                    del seen[next(iter(seen))]
                show(forecast)
            await consumer.commit()  # after the work, so that nothing is lost


def show(forecast: dict) -> None:
    """Print the median and the 90 % interval of the next candle."""
    ahead = forecast["horizons"][0]
    prices = ahead["quantiles"]
    print(
        f"{forecast['symbol']} {forecast['interval']} after {forecast['as_of_ms']}: "
        f"median {ahead['predicted_close']}, 90% {prices['0.05']} to {prices['0.95']}",
        flush=True,
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
