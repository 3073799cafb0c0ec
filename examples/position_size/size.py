"""Sizes a position by its forecast volatility, over the API: nothing to install.

The larger the move that is expected, the fewer units: each position then has the same expected
risk. Run it with a symbol, an interval, the capital and the share of it that a usual move over the
horizon may take: ``python size.py AAPL 1d 100000 0.01``.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

API = os.environ.get("API", "http://127.0.0.1:8000")
STEP = int(os.environ.get("STEP", "1"))


def main(symbol: str, interval: str, capital: float, risk: float) -> None:
    """Ask for the newest forecast of a symbol that the stream follows, and print the size."""
    request = urllib.request.Request(
        f"{API}/v1/forecasts",
        json.dumps(
            {"histories": [{"symbol": symbol, "interval": interval}], "horizons": [STEP]}
        ).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        [forecast] = json.load(answer)["forecasts"]
    ahead = forecast["horizons"][0]
    move = ahead["volatility"] * STEP**0.5  # the deviation of the log return over the horizon
    units = capital * risk / (forecast["last_close"] * move)
    worst = ahead["quantiles"]["0.01"]
    print(
        f"{symbol} {interval}: {units:.2f} units at {forecast['last_close']:.2f}; a usual move "
        f"over {STEP} is {move:.2%}, the 1 % quantile {worst:.2f} would lose "
        f"{units * (forecast['last_close'] - worst):.2f}"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
