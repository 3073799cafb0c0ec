"""Contender ``quix_tuned``: Quix Streams with the compact window as bytes in its state store.

Candles, window, forecaster and headers are ``shared``'s, called for each message, as its
interface wants it; confluent-kafka sends in the background.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from quixstreams import Application, State

from benchmarks.peers.options import Options, row_of
from shared import bundle
from shared.candles import decode_candle
from shared.forecaster import Due, ModelSet, OnnxForecaster, forecast
from shared.forecasts import Forecast
from shared.headers import cloud_event
from shared.window import Window


class Step:
    """Step of the stream: one candle in, one forecast out."""

    def __init__(self, options: Options) -> None:
        self._models = ModelSet(OnnxForecaster(bundle.load(options.model)))
        self._length = self._models.default.lengths("1d")[-1]
        self._known = [row.tobytes() for row in np.load(options.windows)]

    def forecast(self, value: bytes, key: bytes, _time: int, _headers: Any, state: State) -> Any:
        """Return the forecast of one candle after remembering it."""
        now_ms = time.time_ns() // 1_000_000
        candle = decode_candle(key, value, now_ms)
        records = state.get_bytes(candle.interval) or self._known[row_of(candle.symbol)]
        window, _ = Window(self._length, records).push(candle)
        state.set_bytes(candle.interval, window.records)
        due = Due(candle.symbol, candle.interval, candle.close_ms, candle.close, window)
        return forecast(self._models, [due], now_ms)[0]


def headers(message: Forecast, *_: Any) -> Any:
    """Return the headers of a forecast."""
    return cloud_event(message.id, "market.forecast.v1", "benchmark/quix", message.made_at_ms)


def main(options: Options) -> None:
    """Run until killed."""
    app = Application(
        broker_address=options.bootstrap,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=options.state_dir,
        consumer_poll_timeout=0.1,
        loglevel="WARNING",
    )
    raw: Any = {"key_deserializer": "bytes", "value_deserializer": "bytes"}
    out: Any = {"key_serializer": "bytes", "value_serializer": "bytes"}
    candles = app.topic(options.candles, **raw)
    forecasts = app.topic(options.forecasts, **out)
    frame = app.dataframe(candles)
    frame = frame.apply(Step(options).forecast, stateful=True, metadata=True)
    frame = frame.set_headers(headers)
    frame = frame.apply(Forecast.encode)
    frame.to_topic(forecasts)
    app.run()


if __name__ == "__main__":
    main(Options.read())
