"""The exported graph: the model's numbers, the same bits in any batch, the same bytes again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from local.live_training import FEATURES as FEW
from shared import bundle
from shared.bundle import DataSpan
from shared.context import ContextSpec
from shared.forecaster import TOLERANCE, OnnxForecaster, Prediction
from shared.window import held
from tests.unit.trainer.test_network import DAY_MS, made_samples
from tests.unit.trainer.test_network import SMALL as SMALL_OF_ALL
from trainer import export
from trainer.context import FEATURES
from trainer.dataset import Inputs
from trainer.fit import Fitted, fit
from trainer.fit_config import FitConfig

pytestmark = pytest.mark.integration

Windows = Sequence[Inputs]

SPEC = ContextSpec(symbols=("^GSPC", "^VIX"), interval="1d")
SPAN = DataSpan(source="made", symbols=("A",), first_ms=0, last_ms=1, candles=2, sha256="0")


SMALL = replace(SMALL_OF_ALL, features=tuple(FEW.split(",")))
TINY = replace(SMALL, sequence_length=3, hidden=2, max_epochs=1)


def windows(config: FitConfig, count: int = 300, seed: int = 0) -> Windows:
    """Return random walks with gaps in time, candles (B, T, 5) and times (B, T)."""
    rng = np.random.default_rng(seed)
    shape = (count, config.window_length)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, shape), axis=1))
    opened = close * np.exp(rng.normal(0, 0.005, shape))
    high, low = np.maximum(opened, close) * 1.005, np.minimum(opened, close) / 1.005
    candles = np.stack([opened, high, low, close, rng.uniform(0, 1e6, shape)], axis=2)
    return [(held(candles), np.cumsum(rng.choice([1, 1, 1, 3], shape), axis=1) * DAY_MS)]


def made_bundle(fitted: Fitted, seen: Windows, check_on: Windows | None = None) -> export.Exported:
    return export.export(fitted, lambda _: seen, lambda _: check_on or seen, "small", ("1d",), SPAN)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(made_samples(400, SMALL), SMALL, seed=1)


@pytest.fixture(scope="module")
def exported(fitted: Fitted) -> export.Exported:
    return made_bundle(fitted, windows(SMALL))


def test_bundle_is_written_verified_and_rebuilt_from_weights(
    exported: export.Exported, tmp_path: Path
) -> None:
    config = exported.write(tmp_path, {"pinball": 1.0})
    loaded = bundle.load(tmp_path)
    assert loaded.config == config
    assert list(config.features) == list(SMALL.features)
    rebuilt = export.rebuild(loaded)
    apart = export.largest_difference(rebuilt, OnnxForecaster(loaded), windows(SMALL))
    assert apart <= TOLERANCE
    assert export.to_onnx(rebuilt) == loaded.onnx


def test_a_graph_with_context_is_checked_written_rebuilt_and_works_without(tmp_path: Path) -> None:
    """Its golden windows have a context, but for the last; unknown ones give what None does."""
    config = replace(SMALL, context=SPEC)
    rng = np.random.default_rng(0)
    beside = rng.normal(0, 0.1, (400, 1, 2 * len(FEATURES))).repeat(SMALL.sequence_length, 1)
    samples = made_samples(400, SMALL)
    features = np.concatenate([samples.features, beside.astype(np.float32)], axis=2)
    fitted = fit(replace(samples, features=features), config, seed=1)
    candles, open_ms = windows(SMALL)[0]
    steps = rng.normal(0, 0.01, (len(candles), *SPEC.shape))
    closes = (2000 * np.exp(np.cumsum(steps, axis=1))).astype(np.float32)
    closes[::3, :, 1] = np.nan
    closes[::5] = np.nan
    inputs = candles, open_ms, closes
    exported = made_bundle(fitted, [tuple(array[:4] for array in inputs)], [inputs])
    exported.write(tmp_path, {})
    loaded = bundle.load(tmp_path)
    assert loaded.config.context == SPEC
    assert list(loaded.config.features)[len(SMALL.features)] == "^GSPC known"
    assert loaded.config.metrics.keys() == {
        f"context_saved_{step}{end}" for step in (1, 5, 10) for end in ("", "_low", "_high")
    }
    held = loaded.golden.context
    assert held is not None
    assert np.isfinite(held[1]).any()
    assert np.isnan(held[-1]).all()
    served = OnnxForecaster(loaded)
    assert export.largest_difference(export.rebuild(loaded), served, [inputs]) <= TOLERANCE
    assert export.to_onnx(export.rebuild(loaded)) == loaded.onnx
    without = served.predict(candles, open_ms).log_return
    with_context = served.predict(*inputs).log_return
    np.testing.assert_array_equal(with_context[::5], without[::5])
    assert not np.array_equal(with_context[1], without[1])


def test_the_graph_names_no_file_of_this_machine(exported: export.Exported) -> None:
    graph = exported.contents[bundle.ONNX_NAME]
    assert str(Path.cwd()).encode() not in graph
    assert b".py" not in graph


def test_a_graph_that_differs_is_not_exported(fitted: Fitted) -> None:
    candles, open_ms = windows(SMALL)[0]
    with pytest.raises(export.ExportError, match="nan apart"):
        made_bundle(fitted, windows(SMALL), [(candles * np.nan, open_ms)])


def test_a_feature_whose_bits_depend_on_the_batch_is_refused(
    fitted: Fitted, exported: export.Exported
) -> None:
    class Moody:
        """Adds to each window's numbers by how many there are."""

        def predict(self, candles: NDArray[np.float64], open_ms: NDArray[np.int64]) -> Prediction:
            made = exported.forecaster.predict(candles, open_ms)
            return Prediction(made.log_return + 1e-9 * len(candles), made.volatility)

    moody: Any = Moody()
    with pytest.raises(export.ExportError, match="depend on its batch"):
        export.largest_difference(fitted.model, moody, windows(SMALL))


@pytest.fixture(scope="module")
def default() -> OnnxForecaster:
    return OnnxForecaster(bundle.load(bundle.default_path()))


@settings(max_examples=60)
@given(start=st.integers(0, 1023), count=st.integers(1, 1024))
def test_onnx_gives_a_window_the_same_bits_in_any_batch(
    start: int, count: int, default: OnnxForecaster
) -> None:
    candles, open_ms = many()
    whole = whole_batch()
    some = slice(start, start + count)
    made = default.predict(candles[some], open_ms[some])
    np.testing.assert_array_equal(made.log_return, whole.log_return[some])
    np.testing.assert_array_equal(made.volatility, whole.volatility[some])


@cache
def many() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    candles, open_ms = windows(FitConfig(), 1024)[0]
    return candles, open_ms


@cache
def whole_batch() -> Prediction:
    return OnnxForecaster(bundle.load(bundle.default_path())).predict(*many())


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, horizons=(2,), quantile_levels=(0.3, 0.5)),
        replace(TINY, quantile_levels=(0.5,)),
        replace(TINY, quantile_levels=(0.2, 0.4, 0.5, 0.9)),
    ],
    ids=["one-horizon", "median-only", "uneven-levels"],
)
def test_the_graph_computes_what_the_model_does_for_any_sizes(config: FitConfig) -> None:
    samples = made_samples(200, config)
    fitted = fit(samples, config, seed=3)
    made = made_bundle(fitted, windows(config))
    assert made.config.horizons == config.horizons
