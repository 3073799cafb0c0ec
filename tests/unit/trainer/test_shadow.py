"""How far a shadow is: candles that neither model saw and that are settled, and their days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared import bundle
from shared.bundle import Bundle
from shared.candles import DAY_MS
from tests.recipes import Recipe
from trainer.dataset import Source, SymbolCandles
from trainer.shadow import progress

START_MS = 100 * DAY_MS


def source(interval: str = "1d", step_ms: int = DAY_MS, **counts: int) -> Source:
    """Return candles by symbol, so many of each."""
    return Source("topic", interval, {
        name: SymbolCandles(START_MS + step_ms * np.arange(count), np.ones((count, 5)))
        for name, count in counts.items()
    })  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Bundle:
    recipe = Recipe(horizons=(1, 10), trained_until_ms=START_MS + 4 * DAY_MS)
    return bundle.load(recipe.write(tmp_path / "model"))


def test_candles_count_that_neither_saw_and_whose_first_horizon_is_settled(model: Bundle) -> None:
    held = source(B=50, C=40, D=30)
    far = progress(held, START_MS + 9 * DAY_MS, model, model, 20)
    assert far.start_ms == START_MS + 9 * DAY_MS + 1  # the model knows none of these symbols
    assert (far.candles, far.days, far.wanted_days) == (29, 39, 100)
    assert not far.is_over
    assert "29 of 20 candles a series, 39 of 100 days" in far.words
    seen = progress(source(A=50), START_MS, model, model, 20)
    assert seen.start_ms == START_MS + 4 * DAY_MS + 1
    assert progress(source(B=112), START_MS + 9 * DAY_MS, model, model, 101).is_over
    assert not progress(source(B=112), START_MS + 9 * DAY_MS, model, model, 102).is_over


def test_candles_within_a_day_need_ten_days(model: Bundle) -> None:
    hours = source("1h", DAY_MS // 24, B=24 * 10, C=24 * 10 + 2)
    far = progress(hours, START_MS - 1, model, model, 100)
    assert (far.candles, far.days, far.wanted_days) == (240, 11, 10)
    assert far.is_over
    assert not progress(hours, START_MS + 8 * DAY_MS, model, model, 10).is_over


def test_no_new_candle_is_no_progress(model: Bundle) -> None:
    far = progress(source(B=10), START_MS + 9 * DAY_MS, model, model, 1)
    assert (far.candles, far.days) == (0, 0)
