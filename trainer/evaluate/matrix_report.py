"""One self-contained HTML page and one JSON file of a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from trainer.evaluate import figures, pages
from trainer.evaluate.evaluation import WITHOUT_CONTEXT
from trainer.evaluate.matrix import Cell, Matrix

TEMPLATE: Final = "matrix.html.j2"
LOSSES: Final = {"pinball": "Distribution (pinball)", "qlike": "Volatility (QLIKE, at most 20)"}


def write(found: Matrix, folder: Path) -> tuple[Path, Path]:
    """Write ``matrix.html`` and ``matrix.json`` into a folder and return their paths.

    Raises:
        OSError: when a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, numbers = folder / "matrix.html", folder / "matrix.json"
    numbers.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    page.write_text(html(found), encoding="utf-8")
    return page, numbers


def html(found: Matrix) -> str:
    """Return the page; it loads nothing from anywhere."""
    rows: dict[str, dict[tuple[str, str], dict[int, Cell]]] = {loss: {} for loss in LOSSES}
    for cell in found.cells:
        rows[cell.loss].setdefault((cell.group, cell.baseline), {})[cell.step] = cell
    return pages.template(TEMPLATE, short=pages.short, signed=pages.signed).render(
        found=found,
        losses=LOSSES,
        rows=rows,
        plots={loss: _plot(strongest(found.cells, loss)) for loss in LOSSES},
        steps=sorted({cell.step for cell in found.cells}),
    )


def strongest(cells: Iterable[Cell], loss: str) -> list[Cell]:
    """Return each class's cell against the method that does best there, at each horizon.

    Of the methods that were measured on all of its symbols; the model itself without a context is
    none.
    """
    found: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        if cell.loss == loss and cell.baseline != WITHOUT_CONTEXT:
            best = found.setdefault((cell.group, cell.step), cell)
            if (-cell.rows, cell.skill) < (-best.rows, best.skill):
                found[cell.group, cell.step] = cell
    return list(found.values())


def _plot(cells: Sequence[Cell]) -> str:
    """Return a figure of some cells; empty without any."""
    shown = [figures.Skill(c.group, c.step, c.skill, c.low, c.high) for c in cells]
    return figures.skills(shown) if shown else ""
