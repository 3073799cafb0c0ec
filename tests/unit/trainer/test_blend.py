"""Mixes of own network, built-in model and HAR: what is chosen, kept and exported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared import bundle
from tests.unit.trainer.test_network import SMALL, made_samples
from trainer import blend
from trainer.blend import BUILT_IN, HAR, MIXES, OWN, choose, of_mix, pooled_har, unlike
from trainer.fit import Fitted, fit
from trainer.fit_config import FitConfig
from trainer.network import Blend, Model
from trainer.scaling import fit_scalers

SAMPLES = made_samples(600, SMALL)


@pytest.fixture(scope="module")
def own() -> Model:
    return a_network(fit(SAMPLES, SMALL, seed=1))


def a_network(fitted: Fitted) -> Model:
    assert isinstance(fitted.model, Model)
    return fitted.model


def spoilt(model: Model) -> Model:
    """Return a model whose spreads and volatilities are three times too wide."""
    worse = Model(model.features, model.steps, model.shape)
    worse.load_state_dict(model.state_dict())
    with torch.no_grad():
        worse.scale_bias += np.log(3.0)
    return worse.eval()


def test_what_is_better_on_validation_is_chosen(own: Model) -> None:
    scalers = fit_scalers(SAMPLES, SMALL)
    har = pooled_har(scalers, SAMPLES, SMALL)
    later = made_samples(500, SMALL, seed=2)
    good = choose({BUILT_IN: own, OWN: spoilt(own), HAR: har}, later, scalers, SMALL)
    assert max(good.mix, key=lambda name: good.mix[name]) == BUILT_IN
    assert OWN not in good.mix
    bad = choose({BUILT_IN: spoilt(own), OWN: own, HAR: har}, later, scalers, SMALL)
    assert BUILT_IN not in bad.mix
    assert len(bad.losses) == len(MIXES)


def test_the_built_in_model_stays_unless_another_is_better(own: Model) -> None:
    scalers = fit_scalers(SAMPLES, SMALL)
    same = choose(
        {BUILT_IN: own, OWN: own, HAR: spoilt(own)}, made_samples(200, SMALL), scalers, SMALL
    )
    assert same.keeps_built_in


def test_fit_keeps_the_built_in_model_or_mixes_it(own: Model) -> None:
    kept = fit(SAMPLES, replace(SMALL, learning_rate=1e-9), 1, None, own)
    assert kept.choice is not None
    mixed = fit(SAMPLES, SMALL, 1, None, spoilt(own))
    assert mixed.choice is not None
    assert not mixed.choice.keeps_built_in
    assert fit(SAMPLES, SMALL, 1).choice is None


def test_a_blend_is_the_average_of_its_members(own: Model) -> None:
    har = pooled_har(fit_scalers(SAMPLES, SMALL), SAMPLES, SMALL)
    features = torch.from_numpy(SAMPLES.features[:20])
    mixed = of_mix({OWN: 0.8, HAR: 0.2}, {OWN: own, HAR: har})
    assert isinstance(mixed, Blend)
    for got, ours, theirs in zip(
        mixed.distribution(features), own.distribution(features), har.distribution(features),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(got, 0.8 * ours + 0.2 * theirs)
    assert (torch.diff(mixed.distribution(features)[0], dim=-1) > 0).all()
    assert of_mix({OWN: 1.0}, {OWN: own}) is own


def test_har_has_the_quantiles_of_its_own_residuals() -> None:
    har = pooled_har(fit_scalers(SAMPLES, SMALL), SAMPLES, SMALL)
    quantiles, _ = har.distribution(torch.from_numpy(SAMPLES.features))
    below = (torch.from_numpy(SAMPLES.log_return)[..., None] <= quantiles).float().mean(0)
    expected = torch.tensor(SMALL.quantile_levels).expand(3, -1)
    torch.testing.assert_close(below, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FitConfig(), ""),
        (FitConfig(horizons=(1, 2)), "horizons"),
        (FitConfig(quantile_levels=(0.1, 0.5, 0.9)), "quantile levels"),
        (FitConfig(sequence_length=8), "sequence length"),
        (FitConfig(features=(*FitConfig().features, "log-return")), "features"),
        (FitConfig(hidden=6), ""),
    ],
)
def test_only_models_of_the_same_form_are_mixed(config: FitConfig, name: str) -> None:
    built_in = bundle.load(bundle.default_path()).config
    assert unlike(config, built_in) == name


def test_shares_are_one_in_all_and_told_in_words() -> None:
    for mix in MIXES:
        assert sum(mix.values()) == pytest.approx(1.0)
    assert blend.in_words(MIXES[1]) == "0.5 own, 0.5 built-in"
