"""One self-contained HTML page and one JSON file of a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trainer.evaluate import pages
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
    return pages.template(TEMPLATE).render(
        found=found,
        losses=LOSSES,
        rows=rows,
        steps=sorted({cell.step for cell in found.cells}),
    )
