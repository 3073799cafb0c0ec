"""Models that read context: asked with it and without, beside models that have none."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pytest

from shared import bundle
from shared.candles import DAY_MS
from shared.context import Contexts, ContextSeries, ContextSpec, ContextWindow, unknown
from shared.forecaster import Due, ModelSet, OnnxForecaster, distributions, forecast
from shared.forecasts import forecast_id
from shared.window import Window
from tests import bundles
from tests.candles import walk

SPEC: Final = ContextSpec(symbols=("^GSPC", "^VIX"), interval="1d", length=3)
SPREAD: Final = 0.01


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> OnnxForecaster:
    """A model whose volatility is higher by the sum of the closes that it is given."""
    folder = bundles.write(tmp_path_factory.mktemp("context") / "bundle", context=SPEC)
    return OnnxForecaster(bundle.load(folder))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> OnnxForecaster:
    folder = bundles.write(tmp_path_factory.mktemp("plain") / "bundle", intervals=["1h"])
    return OnnxForecaster(bundle.load(folder))


def due(context: ContextWindow | None = None, interval: str = "1d", day: int = 0) -> Due:
    window = Window(bundles.LENGTH)
    for candle in walk(bundles.LENGTH + day):
        window, _ = window.push(candle)
    return Due("AAPL", interval, candle.close_ms, candle.close, window, context)


def context_of(vix: float, as_of_ms: int = 1_262_563_200_000) -> ContextWindow:
    opened = np.array([as_of_ms - DAY_MS])
    series = ContextSeries.of("1d", opened, opened + DAY_MS, np.array([vix]))
    return Contexts(SPEC, {"^VIX": series}).window(as_of_ms)


def test_a_bundle_says_what_context_it_reads(reading: OnnxForecaster) -> None:
    assert reading.context == SPEC
    spec = reading.config.inputs["context"]
    assert (spec.datatype, spec.shape) == ("FP32", (-1, 3, 2))
    assert "context" not in bundle.load(bundle.default_path()).config.inputs


def test_each_window_gets_its_own_context_and_works_without(
    reading: OnnxForecaster, plain: OnnxForecaster
) -> None:
    models = ModelSet(reading, {"1h": plain})
    asked = [due(), due(context_of(2.0)), due(interval="1h"), due(context_of(8.0))]
    made = [float(raw.volatility[0]) for raw in distributions(models, asked)]
    assert made == pytest.approx([SPREAD, SPREAD + 2, SPREAD, SPREAD + 8])


def test_nan_and_nought_are_both_unknown(reading: OnnxForecaster) -> None:
    candles, open_ms, _ = bundles.right_golden(2, 3).inputs
    without = reading.predict(candles, open_ms)
    for nothing in (unknown(SPEC, 2), np.zeros((2, *SPEC.shape), np.float32)):
        made = reading.predict(candles, open_ms, nothing)
        np.testing.assert_array_equal(made.volatility, without.volatility)


def test_the_identity_and_the_age_of_a_forecast_are_of_its_context_too(
    reading: OnnxForecaster,
) -> None:
    models = ModelSet(reading)
    later_ms = context_of(2.0).as_of_ms or 0
    asked = [
        due(), due(context_of(2.0)), due(context_of(2.0)), due(context_of(3.0)),
        due(replace(context_of(2.0), as_of_ms=later_ms - DAY_MS)),
    ]  # fmt: skip
    made = forecast(models, asked, 1)
    assert made[1].id == made[2].id
    assert len({message.id for message in made}) == 4
    assert [message.context_as_of_ms for message in made] == [
        None,
        *[later_ms] * 3,
        later_ms - DAY_MS,
    ]
    owed = asked[0]
    assert made[0].id == forecast_id(
        "AAPL", "1d", owed.as_of_ms, owed.window.records, reading.model_version
    ), "without context as it was before there was any"
    assert made[1].decode(made[1].encode()) == made[1]
