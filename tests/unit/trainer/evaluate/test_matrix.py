"""The matrix by class: what it measures, on made candles and a forecaster that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forecasters import PersistenceForecaster
from tests.unit.trainer.test_panels import table
from trainer import panels
from trainer.evaluate import matrix, matrix_report
from trainer.evaluate.matrix import Matrix

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
MADE_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    folder = tmp_path_factory.mktemp("candles")
    symbols = [f"S{number}" for number in range(24)]
    table("daily stock", 700, symbols).to_parquet(folder / "days.parquet")
    table("5m stock", 900, symbols).to_parquet(folder / "minutes.parquet")
    forecaster = PersistenceForecaster(60, quantile_levels=LEVELS)
    baselines = ("rolling", "har", "har-time", "ewma")
    return matrix.evaluate(forecaster, panels.read(folder), "test", baselines, frozenset(), MADE_MS)


def test_every_class_horizon_loss_and_baseline_has_a_cell(found: Matrix) -> None:
    keys = {(cell.group, cell.step, cell.loss, cell.baseline) for cell in found.cells}
    assert len(keys) == len(found.cells) == 2 * 3 * 2 * 4
    for cell in found.cells:
        assert cell.low <= cell.skill <= cell.high
        assert cell.rows > 100
        assert cell.symbols == len([n for n in range(24) if panels.part_of(f"S{n}") == "test"])


def test_coverage_tails_and_point_are_of_the_right_size(found: Matrix) -> None:
    for tail in found.tails:
        if tail.step == 1:
            assert tail.inside_80 == pytest.approx(80, abs=12)
            assert tail.hit_1 < tail.hit_2_5 < 12
        assert tail.rmse_ratio == pytest.approx(1, abs=0.02)


def test_report_holds_every_figure(found: Matrix, tmp_path: Path) -> None:
    page, numbers = matrix_report.write(found, tmp_path)
    assert Matrix.model_validate_json(numbers.read_text()) == found
    text = page.read_text()
    assert "HAR with time of day" in text
    assert "minutes" in text
    assert "dynamic quantile passes" in text
