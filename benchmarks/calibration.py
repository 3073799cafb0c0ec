"""Raw against calibrated quantiles on a folder of candles, by class: coverage and pinball.

Each Parquet file of the folder is a class. Its series go through the model and the very functions
that the worker calls, candle by candle, all series side by side, from windows as long as the
worker's: the longest of the model's lengths that the candles so far fill. Series are cut at gaps,
and the longest part of each is taken. The last line printed is one JSON object; its ``failures``
are the figures beyond the goals, which are Python constants below.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared import bundle
from shared.calibration import Grid, grid_of
from shared.candles import DAY_MS
from shared.forecaster import OnnxForecaster
from shared.intervals import Steps
from trainer.dataset import SymbolCandles
from trainer.evaluate import backtest
from trainer.panels import part_of

Floats = NDArray[np.float64]

GAP_DAYS: Final = {"1d": 30, "": 5}
"""Days without a candle that end a part of a series: of daily candles, of others."""

ROLLING: Final = 250
"""Candles over which coverage is looked at as it rolls on."""

WITHIN: Final = 0.04
"""How far a rolling coverage may be from its nominal one."""

SETTLING: Final = 500
"""Candles after which the worst series counts."""

FIRST: Final = 100
"""Candles of a series that count as its first ones."""

YEARS: Final = (2008, 2020)
"""Years that are shown apart."""

COVERAGE: Final = (0.7, 1.0, 1.5)
"""Goal: most per cent that the calibrated coverage of 80 and 90 is off, at each step."""

STEADY: Final = {"daily": (95.0, 75.0, 60.0), "": (92.0, 75.0, 60.0)}
"""Goal: least per cent of windows whose rolling coverage is near, of daily candles, of others."""

WORST: Final = {"daily": (4.5, 9.0, 11.0), "": (2.5, 3.0, 5.0)}
"""Goal: most per cent that the worst series' coverage is off, likewise."""

OFF: Final = 5.0
"""Per cent that raw coverage of 80 is off where calibration has to win."""

GAIN: Final = (1.5, 2.0, 2.0)
"""Goal: by how much less pinball has to lose there, per cent, at each step."""

LOSS: Final = 0.1
"""Goal: most per cent that it loses elsewhere, and in the first candles."""


@dataclass
class Panel:
    """Forecasts and outcomes of a class: S series of up to T candles, NaN where there is none."""

    raw: NDArray[np.float32]  # (S, T, H, Q)
    outcome: Floats  # (S, T, H), log return from the candle's close
    year: NDArray[np.int16]  # (S, T)
    closes: list[Floats]  # of each series' candles


def series_of(path: Path, most: int, candles: int, part: str) -> Iterator[pd.DataFrame]:
    """Yield the longest unbroken part of a file's series, in an order by a hash of their names.

    The parts are the trainer's: it fits on no candle of the symbols of validation and test.
    """
    frame = pd.read_parquet(path)
    names = sorted(frame["symbol"].unique(), key=lambda name: zlib.crc32(str(name).encode()[::-1]))
    wanted = {part, "train"} if path.name.startswith("validation-") else {part}
    if part == "test":
        wanted = {part}
    if part != "all":
        names = [name for name in names if part_of(str(name)) in wanted]
    daily = path.name.startswith("daily")
    gap_ms = GAP_DAYS["1d" if daily else ""] * DAY_MS
    found = 0
    for name in names:
        rows = frame[frame["symbol"] == name].sort_values("open_ms")
        rows = rows[(rows[["open", "high", "low", "close"]] > 0).all(axis=1)]
        cuts = np.flatnonzero(np.diff(rows["open_ms"].to_numpy()) > gap_ms) + 1
        starts, ends = np.r_[0, cuts], np.r_[cuts, len(rows)]
        at = int(np.argmax(ends - starts))
        rows = rows.iloc[starts[at] : ends[at]].tail(candles)
        if len(rows) >= ROLLING * 2:
            found += 1
            yield rows
        if found >= most:
            return


def panel_of(path: Path, forecaster: OnnxForecaster, options: argparse.Namespace) -> Panel | None:
    """Return the forecasts and outcomes of a file's series; None when it has none long enough."""
    steps = forecaster.horizons
    parts = []
    for rows in series_of(path, options.series, options.candles, options.part):
        times = rows["open_ms"].to_numpy(np.int64)
        held = rows[["open", "high", "low", "close", "volume"]].to_numpy(np.float32)
        candles = held.astype(np.float64)
        interval = Steps.of([times]).interval() or "1d"
        first = forecaster.window_length - 1
        series = SymbolCandles(times, candles)
        joined = backtest.predict_all(forecaster, series, first, len(times), interval).log_return
        close = np.log(candles[first:, 3])
        outcome = np.full((len(close), len(steps)), np.nan)
        for at, step in enumerate(steps):
            outcome[:-step, at] = close[step:] - close[:-step]
        outcome[~np.isfinite(joined).all(axis=(1, 2))] = np.nan
        years = times[first:].astype("datetime64[ms]").astype("datetime64[Y]")
        if np.isfinite(outcome).any():
            parts.append((joined, outcome, years.astype(int) + 1970, candles[first:, 3]))
    if not parts:
        return None
    longest = max(len(joined) for joined, *_ in parts)
    shape = (len(parts), longest, len(steps))
    raw = np.zeros((*shape, len(forecaster.quantile_levels)), dtype=np.float32)
    panel = Panel(raw, np.full(shape, np.nan), np.zeros(shape[:2], dtype=np.int16),
                  [close for *_, close in parts])  # fmt: skip
    for at, (joined, outcome, year, _) in enumerate(parts):
        panel.raw[at, : len(joined)] = joined
        panel.outcome[at, : len(joined)] = outcome
        panel.year[at, : len(joined)] = year
    return panel


def walk(grid: Grid, panel: Panel) -> Floats:
    """Return the calibrated quantiles, (S, T, H, Q), each from what was known at its candle."""
    calibrated = panel.raw.astype(np.float64)
    learned = backtest.walk(
        grid,
        [raw[: len(close)] for raw, close in zip(panel.raw, panel.closes, strict=True)],
        panel.closes,
    )
    for row, made in zip(calibrated, learned, strict=True):
        row[: len(made)] = made
    return calibrated


def figures(grid: Grid, panel: Panel, made: Floats) -> dict[str, Any]:
    """Return the figures of some quantiles, by step."""
    by_step: dict[str, Any] = {}
    for row, step in enumerate(grid.steps):
        outcome, quantile = panel.outcome[:, :, row], made[:, :, row]
        known = np.isfinite(outcome)
        result: dict[str, Any] = {}
        for name, low, high in (("80", 0.1, 0.9), ("90", 0.05, 0.95)):
            inside = (outcome >= quantile[..., grid.levels.index(low)]) & (
                outcome <= quantile[..., grid.levels.index(high)]
            )
            result[f"coverage_{name}"] = percent(inside[known].mean())
            if name == "90":
                result |= rolling(inside, known, 0.9)
                for year in YEARS:
                    chosen = known & (panel.year == year)
                    if chosen.sum() > ROLLING:
                        result[f"coverage_90_in_{year}"] = percent(inside[chosen].mean())
        by_step[str(step)] = result
    return by_step


def rolling(inside: NDArray[np.bool_], known: NDArray[np.bool_], nominal: float) -> dict[str, Any]:
    """Return how steady coverage is in time, and how far the worst series is off."""
    near, windows, worst = 0, 0, 0.0
    for row, of in zip(inside, known, strict=True):
        sums = np.r_[0, np.cumsum(row[of])]
        shares = (sums[ROLLING:] - sums[:-ROLLING]) / ROLLING
        near += int((np.abs(shares - nominal) <= WITHIN).sum())
        windows += len(shares)
        if of.sum() > 2 * SETTLING:
            worst = max(worst, row[of][SETTLING:].mean() - nominal, key=abs)
    return {
        "rolling_within_4": percent(near / max(windows, 1)),
        "worst_series": percent(worst),
    }


def pinball_change(
    grid: Grid, panel: Panel, made: Floats, until: int | None = None
) -> dict[str, float]:
    """Return by how much less pinball calibrated quantiles lose than raw ones, per cent, by step.

    Each series weighs as its own size of moves says, so that none outweighs the others.
    """
    change = {}
    for row, step in enumerate(grid.steps):
        outcome = panel.outcome[:, :until, row]
        with np.errstate(invalid="ignore"):
            size = np.nanmean(np.abs(panel.outcome[:, :, row]), axis=1)
        lost = [
            np.nansum(pinball(grid, outcome, quantile[:, :until, row]) / size[:, None])
            for quantile in (made, panel.raw)
        ]
        change[str(step)] = round(100 * float(1 - lost[0] / lost[1]), 2)
    return change


def pinball(grid: Grid, outcome: Floats, quantile: NDArray[Any]) -> Floats:
    """Return the mean pinball loss over the levels."""
    error = outcome[..., None] - quantile
    return np.asarray(np.maximum(grid.level * error, (grid.level - 1) * error).mean(axis=-1))


def failures(name: str, result: dict[str, Any]) -> list[str]:
    """Return the figures of a class that are beyond the goals, in words."""
    beyond = []
    kind = "daily" if name.startswith("daily") else ""
    for at, (step, made) in enumerate(result["calibrated"].items()):
        goal = min(at, len(COVERAGE) - 1)
        off = abs(result["raw"][step]["coverage_80"] - 80)
        least = GAIN[goal] if off >= OFF else -LOSS
        better = result["pinball_better_percent"][step]
        first = result["pinball_better_percent_first_100"][step]
        for nominal in (80, 90):
            covered = made[f"coverage_{nominal}"]
            if abs(covered - nominal) > COVERAGE[goal]:
                beyond.append(f"coverage of {nominal} at {step} ahead: {covered}")
        if made["rolling_within_4"] < STEADY[kind][goal]:
            beyond.append(f"rolling coverage at {step} ahead: {made['rolling_within_4']}")
        if abs(made["worst_series"]) > WORST[kind][goal]:
            beyond.append(f"worst series at {step} ahead: {made['worst_series']}")
        if better < least:
            beyond.append(f"pinball at {step} ahead: {better}, expected {least}")
        if first < -LOSS:
            beyond.append(f"pinball of the first {FIRST} at {step} ahead: {first}")
    return beyond


def percent(share: float) -> float:
    """Return a share as per cent with two decimals."""
    return round(100 * float(share), 2)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks calibration", description=__doc__)
    parser.add_argument("folder", type=Path, help="Parquet files with symbol, open_ms, OHLCV")
    parser.add_argument("--only", help="names of files without .parquet, by comma")
    parser.add_argument("--model", type=Path, default=bundle.default_path(), help="a bundle")
    parser.add_argument("--series", type=int, default=40, help="most series of a class")
    parser.add_argument("--candles", type=int, default=6000, help="newest candles of each")
    parser.add_argument(
        "--part", choices=("validation", "test", "all"), default="validation",
        help="two thirds of the symbols by a hash of their names, the other third, or all",
    )  # fmt: skip
    options = parser.parse_args(argv)
    forecaster = OnnxForecaster(bundle.load(options.model))
    grid = grid_of(tuple(forecaster.horizons), tuple(forecaster.quantile_levels))
    only = options.only.split(",") if options.only else None
    report: dict[str, Any] = {}
    for path in sorted(options.folder.glob("*.parquet")):
        if only is not None and path.stem not in only:
            continue
        panel = panel_of(path, forecaster, options)
        if panel is None:
            continue
        made = walk(grid, panel)
        report[path.stem] = {
            "series": len(panel.raw),
            "forecasts": int(np.isfinite(panel.outcome[:, :, 0]).sum()),
            "raw": figures(grid, panel, panel.raw.astype(np.float64)),
            "calibrated": figures(grid, panel, made),
            "pinball_better_percent": pinball_change(grid, panel, made),
            "pinball_better_percent_first_100": pinball_change(grid, panel, made, FIRST),
        }
        report[path.stem]["failures"] = failures(path.stem, report[path.stem])
        print(path.stem, json.dumps(report[path.stem]), file=sys.stderr, flush=True)
    print(json.dumps({"model": forecaster.model_version, "part": options.part, "classes": report}))
    return 0
