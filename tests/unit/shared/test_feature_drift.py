"""Drift of features: known indices, the noise without drift, a shift that is found, bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared import bundle
from shared.bundle import BundleError
from shared.feature_drift import (
    LEAST,
    THRESHOLD,
    FeatureBins,
    FeatureDrift,
    IntervalReference,
    Reference,
    bins_of_values,
    is_sampled,
    noise,
)
from shared.forecaster import ModelSet, OnnxForecaster, references_of
from shared.forecasts import forecast_id
from shared.model_store import ModelStore
from tests import bundles

WINDOWS = 20_000
HALVES = FeatureBins(edges=(0.0,), shares=(0.5, 0.5))


def reference_of(values: NDArray[np.float64]) -> Reference:
    """Return the reference of daily windows whose features are ``values``, (m, F)."""
    names = [f"f{number}" for number in range(values.shape[1])]
    bins = {name: bins_of_values(row) for name, row in zip(names, values.T, strict=True)}
    return bundles.reference_of({"1d": bins})


def psi_of(reference: Reference, values: NDArray[np.float64]) -> dict[str, float]:
    """Return the indices after windows whose features are ``values``, (n, F)."""
    drift = FeatureDrift(lambda: {"model": reference})
    table = reference.of("1d")
    assert table is not None
    for row in values:
        bins = table.bins_of(row)
        assert bins is not None
        assert drift.note("1d", "model", bins)
    return drift.psi().get("1d", {})


def test_an_index_is_the_textbooks() -> None:
    """Half and half against 80 and 20 %: 0.3 ln 1.6 + 0.3 ln 2.5 = 0.3 ln 4."""
    table = IntervalReference({"close": HALVES}, WINDOWS)
    [index] = table.psi(np.array([[0.8e9, 0.2e9]]))
    assert index == pytest.approx(0.3 * np.log(4.0), abs=1e-6)
    [none] = table.psi(np.array([[500.0, 500.0]]))
    assert none == pytest.approx(0.0, abs=1e-12)


def test_without_drift_the_index_is_the_noise_of_the_sample() -> None:
    draws = np.random.default_rng(17)
    reference = reference_of(draws.normal(size=(WINDOWS, 60)))
    indices = list(psi_of(reference, draws.normal(size=(4_000, 60))).values())
    assert np.mean(indices) == pytest.approx(noise(10, 2_000, WINDOWS), rel=0.25)
    assert max(indices) < THRESHOLD / 10


def test_a_shift_of_one_feature_is_found_in_that_one() -> None:
    draws = np.random.default_rng(18)
    reference = reference_of(draws.normal(size=(WINDOWS, 3)))
    indices = psi_of(reference, draws.normal(size=(1_000, 3)) + np.array([0.0, 0.7, 0.0]))
    assert indices["f1"] > THRESHOLD
    assert max(indices["f0"], indices["f2"]) < THRESHOLD / 10


def test_a_value_that_many_windows_share_has_a_bin_of_its_own() -> None:
    """The last bits of a number change no index, another value does."""
    draws = np.random.default_rng(19)
    gaps = np.where(draws.random(WINDOWS) < 0.9, 0.405465, draws.normal(2, 0.1, WINDOWS))
    reference = reference_of(np.column_stack([gaps, np.full(WINDOWS, -7.0)]))
    served = np.where(draws.random(LEAST) < 0.9, 0.405465 + 1e-7, draws.normal(2, 0.1, LEAST))
    same = psi_of(reference, np.column_stack([served, np.full(LEAST, -7.0 - 1e-6)]))
    assert max(same.values()) < THRESHOLD / 10
    others = psi_of(reference, np.column_stack([served, np.full(LEAST, -6.9)]))
    assert others["f1"] > 5 * THRESHOLD
    assert others["f0"] < THRESHOLD / 10


def test_an_index_needs_windows_of_a_model_that_serves() -> None:
    reference = bundles.reference_of({"1h": {"close": HALVES}})
    served = {"new": reference}
    drift = FeatureDrift(lambda: served)
    assert not drift.note("1d", "new", "0"), "an interval that training did not see"
    assert not drift.note("1h", "old", "0"), "a model that does not serve"
    for bins in ("2", "00", "", "z"):
        assert not drift.note("1h", "new", bins), "bins that the reference has not"
    for _ in range(LEAST - 1):
        drift.note("60m", "new", "0")
    assert drift.psi() == {}
    assert drift.note("60m", "new", "0"), "another name of an interval of training"
    assert drift.psi()["60m"]["close"] > THRESHOLD
    served.clear()
    assert drift.psi() == {}


def test_one_forecast_in_16_is_sampled_of_each_series() -> None:
    for symbol in ("AAPL", "MSFT"):
        sampled = sum(
            is_sampled(forecast_id(symbol, "1m", 60_000 * minute, b"", "model"))
            for minute in range(1_600)
        )
        assert sampled == pytest.approx(100, abs=35)  # three and a half deviations


WRONG: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "another feature": ({"1d": {"open": HALVES}}, "expected the features close"),
    "no interval": ({}, "intervals"),
    "unknown interval": ({"7y": {"close": HALVES}}, "intervals"),
    "falling edges": ({"1d": {"close": {"edges": [1, 0], "shares": [0.5, 0.2, 0.3]}}}, "rising"),
    "infinite edges": ({"1d": {"close": {"edges": [1e999], "shares": [0.5, 0.5]}}}, "edges"),
    "too many edges": ({"1d": {"close": {"edges": [*range(99)], "shares": [0.01] * 100}}}, "18"),
    "shares of another number": ({"1d": {"close": {"edges": [1], "shares": [1.0]}}}, "expected 2"),
    "shares that are not 1": ({"1d": {"close": {"edges": [1], "shares": [1, 1]}}}, "1 in all"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_reference_is_refused(name: str, tmp_path: Path) -> None:
    intervals, words = WRONG[name]
    plain = {
        interval: {
            feature: bins.model_dump() if isinstance(bins, FeatureBins) else bins
            for feature, bins in features.items()
        }
        for interval, features in intervals.items()
    }
    about = {
        "source": "",
        "sha256": "",
        "tensor": "features",
        "windows": dict.fromkeys(plain, 1),
        "intervals": plain,
    }
    folder = bundles.write(tmp_path / "bundle")
    bundles.add_reference(folder, json.dumps(about).encode())
    with pytest.raises(BundleError, match=rf"reference\.json: .*{words}"):
        bundle.load(folder)


def test_a_wrong_tensor_or_file_is_refused(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path / "bundle")
    bare = OnnxForecaster(bundle.load(folder))
    right = bundles.reference_of({"1d": {"close": HALVES}})
    model = OnnxForecaster(bundle.load(bundles.add_reference(folder, right)))
    assert model.reference == right
    golden = bundles.right_golden(2, 3)
    windows = golden.candles, golden.open_ms
    assert np.array_equal(model.predict(*windows).log_return, bare.predict(*windows).log_return)
    features = model.predict(*windows).features
    assert features is not None
    assert features.tolist() == [[100.0], [100.0]]
    for tensor, words in (
        ("nowhere", "refuses the graph"),
        ("cube", "features: expected"),
        ("row", "refuses the graph"),  # of 64 bits
        ("float", "features: expected"),
    ):
        of_another = bundles.reference_of({"1d": {"close": HALVES}}, tensor)
        with pytest.raises(BundleError, match=words):
            OnnxForecaster(bundle.load(bundles.add_reference(folder, of_another)))
    bundles.add_reference(folder, right)
    (folder / bundle.REFERENCE_NAME).write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"reference\.json: expected SHA-256"):
        bundle.load(folder)
    config = json.loads((folder / bundle.CONFIG_NAME).read_text())
    config["extra_files"] = {"../../etc/passwd": "0" * 64}
    (folder / bundle.CONFIG_NAME).write_text(json.dumps(config))
    with pytest.raises(BundleError, match="expected the extra file"):
        bundle.load(folder)


def test_the_store_keeps_the_extra_files_and_the_version_stays(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path / "bundle")
    before = bundle.load(folder).config.model_version
    right = bundles.reference_of({"1d": {"close": HALVES}})
    bundles.add_reference(folder, right)
    store = ModelStore(str(tmp_path / "models"))
    loaded = store.load(store.put(bundle.contents_of(folder)))
    assert loaded.config.model_version == before
    assert loaded.reference == right


def test_the_built_in_bundle_knows_its_training() -> None:
    model = OnnxForecaster(bundle.load(bundle.default_path()))
    reference = references_of(ModelSet(model))["lstm-8f96718603a1"]
    assert reference.sha256 == model.config.data.sha256
    assert set(reference.intervals) == {part.interval for part in model.config.data.parts}
