"""Writes an evaluation as one self-contained HTML page and one JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pandas as pd
from pydantic import BaseModel, ConfigDict

from trainer.evaluate import figures, pages
from trainer.evaluate.evaluation import MAIN_BASELINES, MANY, MODEL, Comparison, Evaluation, Scores
from trainer.evaluate.losses import Symbol
from trainer.evaluate.pages import NONE

TEMPLATE: Final = "report.html.j2"

LOSS_NAMES: Final[Mapping[str, str]] = {
    "pinball": "Distribution (pinball)",
    "crps": "Distribution (CRPS)",
    "qlike": "Volatility (QLIKE)",
    "squared": "Point (squared error)",
}

HEADLINES: Final = (
    ("pinball", "GARCH-t", "Distribution, against GARCH-t"),
    ("pinball", "HAR", "Distribution, against HAR"),
    ("qlike", "HAR", "Volatility, against HAR"),
    ("squared", "persistence", "Point, against persistence"),
)
"""Loss, baseline and title of each card at the top of the page."""


class Fold(BaseModel):
    """One model of the evaluation and the candles that it forecast from."""

    model_config = ConfigDict(frozen=True)

    model_version: str
    trained_until_ms: int  # opening time of the newest candle that training saw, UTC
    first_ms: int  # of the candles forecast from, UTC
    last_ms: int


class Protocol(BaseModel):
    """Protocol of the evaluation: the data, and how training and test were separated."""

    model_config = ConfigDict(frozen=True)

    source: str  # of the candles
    sha256: str  # of the candles as used
    kind: str  # in words: rolling origins or a frozen model
    separation: str  # of training from test, in words
    configurations_tried: int  # on validation data, before this
    folds: list[Fold]


class Report(BaseModel):
    """Result of ``python -m trainer evaluate``, and the content of its JSON file."""

    model_config = ConfigDict(frozen=True)

    made_at_ms: int
    protocol: Protocol
    evaluation: Evaluation


@dataclass(frozen=True)
class Card:
    """Card at the top of the page: a headline with a skill at each horizon."""

    title: str
    skills: Sequence[Comparison]


def write(
    report: Report, table: pd.DataFrame, symbols: Mapping[str, Symbol], folder: Path
) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into a folder and return their paths.

    Args:
        report: the figures.
        table: the network's forecasts, for the example fans.
        symbols: the candles, by symbol.
        folder: made if it is missing; files of these names in it are replaced.

    Raises:
        OSError: when a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, numbers = folder / "report.html", folder / "report.json"
    numbers.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    page.write_text(html(report, table, symbols), encoding="utf-8")
    return page, numbers


def html(report: Report, table: pd.DataFrame, symbols: Mapping[str, Symbol]) -> str:
    """Return the page, which loads nothing from elsewhere."""
    evaluation = report.evaluation
    compared = {
        loss: [row for row in evaluation.comparisons if row.loss == loss] for loss in LOSS_NAMES
    }
    compared = {loss: rows for loss, rows in compared.items() if rows}
    template = pages.template(
        TEMPLATE, date=_date, minute=_minute, percent=_percent, points=_points, milli=_milli,
        short=pages.short,
    )  # fmt: skip
    return template.render(
        report=report,
        evaluation=evaluation,
        model=MODEL,
        cards=_cards(evaluation),
        sentences=sentences(evaluation),
        scores={step: _by_method(evaluation, step) for step in evaluation.horizons},
        best={step: _lowest(_by_method(evaluation, step)) for step in evaluation.horizons},
        percents=sorted({percent for score in evaluation.scores for percent in score.covered}),
        loss_names={loss: LOSS_NAMES[loss] for loss in compared},
        compared=compared,
        skills={loss: figures.skills(list(map(_drawn, rows))) for loss, rows in compared.items()},
        reliability=figures.reliability(evaluation.calibrations),
        pit=figures.pit(evaluation.calibrations),
        fans=figures.fans(table, symbols),
        symbols_are_many=len(evaluation.symbols) > MANY,
        main_baselines=MAIN_BASELINES,
    )


def _drawn(row: Comparison) -> figures.Skill:
    percents = (100 * value for value in (row.skill, row.low, row.high))
    return figures.Skill(row.baseline, row.step, *percents)


def sentences(evaluation: Evaluation) -> list[str]:
    """Return what the figures say, in words that claim no more than their intervals do."""
    lines = []
    for loss, baseline, what in (
        ("pinball", "GARCH-t", "distribution"),
        ("pinball", "HAR", "distribution"),
        ("qlike", "HAR", "volatility"),
    ):
        rows = _compared(evaluation, loss, baseline)
        if rows:
            lines.append(f"Its {what} forecast, against {baseline}: {_verdicts(rows)}.")
    lines += [line for line in [_coverage(evaluation)] if line]
    point = _compared(evaluation, "squared", "persistence")
    if point:
        lines.append(
            f"Its median, as a point forecast against no change: {_verdicts(point)}. "
            "It makes no claim about the direction of a price."
        )
    return lines


def _coverage(evaluation: Evaluation) -> str:
    """Return how many outcomes fell into the widest interval, at each horizon."""
    ours = [score for score in evaluation.scores if score.method == MODEL and score.covered]
    if not ours:
        return ""
    percent = max(ours[0].covered)
    shares = "; ".join(
        f"{_ahead(score.step)} {100 * score.covered[percent]['inside']:.1f} %" for score in ours
    )
    return f"Its {percent} % interval held the outcome: {shares}."


def _verdicts(rows: Sequence[Comparison]) -> str:
    return "; ".join(f"{_ahead(row.step)} {_verdict(row)}" for row in rows)


def _verdict(comparison: Comparison) -> str:
    if comparison.low > 0:
        return f"better by {100 * comparison.skill:.1f} %"
    if comparison.high < 0:
        return f"worse by {-100 * comparison.skill:.1f} %"
    return f"no clear difference ({pages.signed(100 * comparison.skill, 1)} %)"


def _cards(evaluation: Evaluation) -> list[Card]:
    cards = [Card(title, _compared(evaluation, loss, name)) for loss, name, title in HEADLINES]
    return [card for card in cards if card.skills]


def _compared(evaluation: Evaluation, loss: str, baseline: str) -> list[Comparison]:
    return [
        comparison
        for comparison in evaluation.comparisons
        if (comparison.loss, comparison.baseline) == (loss, baseline)
    ]


def _by_method(evaluation: Evaluation, step: int) -> list[Scores]:
    return [score for score in evaluation.scores if score.step == step]


def _lowest(scores: Sequence[Scores]) -> dict[str, float | None]:
    """Return the lowest value of each loss."""
    names = ("pinball", "crps", "qlike", "rmse", "mae", "mse", "price_rmse", "price_mae")
    of = {name: [getattr(score, name) for score in scores] for name in names}
    return {
        name: min((value for value in values if value is not None), default=None)
        for name, values in of.items()
    }


def _ahead(step: int) -> str:
    return f"{step} candle ahead" if step == 1 else f"{step} candles ahead"


def _date(millis: int) -> str:
    return f"{datetime.fromtimestamp(millis / 1000, UTC):%Y-%m-%d}"


def _minute(millis: int) -> str:
    return f"{datetime.fromtimestamp(millis / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f} %"


def _points(skill: float) -> str:
    return pages.signed(100 * skill)


def _milli(value: float | None) -> str:
    return NONE if value is None else f"{1000 * value:.3f}"
