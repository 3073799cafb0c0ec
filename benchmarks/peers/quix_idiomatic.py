"""Contender ``quix_idiomatic``: Quix Streams as users write it, with JSON, pandas and torch."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import torch
from quixstreams import Application, State

from benchmarks.peers import pandas_features
from benchmarks.peers.options import Options, row_of
from shared import bundle
from shared.window import Window, stack
from trainer.export import rebuild

COLUMNS: Final = ("open_ms", "open", "high", "low", "close", "volume")


class Step:
    """Step of the stream: one candle in, one forecast out."""

    def __init__(self, options: Options) -> None:
        loaded = bundle.load(options.model)
        self._config = loaded.config
        self._length = loaded.config.window_lengths["1d"][-1]
        self._model = rebuild(loaded)
        self._steps = int(str(self._config.training["sequence_length"]))
        self._known = np.load(options.windows)

    def forecast(self, candle: dict[str, Any], state: State) -> dict[str, Any]:
        """Return the forecast of one candle after remembering it."""
        history = state.get("candles") or self._history(candle["symbol"])
        history.append({name: candle[name] for name in COLUMNS})
        history = history[-self._length :]
        state.set("candles", history)
        features = pandas_features.compute(history, list(self._config.features), self._steps)
        with torch.no_grad():
            inputs = torch.tensor(features.to_numpy(), dtype=torch.float32)[None]
            log_return, volatility = self._model.distribution(inputs)
        prices = candle["close"] * torch.exp(log_return[0].double())
        return self._message(candle, prices.tolist(), volatility[0].tolist())

    def _message(
        self, candle: dict[str, Any], prices: list[list[float]], volatility: list[float]
    ) -> dict[str, Any]:
        levels = self._config.quantile_levels
        return {
            "symbol": candle["symbol"],
            "interval": candle["interval"],
            "as_of_ms": candle["close_ms"],
            "last_close": candle["close"],
            "model_version": self._config.model_version,
            "made_at_ms": time.time_ns() // 1_000_000,
            "horizons": [
                {"step": step, "quantiles": dict(zip(map(str, levels), row, strict=True)),
                 "predicted_close": row[levels.index(0.5)], "volatility": spread}
                for step, row, spread in zip(
                    self._config.horizons, prices, volatility, strict=True
                )
            ],
        }  # fmt: skip

    def _history(self, symbol: str) -> list[dict[str, float]]:
        window = Window(self._length, self._known[row_of(symbol)].tobytes())
        candles, open_ms = stack([window])
        rows: list[list[float]] = np.column_stack([open_ms[0], candles[0]]).tolist()
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def main(options: Options) -> None:
    """Run until killed."""
    torch.set_num_threads(1)
    app = Application(
        broker_address=options.bootstrap,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        state_dir=options.state_dir,
        loglevel="WARNING",
    )
    candles = app.topic(options.candles, value_deserializer="json")
    forecasts = app.topic(options.forecasts, value_serializer="json")
    frame = app.dataframe(candles)
    frame = frame.apply(Step(options).forecast, stateful=True)
    frame.to_topic(forecasts)
    app.run()


if __name__ == "__main__":
    main(Options.read())
