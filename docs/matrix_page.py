#!/usr/bin/env python
"""Writes the tables of docs/matrix.md and docs/model.md from a matrix.json.

``python -m trainer evaluate --all candles/ --out reports`` makes that file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # of a script only its own folder is on the path

from docs.marks import replace  # noqa: E402
from trainer.evaluate.baselines.har import HarTimeOfDay  # noqa: E402
from trainer.evaluate.matrix import Cell, Matrix  # noqa: E402
from trainer.evaluate.pages import NONE, signed  # noqa: E402

CLASSES: Final = {
    "daily-us": "daily, US stocks",
    "daily-us-delisted": "daily, US stocks since delisted",
    "daily-world": "daily, world stocks",
    "daily-etf-bond-fx-crypto: others": "daily, funds",
    "daily-etf-bond-fx-crypto: every day": "daily, coins",
    "daily-etf-bond-fx-crypto: currencies": "daily, currencies and gold",
    "hourly": "hourly, all",
    "hourly: others": "hourly, stocks",
    "hourly: currencies": "hourly, currencies and gold",
    "hourly: every day": "hourly, coins",
    "15m": "15m",
    "5m": "5m",
    "1m": "1m",
}
"""Groups of the matrix by what they are, in the order of the tables."""

TIMED: Final = HarTimeOfDay().name
MOST: Final = 90.0
"""Beyond this a skill says that the baseline failed, not how far the model is ahead."""

HEAD: Final = (
    "class", "against", "1 ahead", "5 ahead", "10 ahead", "calm 1 / 5 / 10",
    "median symbol 1 / 5 / 10", "forecasts, symbols",
)  # fmt: skip
TAILS: Final = (
    "class", "ahead", "inside 80 %", "inside 90 %", "below 1 %", "below 2.5 %", "Kupiec passes",
    "Christoffersen passes", "dynamic quantile passes", "ES ratio", "RMSE to persistence's", "IC",
    "RankIC", "R² of volatility", "MAE of volatility",
)  # fmt: skip
CARD: Final = (
    "class", "pinball 1 / 5 / 10 ahead", "outside crisis months", "median symbol",
    "QLIKE 1 / 5 / 10 ahead", "median symbol",
)  # fmt: skip


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("matrix", type=Path, help="matrix.json of evaluate --all")
    found = Matrix.model_validate_json(parser.parse_args().matrix.read_text(encoding="utf-8"))
    page, card = ROOT / "docs" / "matrix.md", ROOT / "docs" / "model.md"
    text = page.read_text(encoding="utf-8")
    for mark, content in {
        "pinball": table(HEAD, skills(found, "pinball", 2)),
        "qlike": table(HEAD, skills(found, "qlike", 1)),
        "tails": table(TAILS, tails(found)),
    }.items():
        text = replace(text, mark, content)
    page.write_text(text, encoding="utf-8")
    text = replace(card.read_text(encoding="utf-8"), "classes", table(CARD, classes(found)))
    card.write_text(text, encoding="utf-8")
    print(f"wrote the figures of {found.model_version} into {page} and {card}")


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    first, *others = (f"| {' | '.join(line)} |" for line in (head, *rows))
    return "\n".join([first, "|" + "---|" * len(head), *others])


def skills(found: Matrix, loss: str, digits: int) -> Iterator[list[str]]:
    """Yield a row for each class and baseline, in one loss."""
    for group, title in CLASSES.items():
        for baseline in dict.fromkeys(cell.baseline for cell in found.cells):
            cells = _cells(found, group, loss, baseline)
            if cells and not (baseline == TIMED and title.startswith("daily")):
                yield [
                    title,
                    baseline,
                    *(_with_interval(cell, digits) for cell in cells),
                    _each([cell.calm for cell in cells], digits),
                    _each([cell.median for cell in cells], digits),
                    f"{cells[0].rows:,}, {cells[0].symbols}",
                ]


def classes(found: Matrix) -> Iterator[list[str]]:
    """Yield a row for each class: pinball against the best HAR, QLIKE against HAR."""
    for group, title in CLASSES.items():
        pinball = _cells(found, group, "pinball", "HAR" if title.startswith("daily") else TIMED)
        variance = _cells(found, group, "qlike", "HAR")
        yield [
            title,
            " / ".join(_bold(_number(cell.skill, 2), cell.low) for cell in pinball),
            _each([cell.calm for cell in pinball], 2),
            _each([cell.median for cell in pinball], 2),
            " / ".join(_bold(_number(cell.skill, 1), cell.low) for cell in variance),
            _each([cell.median for cell in variance], 1),
        ]


def tails(found: Matrix) -> Iterator[list[str]]:
    """Yield a row for each class and horizon: how the quantiles held."""
    for group, title in CLASSES.items():
        for tail in (tail for tail in found.tails if tail.group == group):
            passes = (tail.kupiec, tail.christoffersen, tail.dynamic_quantile)
            orders = (tail.ic, tail.rank_ic)
            yield [
                title,
                str(tail.step),
                f"{tail.inside_80:.1f}",
                f"{tail.inside_90:.1f}",
                f"{tail.hit_1:.2f}",
                f"{tail.hit_2_5:.2f}",
                *(NONE if share is None else f"{share:.0f} %" for share in passes),
                f"{tail.es_ratio:.2f}",
                f"{tail.rmse_ratio:.4f}",
                *(NONE if value is None else _number(value, 3) for value in orders),
                _number(tail.volatility_r2, 2),
                f"{tail.volatility_mae:.0f} %",
            ]


def _cells(found: Matrix, group: str, loss: str, baseline: str) -> list[Cell]:
    """Return the cells of a class by horizon."""
    wanted = (group, loss, baseline)
    cells = [cell for cell in found.cells if (cell.group, cell.loss, cell.baseline) == wanted]
    return sorted(cells, key=lambda cell: cell.step)


def _with_interval(cell: Cell, digits: int) -> str:
    skill = _bold(_number(cell.skill, digits), cell.low)
    return f"{skill} ({_number(cell.low, digits)}, {_number(cell.high, digits)})"


def _bold(text: str, low: float) -> str:
    return f"**{text}**" if low > 0 else text


def _each(values: Sequence[float], digits: int) -> str:
    return " / ".join(_number(value, digits) for value in values)


def _number(value: float, digits: int) -> str:
    if value > MOST:
        return f"> +{MOST:.0f}"
    return signed(value, digits)


if __name__ == "__main__":
    main()
