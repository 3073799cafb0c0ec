"""A worker's step without Kafka: candles in, forecasts and scores out."""

from __future__ import annotations

from shared.candles import Candle
from shared.forecaster import ModelSet
from shared.forecasts import Forecast
from shared.score_messages import Scores
from stream_app.pipeline import Incoming, advance
from tests.forecasters import LastMove, PersistenceForecaster

NOW_MS = 2_000_000_000_000
MODELS = ModelSet(PersistenceForecaster(window_length=20, horizons=(1, 2, 5)))


class Stream:
    """A worker's table and what it published."""

    def __init__(self, models: ModelSet = MODELS) -> None:
        self.models = models
        self.table: dict[bytes, bytes] = {}
        self.forecasts: list[Forecast] = []
        self.scores: list[Scores] = []
        self.offset = 0

    def take(self, *candles: Candle) -> None:
        incoming = [
            Incoming(candle.symbol.encode(), candle.encode(), 0, self.offset + at, NOW_MS)
            for at, candle in enumerate(candles)
        ]
        self.offset += len(candles)
        result = advance(incoming, self.table.get, self.models, 20, NOW_MS)
        self.table.update({key: state for key, (_, state) in result.states.items()})
        self.forecasts += [made for _, made in result.forecasts]
        self.scores += [Scores.decode(scores.value) for _, scores in result.scores]


def published(candles: list[Candle]) -> Stream:
    """Return what a worker makes of candles by the last move, one by one."""
    stream = Stream(ModelSet(LastMove()))
    for candle in candles:
        stream.take(candle)
    return stream
