"""What scores and calibration cost the worker's step: CPU time with them and without, by turns.

``python -m benchmarks scoring`` prints JSON: microseconds of one thread a candle, medians of
rounds, and the ratio of the rates. Messages are encoded as they are published; Kafka has no part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final
from unittest.mock import patch

from benchmarks.stream_market import Market
from shared import bundle
from shared.forecaster import ModelSet, OnnxForecaster
from shared.forecasts import forecast_id
from shared.process import calm_collector
from stream_app import scoring
from stream_app.pipeline import Incoming, advance

SYMBOLS: Final = 512
DAYS: Final = 40
WARM_UP: Final = 20
"""First days, whose forecasts wait for their candles or have none to settle yet."""

NOW_MS: Final = 2_000_000_000_000


def plain(series: Sequence[scoring.Series], now_ms: int) -> None:
    """Take each forecast as the model made it, and settle nothing."""
    del now_ms
    for holder in series:
        for task in holder.tasks:
            if task.raw is None or task.due is None:
                continue
            due = task.due
            task.calibrated = task.raw.log_return.astype(float)
            task.entry = b""
            task.id = forecast_id(
                due.symbol, due.interval, due.as_of_ms, due.content,
                task.raw.layout.model_version,
            )  # fmt: skip


def round_us(
    models: ModelSet, market: Market, settle: Callable[[Sequence[scoring.Series], int], None]
) -> float:
    """Return the CPU time of a candle, in microseconds, once forecasts are settled."""
    table = dict(market.states())
    spent_s = 0.0
    with patch("stream_app.pipeline.settle", settle):
        for day in range(DAYS):
            batch = [
                Incoming(message.key, message.value, 0, day * SYMBOLS + at, NOW_MS)
                for at, message in enumerate(market.day(day))
            ]
            began_s = time.process_time()
            result = advance(batch, table.get, models, 0, NOW_MS)
            for _, forecast in result.forecasts:
                forecast.encode()
            if day >= WARM_UP:
                spent_s += time.process_time() - began_s
            table.update({key: state for key, (_, state) in result.states.items()})
    return 1e6 * spent_s / (SYMBOLS * (DAYS - WARM_UP))


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scoring", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default: 5)")
    rounds = parser.parse_args(argv).rounds
    model = OnnxForecaster(bundle.load(bundle.default_path()))
    models = ModelSet(model)
    market = Market(SYMBOLS, model.lengths("1d")[-1], DAYS)
    calm_collector()
    pairs = [
        (round_us(models, market, scoring.settle), round_us(models, market, plain))
        for _ in range(rounds)
    ]
    scored, alone = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        json.dumps(
            {
                "us_a_candle": {"scored": round(scored, 1), "without": round(alone, 1)},
                "rate_ratio": round(statistics.median(b / a for a, b in pairs), 3),
                "model_version": model.model_version,
            }
        )
    )
    return 0
