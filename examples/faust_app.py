"""Prints the forecasts of one symbol as a Faust app: pip install faust-streaming cramjam.

Start it by ``SYMBOL=AAPL python examples/faust_app.py worker --without-web``.
"""

from __future__ import annotations

import os
import sys

import faust

REMEMBERED = 10_000
SYMBOL = os.environ.get("SYMBOL", "AAPL")

app = faust.App(
    os.environ.get("GROUP", "example-faust"),
    broker=f"kafka://{os.environ.get('BOOTSTRAP', '127.0.0.1:9092')}",
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,  # it needs no topic of its own
)
forecasts = app.topic(
    os.environ.get("FORECASTS", "market.forecasts.v1"), key_serializer="raw",
    value_serializer="json",
)  # fmt: skip
seen: dict[str, None] = {}


@app.agent(forecasts)
async def print_forecasts(stream: faust.StreamT[dict]) -> None:
    """Print the median and the 90 % interval of the next candle, repeats left out."""
    async for forecast in stream:
        if forecast["symbol"] != SYMBOL or forecast["id"] in seen:
            continue
        seen[forecast["id"]] = None
        if len(seen) > REMEMBERED:
            del seen[next(iter(seen))]
        ahead = forecast["horizons"][0]
        prices = ahead["quantiles"]
        print(
            f"{forecast['symbol']} {forecast['interval']} after {forecast['as_of_ms']}: "
            f"median {ahead['predicted_close']}, 90% {prices['0.05']} to {prices['0.95']}",
            file=sys.__stdout__,  # Faust makes log lines of what goes to sys.stdout
            flush=True,
        )


if __name__ == "__main__":
    app.main()
