"""Prints the forecasts of one symbol as they come, by librdkafka: pip install confluent-kafka."""

from __future__ import annotations

import json
import os
import sys

from confluent_kafka import Consumer, KafkaException

REMEMBERED = 10_000


def main(symbol: str) -> None:
    """Read from the oldest message on, and go on after the last one read at the next start."""
    consumer = Consumer({
        "bootstrap.servers": os.environ.get("BOOTSTRAP", "127.0.0.1:9092"),
        "group.id": os.environ.get("GROUP", "example-confluent"),
        "auto.offset.reset": "earliest",
        "enable.auto.offset.store": False,
    })  # fmt: skip
    consumer.subscribe([os.environ.get("FORECASTS", "market.forecasts.v1")])
    seen: dict[str, None] = {}
    try:
        while True:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            forecast = json.loads(message.value())
            if forecast["symbol"] == symbol and forecast["id"] not in seen:
                seen[forecast["id"]] = None
                if len(seen) > REMEMBERED:
                    del seen[next(iter(seen))]
                show(forecast)
            consumer.store_offsets(message)  # after the work, so that nothing is lost
    finally:
        consumer.close()


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
    main(sys.argv[1])
