"""The matrix by class: what it measures, on made candles and a forecaster that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.context import Closes, ContextSpec
from shared.forecaster import Prediction
from tests.forecasters import PersistenceForecaster
from tests.unit.trainer.test_panels import table
from trainer import panels
from trainer.evaluate import matrix, matrix_report
from trainer.evaluate.evaluation import WITHOUT_CONTEXT
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


class Reading(PersistenceForecaster):
    """Reads a context, and is too wide by half where it knows it."""

    context = ContextSpec(symbols=("^VIX",), interval="1d")  # type: ignore[assignment]

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        made = super().predict(candles, open_ms)
        known = np.zeros(len(candles)) if context is None else context[:, -1, 0] > 0
        return Prediction(made.log_return * (1 + 0.5 * known)[:, None, None], made.volatility)


def test_a_model_that_reads_a_context_is_beside_itself_without(tmp_path: Path) -> None:
    symbols = [f"S{number}" for number in range(24) if panels.part_of(f"S{number}") == "test"]
    table("daily stock", 700, symbols).to_parquet(tmp_path / "days.parquet")
    table("daily stock", 700, ["^VIX"]).to_parquet(tmp_path / "context-daily.parquet")
    forecaster = Reading(60, quantile_levels=LEVELS)
    contexts = panels.contexts_of(tmp_path, forecaster.context)
    data = panels.joined(panels.read(tmp_path), contexts)
    made = matrix.evaluate(forecaster, data, "test", (), frozenset(), MADE_MS)
    cells = [cell for cell in made.cells if cell.loss == "pinball"]
    assert [cell.baseline for cell in cells] == [WITHOUT_CONTEXT] * 3
    assert cells[0].high < 0, "and is worse with it, beyond chance"


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
    assert text.count('<div class="panel"><svg') == 2
    assert not any(loads in text for loads in ("src=", 'href="http', "<script", "url(http"))
    assert "HAR with time of day" in text
    assert "minutes" in text
    assert "dynamic quantile passes" in text


def test_the_figure_is_against_the_strongest_method_on_all_symbols(found: Matrix) -> None:
    chosen = matrix_report.strongest(found.cells, "pinball")
    assert len(chosen) == 2 * 3
    for cell in chosen:
        others = [
            other for other in found.cells
            if (other.group, other.step, other.loss) == (cell.group, cell.step, "pinball")
        ]  # fmt: skip
        assert cell.skill == min(other.skill for other in others)
    some = chosen[0].model_copy(update={"baseline": "GARCH-t", "rows": 10, "skill": -50.0})
    itself = chosen[0].model_copy(update={"baseline": WITHOUT_CONTEXT, "skill": -90.0})
    assert matrix_report.strongest([*found.cells, some, itself], "pinball") == chosen
