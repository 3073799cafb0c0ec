"""The notebooks run from top to bottom: one beside a worker on a real Kafka, one alone."""

from __future__ import annotations

import os
import re
from itertools import chain
from pathlib import Path
from typing import Final

import nbformat
import pytest
from nbclient import NotebookClient

from shared.history import bundled
from tests.documents import ROOT
from tests.integration import topics
from tests.integration.processes import Processes, wait_until
from tests.integration.workers import WorkerTopics, start_worker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NOTEBOOKS: Final = ROOT / "docs" / "notebooks"
CELL_S: Final = 300
WINDOW: Final = 144
LENGTH: Final = 480
"""Candles of each symbol: the window, 250 returns of the notebook's baseline, and some more."""


def executed(name: str, folder: Path, env: dict[str, str] | None = None) -> str:
    """Run a notebook in an empty folder; return what its cells print. A cell that fails raises."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_S, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})})
    assert list(folder.iterdir()) == []
    return printed(notebook)


def printed(notebook: nbformat.NotebookNode) -> str:
    """Return the outputs of a notebook's cells as text; none may be of an error or a warning."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            data = output.get("data", {})
            texts.append(data.get("text/plain", output.get("text", "")))
            if "image/png" in data:
                texts.append("a picture")
    return "\n".join(texts)


def test_forecasts_in_pandas(kafka: str, tmp_path: Path, processes: Processes) -> None:
    names = WorkerTopics(kafka, "notebook.candles", "notebook.forecasts", "notebook")
    worker = start_worker(processes, names)
    candles = bundled(("AAPL", "IBM")).candles
    series = {
        symbol: [candle for candle in candles if candle.symbol == symbol][-LENGTH:]
        for symbol in ("AAPL", "IBM")
    }
    topics.write_candles(kafka, names.candles, chain(*series.values()))
    count = 2 * (LENGTH - WINDOW + 1)
    wait_until(
        lambda: topics.count(kafka, names.forecasts) >= count, 120.0, "forecasts",
        process=worker.process,
    )  # fmt: skip
    wait_until(
        lambda: topics.count(kafka, names.scores) >= count - 2, 60.0, "scores",
        process=worker.process,
    )  # fmt: skip
    again = [(record.key, record.value) for record in topics.read(kafka, names.forecasts)[:5]]
    topics.write(kafka, names.forecasts, again)
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {
        "BOOTSTRAP": kafka, "CANDLES": names.candles, "FORECASTS": names.forecasts,
        "SCORES": names.scores,
    }  # fmt: skip
    said = executed("forecasts-in-pandas", empty, env)
    known = 3 * count - 2 * (1 + 5 + 10)
    assert f"{3 * count:,} forecasts, of {known:,} the outcome is known" in said
    [difference] = re.findall(rf"{known:,} scores; the largest difference from ours is (\S+)", said)
    assert float(difference) < 1e-9
    assert "NaN" not in said
    assert "a picture" in said


def test_train_and_compare(tmp_path: Path) -> None:
    said = executed("train-and-compare", tmp_path)
    kept = printed(nbformat.read(NOTEBOOKS / "train-and-compare.ipynb", as_version=4))
    built_in = r"^(?:pinball|qlike) +1 +(.*?\)) "
    skills = re.findall(built_in, kept, re.MULTILINE)
    assert re.findall(built_in, said, re.MULTILINE) == skills  # what the page shows is still so
    assert len(skills) == 2
    assert "8,166 windows to train on, 3,140 to test on" in said
    assert said.count("a picture") == kept.count("a picture") == 1


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_a_notebook_shows_is_what_it_printed(path: Path) -> None:
    """All cells in order, so that the page of the site has every output, and no machine's path."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert "/" not in re.sub(r"</?\w+", "", printed(notebook))
