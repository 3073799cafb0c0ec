"""Figures of the report, as SVG whose colours follow the page's theme."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from trainer.evaluate.evaluation import Calibration
from trainer.evaluate.forecast_table import levels_of, quantile_column
from trainer.evaluate.losses import Symbol, central_intervals

INK: Final = "#14171f"
MUTED: Final = "#6b7280"
LINE: Final = "#d9dde5"
FLAME: Final = "#c2570c"  # the network, and every forecast
SLATE: Final = "#3f6fb5"  # outcomes
COLOURS: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    FLAME: "var(--flame)",
    SLATE: "var(--slate)",
}
"""Colours of the light theme, each with the page's variable that replaces it."""

STYLE: Final[Mapping[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "candlecast",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}

FAR: Final = 4.0
"""Largest ratio of a skill to the next one; beyond it a skill is drawn at the edge of the panel."""

PRICE: Final = "price, quote currency"

SHADE: Final = 0.2
"""Opacity of an interval, of which the wider ones lie beneath."""

HISTORY: Final = 60
"""Number of candles drawn before a fan."""


@contextmanager
def _figure(rows: int, columns: int, width: float, height: float) -> Iterator[tuple[Figure, Any]]:
    with mpl.rc_context(dict(STYLE)):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def _svg(figure: Figure) -> str:
    """Return the figure as an SVG element that takes its colours and fonts from the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1)


@dataclass(frozen=True)
class Skill:
    """How much lower a loss is than another, in %, with its 95 % interval; a dot with its bar."""

    name: str  # of the row
    step: int
    skill: float
    low: float
    high: float


def skills(shown: Sequence[Skill]) -> str:
    """Return skills with their intervals, a row a name, a panel a horizon."""
    names = list(dict.fromkeys(skill.name for skill in shown))
    steps = sorted({skill.step for skill in shown})
    with _figure(1, len(steps), 9.6, 0.9 + 0.34 * len(names)) as (figure, axes):
        for panel, step in zip(axes[0], steps, strict=True):
            rows = [skill for skill in shown if skill.step == step]
            at = np.array([len(names) - 1 - names.index(row.name) for row in rows])
            middle = np.array([row.skill for row in rows])
            ends = np.array([[row.low, row.high] for row in rows]).T
            near = middle <= FAR * max([1.0, *np.sort(np.abs(middle))[-2:-1]])
            panel.axvline(0, color=MUTED, linewidth=1)
            panel.errorbar(
                middle[near], at[near], xerr=np.abs(ends - middle)[:, near], fmt="o",
                color=FLAME, markersize=5, elinewidth=2, capsize=0,
            )  # fmt: skip
            for y, value in zip(at[~near], middle[~near], strict=True):
                panel.annotate(
                    f"{value:.0f} % \N{RIGHTWARDS ARROW}", (1, y), color=FLAME, ha="right",
                    va="center", xycoords=("axes fraction", "data"),
                )  # fmt: skip
            panel.set_yticks(range(len(names)), names[::-1] if panel is axes[0][0] else [])
            panel.set_ylim(-0.6, len(names) - 0.4)
            panel.set_title(_ahead(step))
            panel.set_xlabel("lower loss, %")
        return _svg(figure)


def reliability(calibrations: Sequence[Calibration]) -> str:
    """Return the reliability diagrams: how often outcomes fell below each quantile."""
    with _figure(1, len(calibrations), 9.6, 3.3) as (figure, axes):
        for panel, calibration in zip(axes[0], calibrations, strict=True):
            panel.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            panel.fill_between(
                calibration.levels,
                calibration.low,
                calibration.high,
                color=FLAME,
                alpha=0.22,
                linewidth=0,
            )
            panel.plot(
                calibration.levels,
                calibration.observed,
                "o-",
                color=FLAME,
                markersize=4,
                linewidth=1.4,
            )
            panel.set_title(_ahead(calibration.step))
            panel.set_xlabel("quantile level")
            panel.set_aspect("equal")
            panel.set_xlim(0, 1)
            panel.set_ylim(0, 1)
        axes[0][0].set_ylabel("share of outcomes below")
        return _svg(figure)


def pit(calibrations: Sequence[Calibration]) -> str:
    """Return the histograms of the probability integral transform."""
    with _figure(1, len(calibrations), 9.6, 2.6) as (figure, axes):
        for panel, calibration in zip(axes[0], calibrations, strict=True):
            edges, density = np.array(calibration.pit_edges), np.array(calibration.pit_density)
            panel.bar(
                edges[:-1], density, np.diff(edges), align="edge", color=FLAME, alpha=0.45,
                edgecolor=FLAME, linewidth=0.8,
            )  # fmt: skip
            panel.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            panel.set_title(_ahead(calibration.step))
            panel.set_xlabel("forecast probability below the outcome")
            panel.set_xlim(0, 1)
        axes[0][0].set_ylabel("density")
        return _svg(figure)


@dataclass(frozen=True)
class ScoredStep:
    """What is drawn of the scores of one step; over time, and as a whole."""

    step: int
    from_ms: Sequence[int]  # start of each period, UTC
    coverage: Sequence[float | None]  # of 90 % intervals, as published
    raw_coverage: Sequence[float | None]  # of the model's
    skill: Sequence[float | None]  # against no model
    pit: Sequence[float]  # histogram, shares
    raw_pit: Sequence[float]


def scores(steps: Sequence[ScoredStep]) -> str:
    """Return coverage and skill over time, and PIT histograms, a column a step."""
    with _figure(3, len(steps), 3.3 * len(steps) + 0.6, 6.6) as (figure, axes):
        for column, step in enumerate(steps):
            covered, skilled, transformed = axes[:, column]
            times = pd.to_datetime(pd.Series(step.from_ms), unit="ms")
            for values, colour, name in (
                (step.raw_coverage, SLATE, "model alone"), (step.coverage, FLAME, "published"),
            ):  # fmt: skip
                shares = 100 * np.array(values, dtype=np.float64)
                covered.plot(times, shares, "o-", color=colour, markersize=3, label=name)
            covered.axhline(90, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            covered.set_title(_ahead(step.step))
            skills_of = 100 * np.array(step.skill, dtype=np.float64)
            skilled.plot(times, skills_of, "o-", color=FLAME, markersize=3)
            skilled.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            edges = np.linspace(0, 1, len(step.pit) + 1)
            transformed.stairs(np.array(step.pit) * len(step.pit), edges, color=FLAME, fill=True)
            transformed.stairs(np.array(step.raw_pit) * len(step.pit), edges, color=SLATE)
            transformed.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            transformed.set_xlabel("forecast probability below the outcome")
            chosen = np.unique(np.linspace(0, len(times) - 1, 3).astype(int))
            for panel in (covered, skilled):
                panel.set_xticks(times.iloc[chosen], [f"{times.iloc[i]:%-d %b %y}" for i in chosen])
        for panel, name in zip(
            axes[:, 0], ("in 90 %, %", "skill against no model, %", "PIT density"), strict=True
        ):
            panel.set_ylabel(name)
        axes[0, 0].legend(fontsize=8)
        return _svg(figure)


def fans(table: pd.DataFrame, symbols: Mapping[str, Symbol], count: int = 6) -> str:
    """Return forecasts with the candles before and after them, at evenly spread origins.

    The origins are chosen by their place in the table alone, not by how the forecast did; symbols
    take turns.
    """
    origins = _origins(table, count)
    columns = 3
    rows = -(-count // columns)
    with _figure(rows, columns, 9.6, 2.7 * rows) as (figure, axes):
        for panel, (symbol, open_ms) in zip(axes.flat, origins, strict=False):
            chosen = (table["symbol"] == symbol) & (table["open_ms"] == open_ms)
            _fan(panel, table[chosen], symbols[symbol])
        for panel in axes[-1]:
            panel.set_xlabel("candles from the forecast")
        for panel in axes[:, 0]:
            panel.set_ylabel(PRICE)
        return _svg(figure)


def _origins(table: pd.DataFrame, count: int) -> list[tuple[str, int]]:
    """Return symbol and time of forecasts, evenly spread over time, of each symbol in turn."""
    names = sorted(table["symbol"].unique())
    chosen = []
    for number in range(count):
        name = names[number % len(names)]
        times = np.unique(table["open_ms"][table["symbol"] == name])
        at = round((number + 1) / (count + 1) * (len(times) - 1))
        chosen.append((str(name), int(times[at])))
    return chosen


def _fan(panel: Axes, rows: pd.DataFrame, symbol: Symbol) -> None:
    steps = np.concatenate([[0], rows["step"].to_numpy()])
    at = int(np.searchsorted(symbol.open_ms, rows["open_ms"].iloc[0]))
    close = symbol.candles[max(at - HISTORY, 0) : at + steps[-1] + 1, 3]
    days = np.arange(len(close)) - min(at, HISTORY)
    for low, high in reversed(central_intervals(levels_of(rows)).values()):
        panel.fill_between(
            steps, _path(rows, low), _path(rows, high), color=FLAME, alpha=SHADE, linewidth=0
        )
    panel.plot(steps, _path(rows, 0.5), color=FLAME, linewidth=1.4)
    panel.plot(days[days <= 0], close[days <= 0], color=INK, linewidth=1.1)
    panel.plot(days[days >= 0], close[days >= 0], color=SLATE, linewidth=1.4)
    panel.axvline(0, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    date = pd.Timestamp(int(rows["open_ms"].iloc[0]), unit="ms")
    panel.set_title(f"{rows['symbol'].iloc[0]}, {date:%-d %b %Y}")
    panel.set_xlim(-HISTORY, steps[-1] + 1)


def _path(rows: pd.DataFrame, level: float) -> NDArray[np.float64]:
    """Return the last close and then the quantile at each step."""
    prices = rows[quantile_column(level)].to_numpy(dtype=np.float64)
    return np.concatenate([rows["last_close"].to_numpy(dtype=np.float64)[:1], prices])


def against_outcomes(joined: pd.DataFrame, step: int, count: int = 120) -> Figure:
    """Return each symbol's newest forecasts of one horizon against their outcomes.

    For a file: on white, in the light theme's colours.
    """
    names = sorted(joined["symbol"].unique())
    with _figure(len(names), 1, 9.6, 2.2 * len(names)) as (figure, axes):
        figure.set_facecolor("white")
        for panel, name in zip(axes[:, 0], names, strict=True):
            chosen = (joined["symbol"] == name) & (joined["step"] == step)
            rows = joined[chosen].sort_values("open_ms").tail(count)
            x = np.arange(len(rows))
            for percent, (low, high) in reversed(central_intervals(levels_of(rows)).items()):
                panel.fill_between(
                    x, rows[quantile_column(low)], rows[quantile_column(high)], color=FLAME,
                    alpha=SHADE, linewidth=0, label=f"{percent} %",
                )  # fmt: skip
            panel.plot(x, rows["predicted_close"], color=FLAME, linewidth=1, label="median")
            panel.plot(
                x, rows["last_close"], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)),
                label="persistence",
            )  # fmt: skip
            panel.plot(x, rows["close"], ".", color=SLATE, markersize=4, label="outcome")
            dates = pd.to_datetime(rows["open_ms"], unit="ms")
            marks = np.linspace(0, len(rows) - 1, min(6, len(rows))).astype(int)
            panel.set_xticks(marks, [f"{dates.iloc[i]:%-d %b %Y}" for i in marks])
            panel.set_title(f"{name}, {_ahead(step)}")
            panel.set_ylabel(PRICE)
        axes[-1, 0].set_xlabel("last candle that the forecast used")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        # an interval is as dark as it is upon the wider ones
        depths = itertools.count(1)
        shown = [
            handle
            if isinstance(handle, Line2D)
            else Patch(facecolor=FLAME, alpha=1 - (1 - SHADE) ** next(depths))
            for handle in handles
        ]
        figure.legend(shown, labels, loc="outside upper right", ncols=len(labels), fontsize=8)
        return figure


def _ahead(step: int) -> str:
    return f"{step} candle ahead" if step == 1 else f"{step} candles ahead"
