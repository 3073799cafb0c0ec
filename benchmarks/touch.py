"""Is a probability of touching a price honest? Measured on candles' highs and lows.

A forecast has quantiles of closes, and none of the highest or lowest price on the way there. Two
ways are tried:

- ``simulated``: paths of a Brownian motion, whose value at each time is carried to a price by the
  quantile curve of that time, interpolated as the API does between trained steps. So every close
  has the distribution that was forecast; between two points of the grid the chance of touching is
  that of a Brownian bridge (Karatzas and Shreve, "Brownian motion and stochastic calculus", 2.8).
- ``mirrored``: the reflection principle, from the quantiles of the last step alone.

For each horizon the prices are quantiles of the close there. A line says how often the close was
forecast to lie beyond it and did, which is the yardstick, then how often it was to be touched on
the way and was. The last line printed is one JSON object; ``failures`` are, for each way, the lines
beyond the goal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.calibration import percent, series_of
from shared import bundle
from shared.forecaster import OnnxForecaster
from shared.intervals import Steps
from trainer import dataset
from trainer.dataset import SymbolCandles
from trainer.evaluate import backtest
from trainer.evaluate.forecast_table import levels_of, quantile_column

Floats = NDArray[np.float64]

SIDES: Final = {"above": (0.75, 0.9, 0.95), "below": (0.25, 0.1, 0.05)}
"""Levels of the closes' quantiles whose prices are to be touched."""

WAYS: Final = ("simulated", "mirrored")
"""Ways to a probability of touching."""

COLUMNS: Final = ("close", "closed", *WAYS, "touched")
"""Probabilities as forecast, and what happened."""

FINE: Final = 4
"""Points of the grid in a candle."""

PATHS: Final = 1_000
"""Simulated paths, and as many mirrored ones; the same for every forecast."""

OFF: Final = 1.5
"""Goal: most per cent that a probability is off, as the calibration's benchmark allows coverage."""

WORST: Final = 5.0
"""Goal: most per cent that it is off for a symbol."""


def paths(steps: int, seed: int = 7) -> Floats:
    """Return Brownian paths over candles, (2·PATHS, FINE·steps), of variance 1 a candle."""
    moves = np.random.default_rng(seed).standard_normal((PATHS, FINE * steps)) / np.sqrt(FINE)
    walked = np.cumsum(moves, axis=1)
    return np.concatenate([walked, -walked])


def curves(steps: Sequence[int], quantile: Floats, middle: int) -> tuple[Floats, Floats]:
    """Return times of the grid, in candles, and the quantiles of log returns there, (G, Q).

    Medians are linear in time and variances about them too, as in ``api.forecast.interpolate``.
    """
    times = np.arange(1, FINE * steps[-1] + 1) / FINE
    known = np.r_[0, steps]
    rows = np.vstack([np.zeros(quantile.shape[1]), quantile])  # (1 + H, Q)
    distance = rows - rows[:, middle, None]
    median = np.interp(times, known, rows[:, middle])
    squares = [np.interp(times, known, column**2) for column in distance.T]
    side = np.sign(distance[-1])
    return times, median[:, None] + side * np.sqrt(np.stack(squares, axis=1))


def boundary(times: Floats, curve: Floats, scores: Floats, level: float) -> Floats:
    """Return what a Brownian motion must reach for the log return to reach a level, (G,).

    Args:
        times: of the grid, (G,), candles.
        curve: quantiles there, (G, Q).
        scores: standard normal quantiles of their levels, (Q,); beyond the outer ones the curve
            goes on as straight as it ended.
        level: a log return.
    """
    at = np.clip((curve < level).sum(axis=1), 1, curve.shape[1] - 1)
    row = np.arange(len(times))
    low, high = curve[row, at - 1], curve[row, at]
    share = (level - low) / np.maximum(high - low, 1e-12)
    reached: Floats = scores[at - 1] + share * (scores[at] - scores[at - 1])
    return reached * np.sqrt(times)


def touched(walked: Floats, bound: Floats) -> float:
    """Return the share of paths, (N, G), that reach a bound above them, (G,), from 0 on."""
    start = max(float(bound[0]), 0.0)
    before = np.hstack([np.full((len(walked), 1), start), bound[:-1] - walked[:, :-1]])
    after = bound - walked
    bridge = np.exp(-2 * FINE * np.maximum(before, 0) * np.maximum(after, 0))
    return 1 - float(np.prod(1 - np.minimum(bridge, 1.0), axis=1).mean())


def below(curve: Floats, scores: Floats, log_return: float) -> float:
    """Return the probability of a lower log return by a quantile curve, (Q,), as in `boundary`."""
    at = min(max(int((curve < log_return).sum()), 1), len(curve) - 1)
    share = (log_return - curve[at - 1]) / max(curve[at] - curve[at - 1], 1e-12)
    return NormalDist().cdf(scores[at - 1] + share * (scores[at] - scores[at - 1]))


def mirrored(curve: Floats, scores: Floats, log_return: float, middle: int) -> float:
    """Return the probability of touching a level above or below by the reflection principle.

    Paths that touch and come back are as many as those that go on, so both tails count. With a
    drift the far tail weighs exp(2 d b / s^2) (Karatzas and Shreve, 3.5.C).
    """
    side = 1 if log_return > 0 else -1
    near, far = below(curve, scores, log_return), below(curve, scores, -log_return)
    beyond, behind = (1 - near, far) if side > 0 else (near, 1 - far)
    spread = (curve[-1] - curve[0]) / (scores[-1] - scores[0])
    weight = np.exp(np.clip(2 * curve[middle] * log_return / spread**2, -3, 3))
    return float(min(beyond + weight * behind, 1.0))


def settle(symbol: str, rows: pd.DataFrame, candles: SymbolCandles) -> Iterator[dict[str, Any]]:
    """Yield what was forecast and what happened, of forecasts that do not overlap."""
    steps = sorted(rows["step"].unique().tolist())
    levels = levels_of(rows)
    middle = levels.index(0.5)
    scores = np.array([NormalDist().inv_cdf(level) for level in levels])
    walked = paths(steps[-1])
    prices = rows.sort_values(["open_ms", "step"])
    names = [quantile_column(level) for level in levels]
    by_time = prices[names].to_numpy().reshape(-1, len(steps), len(levels))
    opened = prices["open_ms"].to_numpy().reshape(-1, len(steps))[:, 0]
    for forecast, now in enumerate(np.searchsorted(candles.open_ms, opened).tolist()):
        if now + steps[-1] >= len(candles.open_ms) or not np.isfinite(by_time[forecast]).all():
            continue
        ahead = np.log(candles.candles[now + 1 : now + 1 + steps[-1], :4] / candles.candles[now, 3])
        curve_of = np.log(by_time[forecast] / candles.candles[now, 3])
        times, curve = curves(steps, curve_of, middle)
        for row, step in enumerate(steps):
            if forecast % step:
                continue
            for side, chosen in SIDES.items():
                sign = 1 if side == "above" else -1
                extreme = sign * ahead[:step, 1 if sign > 0 else 2]
                for level in chosen:
                    price = float(curve_of[row, levels.index(level)])
                    bound = sign * boundary(times, curve, scores, price)[: FINE * step]
                    yield {
                        "symbol": symbol, "price": f"{step} ahead, {side} the {level:g} quantile",
                        "close": 1 - level if sign > 0 else level,
                        "closed": sign * ahead[step - 1, 3] >= sign * price,
                        "simulated": touched(walked[:, : FINE * step], bound),
                        "mirrored": mirrored(curve_of[row], scores, price, middle),
                        "touched": bool((extreme >= sign * price).any()),
                    }  # fmt: skip


def report(table: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Return a line for each horizon and price; for each way those beyond the goal, in words."""
    lines: list[dict[str, Any]] = []
    beyond: dict[str, list[str]] = {way: [] for way in WAYS}
    for price, rows in table.groupby("price", sort=False):
        means = {name: percent(rows[name].mean()) for name in COLUMNS}
        chance = percent(rows["touched"].std() / len(rows) ** 0.5)
        about = {"price": price, "forecasts": len(rows), **means, "standard_error": chance}
        by_symbol = rows.groupby("symbol")[[*WAYS, "touched"]].mean()
        for way in WAYS:
            off = (by_symbol[way] - by_symbol["touched"]).to_numpy()
            worst = about[f"{way}_worst"] = percent(off[np.abs(off).argmax()])
            wrong = round(means[way] - means["touched"], 2)
            if abs(wrong) > OFF or abs(worst) > WORST:
                words = f"{price}: {wrong:+} per cent off, {worst:+} at the worst symbol"
                beyond[way].append(words)
        lines.append(about)
    return lines, beyond


def of_file(path: Path, series: int, candles: int) -> tuple[dict[str, SymbolCandles], str]:
    """Return the candles of a file's symbols of the test, and their interval."""
    found = {}
    for rows in series_of(path, series, candles, "test"):
        values = rows[["open", "high", "low", "close", "volume"]].to_numpy(np.float64)
        found[str(rows["symbol"].iloc[0])] = SymbolCandles(rows["open_ms"].to_numpy(), values)
    return found, Steps.of([symbol.open_ms for symbol in found.values()]).interval() or "1d"


def measure(
    forecaster: OnnxForecaster, symbols: Mapping[str, SymbolCandles], interval: str
) -> dict[str, Any]:
    """Return the figures of some series, calibrated as a worker does."""
    made = backtest.run_calibrated(forecaster, symbols, interval=interval)
    table = pd.DataFrame(
        line
        for name, rows in made.groupby("symbol")
        for line in settle(str(name), rows, symbols[str(name)])
    )
    lines, beyond = report(table)
    for line in lines:
        print(json.dumps(line), file=sys.stderr, flush=True)
    return {"symbols": len(symbols), "lines": lines, "failures": beyond}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks touch", description=__doc__)
    parser.add_argument(
        "files", type=Path, nargs="*",
        help="Parquet files with symbol, open_ms, OHLCV: their test symbols; else bundled candles",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, default=bundle.default_path(), help="a bundle")
    parser.add_argument("--series", type=int, default=20, help="most series of a file")
    parser.add_argument("--candles", type=int, default=3000, help="newest candles of each")
    options = parser.parse_args(argv)
    forecaster = OnnxForecaster(bundle.load(options.model))
    found = {}
    for path in options.files:
        found[path.stem] = measure(forecaster, *of_file(path, options.series, options.candles))
    if not options.files:
        found["bundled"] = measure(forecaster, dataset.load(None).symbols, "1d")
    print(json.dumps({"model": forecaster.model_version, "classes": found}))
    return 0
