"""The networks: shapes, order of quantiles, and one computation in PyTorch and in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.bundle import DataSpan
from trainer.dataset import Samples
from trainer.fit import Epoch, Fitted, fit
from trainer.fit_config import QUARTER, TERMS, FitConfig
from trainer.network import Network, Shape
from trainer.scaling import log_scales, relative

Windows = Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]

SPAN = DataSpan(source="made", symbols=("A",), first_ms=0, last_ms=1, candles=2, sha256="0")
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


def test_an_untrained_network_gives_the_unconditional_quantiles() -> None:
    unit = torch.tensor([[-1.5, -0.5, 0.1, 0.6, 1.4]])
    network = Network(Shape(4, 1, 5, 1, 5, 2)).eval()
    network.start_from(unit, torch.tensor([0.1]))
    with torch.no_grad():
        network.head.weight.zero_()
    quantiles, log_volatility = network(torch.zeros(3, 2, 4))
    torch.testing.assert_close(quantiles, unit.expand(2, 1, 1, 5))
    assert log_volatility.shape == (2, 1, 1)


def test_quantiles_rise_and_their_median_is_the_location() -> None:
    torch.manual_seed(0)
    network = Network(Shape(4, 2, 6, 3, 7, 3)).eval()
    with torch.no_grad():
        network.head.weight.mul_(30)
        network.location.copy_(torch.randn(2, 3))
    quantiles, _ = network(5 * torch.randn(3, 200, 4))
    assert (torch.diff(quantiles, dim=-1) > 0).all()
    torch.testing.assert_close(quantiles[..., 3], network.location.expand(200, 2, 3))


def test_the_model_is_the_trusted_mean_of_its_scaled_members(fitted: Fitted) -> None:
    log_return, volatility = fitted.model.distribution(
        torch.from_numpy(made_samples(50, SMALL).features)
    )
    assert log_return.shape == (50, 3, 7)
    assert volatility.shape == (50, 3)
    assert (torch.diff(log_return, dim=-1) > 0).all()
    assert (volatility > 0).all()


def test_members_in_one_network_compute_what_each_does_alone() -> None:
    torch.manual_seed(5)
    alone = [Network(Shape(3, 1, 4, 2, 5, 2)).eval() for _ in range(3)]
    for network in alone:
        network.location.copy_(torch.randn(1, 2))
    joined = Network(Shape(3, 3, 4, 2, 5, 2)).eval()
    for member, network in enumerate(alone):
        joined.place(member, network)
    inputs = torch.randn(6, 20, 3)
    quantiles, log_volatility = joined(inputs)
    for member, network in enumerate(alone):
        expected = network(inputs)
        torch.testing.assert_close(quantiles[:, member], expected[0][:, 0])
        torch.testing.assert_close(log_volatility[:, member], expected[1][:, 0])


def test_an_absolute_network_is_distrusted_far_from_the_level_it_knows(fitted: Fitted) -> None:
    far = made_samples(50, SMALL, seed=9).features
    far[:, :, :4] -= 3.0  # a market of a twentieth of the volatility
    with torch.no_grad():
        _, volatility = fitted.model.distribution(torch.from_numpy(far))
    assert float(volatility.max()) < 0.5 * float(np.exp(fitted.scalers.absolute))


def test_the_same_seed_gives_the_same_weights(fitted: Fitted) -> None:
    again = fit(made_samples(400, SMALL), SMALL, seed=1).model.state_dict()
    other = fit(made_samples(400, SMALL), SMALL, seed=2).model.state_dict()
    ours = fitted.model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())
    assert not all(torch.equal(other[name], tensor) for name, tensor in ours.items())


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
