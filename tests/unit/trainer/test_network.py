"""The networks: shapes, order of quantiles, and one computation in PyTorch and in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.bundle import DataSpan
from trainer import dataset
from trainer.dataset import Samples
from trainer.fit import Epoch, Fitted, fit, fit_parts
from trainer.fit_config import DRIFT, HAR, LEVEL, TERMS, FitConfig
from trainer.network import LASTING, Blend, Network, Shape, drift_of, volatility_loss
from trainer.scaling import fit_scalers, floored, log_scales, relative

Windows = Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]

SPAN = DataSpan(source="made", symbols=("A",), first_ms=0, last_ms=1, candles=2, sha256="0")
SMALL = FitConfig(sequence_length=4, hidden=3, max_epochs=3, epoch_steps=6, batch=64, har_share=0.0)
DAY_MS = 86_400_000


def made_samples(count: int, config: FitConfig, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, config.sequence_length, len(config.features)))
    features[:, :, :4] = 0.3 * features[:, :, :4] - 4.0
    times = np.arange(count, dtype=np.int64) * DAY_MS
    scale = np.exp(features[:, -1, 3:4]) * np.sqrt(config.horizons)
    return Samples(
        features.astype(np.float32),
        np.arange(count),
        rng.standard_t(5, size=(count, len(config.horizons))) * scale,
        np.exp(2 * features[:, -1, 3:4]) * rng.chisquare(4, (count, len(config.horizons))) / 4,
        times,
        times + max(config.horizons) * DAY_MS,
        np.ones(count),
    )


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(made_samples(400, SMALL), SMALL, seed=1)


def test_an_untrained_network_gives_the_unconditional_quantiles() -> None:
    unit = torch.tensor([[-1.5, -0.5, 0.1, 0.6, 1.4]])
    network = Network(Shape(4, 5, 1, 5, 2)).eval()
    network.start_from(unit, torch.tensor([0.1]), torch.tensor([0.3]))
    with torch.no_grad():
        network.head.weight.zero_()
    quantiles, log_volatility = network(torch.zeros(3, 2, 4))
    torch.testing.assert_close(quantiles, unit.expand(2, 1, 5))
    assert log_volatility.shape == (2, 1)


def test_quantiles_rise_and_their_median_is_the_location() -> None:
    torch.manual_seed(0)
    network = Network(Shape(4, 6, 3, 7, 3)).eval()
    with torch.no_grad():
        network.head.weight.mul_(30)
        network.location.copy_(torch.randn(3))
    quantiles, _ = network(5 * torch.randn(3, 200, 4))
    assert (torch.diff(quantiles, dim=-1) > 0).all()
    torch.testing.assert_close(quantiles[..., 3], network.location.expand(200, 3))


def test_medians_follow_a_share_of_the_newest_drift() -> None:
    torch.manual_seed(0)
    unit = torch.tensor([[-1.0, 0.1, 1.0]]).repeat(2, 1)
    location, drift_move = torch.tensor([0.1, 0.2]), torch.tensor([0.05, 0.3])
    network = Network(Shape(4, 6, 2, 3, 1, drift=2)).eval()
    network.start_from(unit, location, drift_move)
    inputs = torch.randn(3, 50, 4)
    drift = inputs[-1, :, 2, None]
    torch.testing.assert_close(network(inputs)[0][..., 1], location + LASTING * drift * drift_move)

    with torch.no_grad():
        network.lasting.weight.normal_(0.0, 5.0)
    medians = network(inputs)[0][..., 1]
    shares = (medians - location) / (drift * drift_move)
    assert (shares > -1e-4).all()
    assert (shares < 1.0 + 1e-4).all(), "no more than all of it"
    assert shares.std() > 0.1, "how much of it lasts follows the state"
    assert (torch.diff(network(inputs)[0], dim=-1) > 0).all()


def test_a_network_has_a_share_of_the_drift_only_where_it_reads_the_drift() -> None:
    assert drift_of(SMALL.features) == SMALL.features.index(DRIFT)
    without = tuple(name for name in SMALL.features if name != DRIFT)
    assert drift_of(without) is None
    names = Network(Shape(4, 5, 1, 5, 2)).state_dict()
    assert not {"drift_move", "lasting.weight", "lasting.bias"} & names.keys()


def test_the_model_gives_rising_quantiles_and_positive_volatilities(fitted: Fitted) -> None:
    log_return, volatility = fitted.model.distribution(
        torch.from_numpy(made_samples(50, SMALL).features)
    )
    assert log_return.shape == (50, 3, 11)
    assert volatility.shape == (50, 3)
    assert (torch.diff(log_return, dim=-1) > 0).all()
    assert (volatility > 0).all()


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
    assert [one.epoch for one in seen] == list(range(len(seen)))
    assert 1 <= fitted.epochs <= len(seen)
    assert all(np.isfinite([one.train_loss, one.pinball, one.volatility]).all() for one in seen)


def test_the_search_for_epochs_scales_by_the_training_part_only() -> None:
    samples = made_samples(300, SMALL)
    cut = dataset.cut_at(samples, 1 - SMALL.validation_share)
    train, validation = dataset.split(samples, cut)
    first = fit_parts(train, validation, lambda: train, SMALL)
    validation.features[validation.rows] += 1.0
    again = fit_parts(train, validation, lambda: train, SMALL)
    np.testing.assert_array_equal(first.scalers.inputs.mean_, again.scalers.inputs.mean_)
    np.testing.assert_array_equal(first.scalers.har.weight, again.scalers.har.weight)
    assert first.history[0].train_loss == again.history[0].train_loss
    assert first.history[0].pinball != again.history[0].pinball
    assert len(train) + len(validation) == 300 - max(SMALL.horizons)


def test_scales_are_free_of_the_unit_of_volatility() -> None:
    samples = made_samples(300, SMALL)
    for scale in log_scales(fit_scalers(samples, SMALL), SMALL):
        terms = scale.weight[[SMALL.index(name) for name in (*HAR, LEVEL)]]
        np.testing.assert_allclose(terms.sum(axis=0), 1.0)
    assert relative(SMALL).sum() == len(SMALL.features) - len(HAR)


def test_a_market_that_stands_still_has_a_variance_to_learn() -> None:
    samples = made_samples(50, SMALL)
    samples.variance[:] = 0.0
    month = np.exp(2 * samples.features[:, -1, SMALL.index(TERMS[-1])].astype(np.float64))
    np.testing.assert_allclose(floored(samples, SMALL), 0.01 * month[:, None] * np.ones(3))


def test_windows_are_drawn_by_weight() -> None:
    samples = made_samples(400, SMALL)
    half = np.arange(400) < 200
    samples.log_return[half] *= 3.0
    calmer = replace(samples, weight=np.where(half, 1e-6, 1.0))
    equal = fit_parts(samples, samples, lambda: samples, SMALL)
    calm = fit_parts(calmer, calmer, lambda: calmer, SMALL)
    features = torch.from_numpy(samples.features)
    with torch.no_grad():
        wide, narrow = (fitted.model.distribution(features)[0] for fitted in (equal, calm))
    assert float((narrow[..., -1] - narrow[..., 0]).mean()) < float(
        (wide[..., -1] - wide[..., 0]).mean()
    )


def test_config_names_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="return-range-ratio"):
        FitConfig(features=("range-volatility-1", "range-volatility-5", "range-volatility-22",
                            "range-volatility-120"))  # fmt: skip
    with pytest.raises(ValueError, match="rising"):
        FitConfig(horizons=(5, 1))
    with pytest.raises(ValueError, match=r"0\.5"):
        FitConfig(quantile_levels=(0.1, 0.9))


def test_the_loss_of_the_volatility_is_least_where_it_is_right_and_bounded_above() -> None:
    apart = torch.linspace(-4.0, 4.0, 801)
    loss = volatility_loss(apart, 0.5)
    assert float(loss.min()) == pytest.approx(0.0, abs=1e-9)
    assert (torch.diff(loss)[:399] < 0).all()
    assert (torch.diff(loss)[401:] >= 0).all(), "nothing is gained by being further off"
    near = loss[410] / apart[410] ** 2
    assert float(near) == pytest.approx(1.0, abs=0.05), "as the square near 0"
    assert float(volatility_loss(torch.tensor(50.0), 0.5)) < 12.0, "no shock rules a batch"


def test_what_is_left_open_follows_the_number_of_windows() -> None:
    few, some, many = (FitConfig().adapted(windows) for windows in (100, 37_000, 2_000_000))
    assert (few.dropout, few.learning_rate, few.qlike_share, few.har_share) == (0.5, 2e-3, 0.0, 0.3)
    assert (many.learning_rate, many.har_share) == (8e-3, 0.0)
    assert (many.dropout, many.qlike_share) == pytest.approx((0.2, 0.5))
    assert 2e-3 < (some.learning_rate or 0.0) < 8e-3
    assert 0.1 < (some.har_share or 0.0) < 0.3
    assert [config.follows_drift for config in (few, some, many)] == [False, False, True]
    given = FitConfig(
        dropout=0.1, learning_rate=0.01, qlike_share=1.0, har_share=0.0, follows_drift=True
    )
    assert given.adapted(100) == given


def test_a_model_of_few_windows_does_not_follow_the_series_own_drift(fitted: Fitted) -> None:
    following = fit(made_samples(400, SMALL), replace(SMALL, follows_drift=True), seed=1)
    features = made_samples(50, SMALL, seed=3).features
    other = features.copy()
    other[:, :, SMALL.index(DRIFT)] += 3.0
    with torch.no_grad():
        for model, same in ((fitted.model, True), (following.model, False)):
            before, after = (model.distribution(torch.from_numpy(x))[0] for x in (features, other))
            assert torch.equal(before, after) is same


def test_few_windows_get_a_share_of_har_beside_the_network() -> None:
    mixed = fit(made_samples(400, SMALL), replace(SMALL, har_share=None), seed=1)
    alone = fit(made_samples(400, SMALL), SMALL, seed=1)
    features = torch.from_numpy(made_samples(50, SMALL, seed=3).features)
    assert isinstance(mixed.model, Blend)
    with torch.no_grad():
        together, own = (fitted.model.distribution(features)[0] for fitted in (mixed, alone))
        har = mixed.model.members[1].distribution(features)[0]  # type: ignore[operator]
    torch.testing.assert_close(together, 0.7 * own + 0.3 * har)
