"""A strategy for freqtrade that trades on Candlecast's forecasts; copy it to user_data/strategies.

It enters when the forecast's odds of a rise, and what is to be gained, are worth the risk: a tenth
of the outcomes may fall below the 10 % quantile, which is the stop. It is an example of how to ask,
not of what earns: the median of such forecasts hardly ever differs from the last price.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from datetime import datetime

from freqtrade.strategy import IStrategy
from pandas import DataFrame

API = os.environ.get("CANDLECAST_API", "http://127.0.0.1:8000")
STEP = 1


class CandlecastStrategy(IStrategy):
    """Long only, a candle at a time, on whichever pairs the stream follows."""

    INTERFACE_VERSION = 3
    timeframe = "1h"
    process_only_new_candles = True
    minimal_roi = {"0": 10.0}  # the exit signal decides
    stoploss = -0.1  # beyond it; custom_stoploss is nearer
    use_custom_stoploss = True
    startup_candle_count = 0

    least_ratio = 1.2
    """Gain to the 75 % quantile over loss to the 25 % one that an entry asks for."""

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """Put the newest forecast beside the newest candle; older rows have none."""
        forecast = self.ask(metadata["pair"])
        for name, value in columns(forecast).items():
            dataframe[name] = float("nan")
            dataframe.loc[dataframe.index[-1], name] = value
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """Enter where the upper half of the forecast is the wider one."""
        up = dataframe["q75"] - dataframe["close"]
        down = dataframe["close"] - dataframe["q25"]
        dataframe.loc[up > self.least_ratio * down, "enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """Leave where the lower half is."""
        up = dataframe["q75"] - dataframe["close"]
        down = dataframe["close"] - dataframe["q25"]
        dataframe.loc[down > self.least_ratio * up, "exit_long"] = 1
        return dataframe

    def custom_stoploss(
        self,
        pair: str,
        trade: object,
        current_time: datetime,
        current_rate: float,
        current_profit: float,
        after_fill: bool,
        **kwargs: object,
    ) -> float | None:
        """Stop at the newest forecast's 10 % quantile; None leaves the stop where it is."""
        stop = columns(self.ask(pair)).get("q10")
        return None if stop is None else min(stop / current_rate - 1, -0.001)

    def ask(self, pair: str) -> dict:
        """Return the newest forecast of a pair; empty while the stream has none."""
        history = {"symbol": symbol_of(pair), "interval": self.timeframe}
        body = {"histories": [history], "horizons": [STEP]}
        request = urllib.request.Request(
            f"{API}/v1/forecasts",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)["forecasts"][0]
        except urllib.error.HTTPError as error:
            if error.code in {404, 503}:  # not followed, too few candles, or not yet
                return {}
            raise


def symbol_of(pair: str) -> str:
    """Return how Yahoo, and so the stream, calls a pair: BTC/USDT is BTC-USD."""
    base, _, quote = pair.partition("/")
    return f"{base}-{quote.partition(':')[0].replace('USDT', 'USD')}"


def columns(forecast: dict) -> dict[str, float]:
    """Return what the strategy reads of a forecast."""
    if not forecast:
        return {}
    quantiles = forecast["horizons"][0]["quantiles"]
    return {f"q{level[2:].ljust(2, '0')}": quantiles[level] for level in ("0.1", "0.25", "0.75")}
