"""The networks: shapes, order of quantiles, and one computation in three forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shared import bundle
from shared.bundle import DataSpan
from trainer import export
from trainer.dataset import Samples
from trainer.fit import Epoch, Fitted, fit, shape_of
from trainer.fit_config import QUARTER, TERMS, FitConfig
from trainer.network import Ensemble, Net, quantiles_of
from trainer.scaling import log_scales, relative

SMALL = FitConfig(sequence_length=4, hidden=3, max_epochs=3, batch=64)
DAY_MS = 86_400_000


def made_samples(count: int, config: FitConfig, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, config.sequence_length, len(config.features)))
    features[:, :, :4] = 0.3 * features[:, :, :4] - 4.0
    times = np.arange(count, dtype=np.int64) * DAY_MS
    scale = np.exp(features[:, -1, 3:4]) * np.sqrt(config.horizons)
    return Samples(
        features.astype(np.float32),
        rng.standard_t(5, size=(count, len(config.horizons))) * scale,
        np.exp(2 * features[:, -1, 3:4]) * rng.chisquare(4, (count, len(config.horizons))) / 4,
        times,
        times + max(config.horizons) * DAY_MS,
    )


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(made_samples(400, SMALL), SMALL, seed=1)


def test_quantiles_rise_and_their_median_is_the_location() -> None:
    generator = torch.Generator().manual_seed(0)
    gaps = 5 * torch.randn(200, 3, 6, generator=generator)
    location = torch.randn(200, 3, 1, generator=generator)
    quantiles = quantiles_of(gaps, torch.randn(200, 3, 1, generator=generator), location, 3)
    assert (torch.diff(quantiles, dim=-1) >= 0).all()
    assert torch.equal(quantiles[..., 3:4], location)


def test_an_untrained_net_gives_the_unconditional_quantiles() -> None:
    unit = torch.tensor([[-1.5, -0.5, 0.1, 0.6, 1.4]])
    net = Net(4, 5, 0.5, unit, torch.tensor([0.1]), 2).eval()
    with torch.no_grad():
        net.head.weight.zero_()
    quantiles, log_volatility = net(torch.zeros(2, 3, 4))
    torch.testing.assert_close(quantiles, unit.expand(2, 1, 5))
    assert log_volatility.shape == (2, 1)


def test_the_ensemble_is_the_trusted_mean_of_its_scaled_members() -> None:
    config = SMALL
    samples = made_samples(300, config)
    fitted = fit(samples, config, seed=2)
    features = torch.from_numpy(samples.features[:50])
    log_return, volatility = fitted.model(features)
    assert log_return.shape == (50, 3, 7)
    assert volatility.shape == (50, 3)
    assert (torch.diff(log_return, dim=-1) > 0).all()
    assert (volatility > 0).all()


def test_placing_a_net_keeps_what_it_computes() -> None:
    """An ensemble of a net with itself, at scale 1, is the net."""
    torch.manual_seed(5)
    unit = torch.tensor([[-2.0, -1, 0, 1, 2], [-4.0, -2, 0, 2, 4]])
    net = Net(3, 4, 0.5, unit, torch.tensor([0.2, -0.1]), 2).eval()
    config = FitConfig()
    shape = shape_of(config)
    model = Ensemble(type(shape)(3, 2, 4, 2, 5, 2)).eval()
    model.input_weight.copy_(torch.eye(3))
    for member in (0, 1):
        model.place(member, net)
        model.location[member] = net.location
    features = torch.randn(20, 6, 3)
    quantiles, log_volatility = net(features)
    log_return, volatility = model(features)
    torch.testing.assert_close(log_return, quantiles)
    torch.testing.assert_close(volatility, torch.exp(log_volatility))


def test_an_absolute_net_is_distrusted_far_from_the_level_it_knows(fitted: Fitted) -> None:
    far = made_samples(50, SMALL, seed=9).features
    far[:, :, :4] -= 3.0  # a market of a twentieth of the volatility
    with torch.no_grad():
        _, volatility = fitted.model(torch.from_numpy(far))
    assert float(volatility.max()) < 0.5 * float(np.exp(fitted.scalers.absolute))


def test_the_same_seed_gives_the_same_bytes(fitted: Fitted) -> None:
    again = fit(made_samples(400, SMALL), SMALL, seed=1)
    other = fit(made_samples(400, SMALL), SMALL, seed=2)
    graph = export.to_onnx(fitted.model, SMALL.sequence_length)
    assert export.to_onnx(again.model, SMALL.sequence_length) == graph
    assert export.to_onnx(other.model, SMALL.sequence_length) != graph


def test_history_and_pruning_hook() -> None:
    seen: list[Epoch] = []
    fitted = fit(made_samples(300, SMALL), SMALL, seed=0, on_epoch=seen.append)
    assert tuple(seen) == fitted.history
    assert {one.scaling for one in seen} == set(SMALL.scalings)
    assert all(np.isfinite([one.train_loss, one.pinball, one.volatility]).all() for one in seen)


def test_scalers_see_the_training_part_only() -> None:
    samples = made_samples(300, SMALL)
    fitted = fit(samples, SMALL, seed=0)
    late = samples.open_ms >= fitted.cut_ms
    samples.features[late] += 1.0
    samples.log_return[late] *= 5.0
    again = fit(samples, SMALL, seed=0)
    np.testing.assert_array_equal(fitted.scalers.inputs.mean_, again.scalers.inputs.mean_)
    np.testing.assert_array_equal(fitted.scalers.har.weight, again.scalers.har.weight)
    assert fitted.train_samples + fitted.validation_samples == 300 - max(SMALL.horizons)


def test_bundle_is_written_verified_and_rebuilt_from_weights(
    fitted: Fitted, tmp_path: Path
) -> None:
    features = made_samples(400, SMALL).features
    span = DataSpan(source="made", symbols=("A",), first_ms=0, last_ms=1, candles=2, sha256="0")
    config = export.write_bundle(tmp_path, fitted, features, "small", "1d", span, {"pinball": 1.0})
    loaded = bundle.load(tmp_path)
    assert loaded.config == config
    rebuilt = Ensemble(shape_of(SMALL)).eval()
    rebuilt.load_state_dict(torch.load(tmp_path / bundle.WEIGHTS_NAME, weights_only=True))
    assert export.largest_difference(rebuilt, loaded.onnx, features) <= export.TOLERANCE
    assert export.to_onnx(rebuilt, SMALL.sequence_length) == loaded.onnx


def test_a_graph_that_differs_is_not_written(fitted: Fitted, tmp_path: Path) -> None:
    span = DataSpan(source="made", symbols=("A",), first_ms=0, last_ms=1, candles=2, sha256="0")
    broken = np.full((1, 4, len(SMALL.features)), np.nan, np.float32)
    with pytest.raises(export.ExportError, match="nan apart"):
        export.write_bundle(tmp_path / "new", fitted, broken, "small", "1d", span, {})
    assert not (tmp_path / "new").exists()


def test_onnx_gives_a_window_the_same_bits_in_any_batch(fitted: Fitted) -> None:
    import onnxruntime as ort  # noqa: PLC0415

    graph = export.to_onnx(fitted.model, SMALL.sequence_length)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    features = made_samples(300, SMALL, seed=4).features
    whole = session.run(None, {"features": features})
    for start, stop in ((0, 1), (7, 8), (0, 2), (5, 9), (100, 117), (0, 256)):
        for part, expected in zip(
            session.run(None, {"features": features[start:stop]}), whole, strict=True
        ):
            np.testing.assert_array_equal(part, expected[start:stop])


@pytest.mark.parametrize(
    "config",
    [
        FitConfig(
            sequence_length=3, hidden=2, max_epochs=1, horizons=(2,), quantile_levels=(0.3, 0.5)
        ),
        FitConfig(
            sequence_length=3, hidden=2, max_epochs=1, quantile_levels=(0.5,), scalings=("level",)
        ),
        FitConfig(sequence_length=3, hidden=2, max_epochs=1, quantile_levels=(0.2, 0.4, 0.5, 0.9)),
    ],
    ids=["one-horizon", "median-only", "uneven-levels"],
)
def test_the_graph_computes_what_the_ensemble_does_for_any_sizes(config: FitConfig) -> None:
    samples = made_samples(200, config)
    model = fit(samples, config, seed=3).model
    graph = export.to_onnx(model, config.sequence_length)
    assert export.largest_difference(model, graph, samples.features) <= export.TOLERANCE


def test_level_scaling_is_free_of_the_unit_of_volatility() -> None:
    samples = made_samples(300, SMALL)
    scalers = fit(samples, SMALL, seed=0).scalers
    for scaling in ("har", "level"):
        for scale in log_scales(scaling, scalers, SMALL):
            terms = scale.weight[[SMALL.index(f"range-volatility-{k}") for k in (1, 5, 22, 120)]]
            np.testing.assert_allclose(terms.sum(axis=0), 1.0)
    assert relative(SMALL).sum() == len(SMALL.features) - len(TERMS) - len(QUARTER)


def test_config_names_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="return-range-ratio"):
        FitConfig(features=("range-volatility-1", "range-volatility-5", "range-volatility-22",
                            "range-volatility-120"))  # fmt: skip
    with pytest.raises(ValueError, match="rising"):
        FitConfig(horizons=(5, 1))
    with pytest.raises(ValueError, match=r"0\.5"):
        FitConfig(quantile_levels=(0.1, 0.9))
