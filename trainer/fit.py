"""Samples to a fitted model: steps over windows drawn by class, early stopping, seeded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.blend import BUILT_IN, HAR, OWN, Choice, alone, choose, of_mix, pooled_har, widened
from trainer.context import FORGOTTEN
from trainer.dataset import CHUNK, Samples, cut_at, split
from trainer.fit_config import LONG_LEVEL, RATES, FitConfig
from trainer.network import CLIP, Blend, Model, Network, PooledHar, shape_of, volatility_loss
from trainer.scaling import MAX_RATIO, Array, Scalers, fit_scalers, floored, log_scales, relative
from trainer.worth import Worth, of_model


@dataclass(frozen=True)
class Epoch:
    """Some steps of training, and the losses after them."""

    epoch: int  # from 0
    train_loss: float
    pinball: float  # on validation, of scaled targets
    volatility: float  # loss of the volatility, on validation


@dataclass(frozen=True)
class Fitted:
    """A trained model with what explains it."""

    config: FitConfig
    seed: int
    model: Model | Blend  # in evaluation mode
    scalers: Scalers
    history: tuple[Epoch, ...]
    epochs: int  # of the model itself
    train_samples: int
    validation_samples: int
    choice: Choice | None = None  # where a built-in model could be mixed in
    worth: tuple[Worth, ...] = ()  # of the context, on validation, by horizon


def fit(
    samples: Samples,
    config: FitConfig,
    seed: int = 0,
    on_epoch: Callable[[Epoch], object] | None = None,
    built_in: Model | None = None,
) -> Fitted:
    """Train a network, and return it with its scaling as one model.

    The newest ``validation_share`` of the times decides when to stop, with an embargo as long as
    the longest horizon before it; then the network and its scalers are trained again for as many
    epochs on all samples, so that the newest are not wasted.

    Args:
        samples: by ``dataset.samples_of`` with the config's features, length and horizons.
        config: how.
        seed: of everything random; the same one gives the same weights on the same machine.
        on_epoch: told of every epoch; it may raise to stop (pruning).
        built_in: a model of the same features, horizons and levels, of which validation may mix
            in a share, or which it may keep as it is; see ``trainer.blend``.

    Raises:
        ValueError: when there are too few samples for two parts.
    """
    train, validation = split(samples, cut_at(samples, 1.0 - config.validation_share))
    least = 2 * len(config.quantile_levels)
    if min(len(train), len(validation)) < least:
        around = config.window_length - 1 + config.horizons[-1]
        raise ValueError(
            f"candles: expected at least {candles_needed(config)} before the end of training, got "
            f"{len(np.unique(samples.open_ms)) + around}: a window has {config.window_length}, the "
            f"longest horizon {config.horizons[-1]}, and {least} windows each are needed to train "
            f"and to validate, which got {len(train)} and {len(validation)}"
        )
    return fit_parts(train, validation, lambda: samples, config, seed, on_epoch, built_in)


def fit_parts(
    train: Samples,
    validation: Samples,
    final: Callable[[], Samples],
    config: FitConfig,
    seed: int = 0,
    on_epoch: Callable[[Epoch], object] | None = None,
    built_in: Model | None = None,
) -> Fitted:
    """Train a network as ``fit`` does, on parts that are given.

    Args:
        train: to look for the number of epochs.
        validation: which chooses it.
        final: gives what the network is then trained on; called when the search is over.
        config: how.
        seed: as in ``fit``.
        on_epoch: as in ``fit``.
        built_in: as in ``fit``.

    Raises:
        ValueError: when there are too few samples.
    """
    if min(len(train), len(validation)) < 2 * len(config.quantile_levels):
        raise ValueError(
            f"samples: expected more, got {len(train)} for training and "
            f"{len(validation)} for validation"
        )
    config = config.adapted(len(train))
    history: list[Epoch] = []

    def record(epoch: Epoch) -> None:
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)

    scalers = fit_scalers(train, config)
    with _repeatable():
        best, found = _Trainer(config, scalers, seed).search(train, validation, record)
    epochs, sizes = best + 1, (len(train), len(validation))
    wide = {} if built_in is None else {BUILT_IN: widened(built_in, config)}

    def models(
        network: Network, scalers: Scalers, samples: Samples
    ) -> dict[str, Model | PooledHar]:
        own, har = assemble(network, scalers, config), pooled_har(scalers, samples, config)
        return {**wide, OWN: own, HAR: har}

    choice, mix = None, alone(config)
    found_models = models(found, scalers, train)
    if built_in is not None:
        choice = choose(found_models, validation, scalers, config)
        if choice.keeps_built_in:
            return Fitted(config, seed, built_in, scalers, tuple(history), epochs, *sizes, choice)
        mix = choice.mix
    worth = of_model(of_mix(mix, found_models), validation, config)
    del train, validation
    samples = final()
    scalers = fit_scalers(samples, config)
    with _repeatable():
        network = _Trainer(config, scalers, seed).train(samples, epochs)
    model = of_mix(mix, models(network, scalers, samples))
    return Fitted(config, seed, model, scalers, tuple(history), epochs, *sizes, choice, worth)


def candles_needed(config: FitConfig) -> int:
    """Return the fewest candles of one symbol that ``fit`` takes."""
    least = 2 * len(config.quantile_levels)
    longest = config.horizons[-1]
    windows = 1
    while True:
        cut = min(int(windows * (1.0 - config.validation_share)), windows - 1)
        if min(cut - longest, windows - cut) >= least:
            return windows + config.window_length - 1 + longest
        windows += 1


def assemble(network: Network, scalers: Scalers, config: FitConfig) -> Model:
    """Return a trained network as a model, its scaling folded into it."""
    model = Model(config.features, config.sequence_length, shape_of(config), config.context)
    mean, deviation = scalers.inputs.mean_, scalers.inputs.scale_
    _set(model, "input_weight", relative(config) / deviation)
    _set(model, "input_bias", -mean / deviation)
    spread, volatility = log_scales(scalers, config)
    _set(model, "scale_weight", np.hstack([spread.weight, volatility.weight]))
    _set(model, "scale_bias", np.concatenate([spread.bias, volatility.bias]))
    model.network.load_state_dict(network.state_dict())
    return model.eval()


def _set(model: Model, name: str, values: Array) -> None:
    model.get_buffer(name).copy_(torch.from_numpy(values))


@contextmanager
def _repeatable() -> Iterator[None]:
    """One thread, for which such nets are large enough and sums keep their order; own seeds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Batch:
    inputs: Tensor  # (N, L, F), standardised
    returns: Tensor  # as in ``_Tensors``, like the others
    log_ratio: Tensor
    weight: Tensor


@dataclass(frozen=True)
class _Tensors:
    """What training needs of some samples; their features are standardised when they are taken."""

    features: Tensor  # (M, L, F), raw, shared with other parts
    rows: Tensor  # (N,), which of them
    scale: Tensor  # (F, F), of the features
    shift: Tensor  # (F,), taken off after it
    returns: Tensor  # (N, H), in units of the spread
    log_ratio: Tensor  # (N, H), realised volatility in units of the scale
    weight: Tensor  # (N,), how often a window is drawn
    edges: Tensor  # (N,), float64: the running sum of the weights
    context: int  # column that the features of the context begin at; F where there are none

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, at: Tensor, forgotten: float = 0.0) -> _Batch:
        """Return the windows at some places.

        Args:
            at: places, (N,).
            forgotten: share of the windows whose context is taken off, at random.
        """
        features = self.features[self.rows[at]]
        if forgotten and self.context < features.shape[2]:
            features[:, :, self.context :] *= (torch.rand(len(at), 1, 1) >= forgotten).float()
        inputs = (features @ self.scale).sub_(self.shift).clamp_(-CLIP, CLIP)
        return _Batch(inputs, self.returns[at], self.log_ratio[at], self.weight[at])

    def draw(self, count: int) -> Tensor:
        """Return the places of windows drawn by weight."""
        at = torch.rand(count, dtype=torch.float64) * self.edges[-1]
        return torch.searchsorted(self.edges, at).clamp_max(len(self) - 1)

    def chunks(self) -> Iterator[_Batch]:
        """Yield all windows in order, some at a time."""
        for rows in torch.split(torch.arange(len(self)), CHUNK):
            yield self.take(rows)


class _Trainer:
    """Trains the network."""

    def __init__(self, config: FitConfig, scalers: Scalers, seed: int) -> None:
        self.config = config
        self.scalers = scalers
        self.seed = seed
        self.levels = torch.tensor(config.quantile_levels)
        self.spread, self.volatility = log_scales(scalers, config)

    def search(
        self, train: Samples, held_out: Samples, record: Callable[[Epoch], None]
    ) -> tuple[int, Network]:
        """Return the epoch whose averaged weights do best on the samples held out, and the net."""
        data, validation = self._tensors(train), self._tensors(held_out)
        best, best_epoch, found = float("inf"), 0, {}
        for epoch, train_loss, net in self._epochs(data):
            pinball, volatility = self._validate(net, validation)
            record(Epoch(epoch, train_loss, pinball, volatility))
            loss = pinball + self.config.stop_weight * volatility
            if loss < best:
                best, best_epoch, found = loss, epoch, copy.deepcopy(net.state_dict())
            elif epoch - best_epoch >= self.config.patience:
                break
        network = Network(shape_of(self.config))
        network.load_state_dict(found)
        network.eval().raise_volatility(_log_bias(network, data))
        return best_epoch, network

    @torch.no_grad()
    def _validate(self, net: Network, data: _Tensors) -> tuple[float, float]:
        """Return the mean losses over windows, each by its weight."""
        totals = np.zeros(2)
        for some in data.chunks():
            totals += [float((loss * some.weight).sum()) for loss in self._losses(net, some)]
        pinball, volatility = totals / float(data.weight.sum())
        return pinball, volatility

    def train(self, samples: Samples, epochs: int) -> Network:
        """Return the averaged net after so many epochs, its variance right in the mean."""
        data = self._tensors(samples)
        for epoch, _, net in self._epochs(data):
            if epoch + 1 == epochs:
                net.raise_volatility(_log_bias(net, data))
                return net
        raise ValueError(f"epochs: expected 1 to {self.config.max_epochs}, got {epochs}")

    def _tensors(self, samples: Samples) -> _Tensors:
        newest = samples.newest()  # (N, F)
        mean, deviation = self.scalers.inputs.mean_, self.scalers.inputs.scale_
        log_variance = np.log(floored(samples, self.config))
        return _Tensors(
            torch.from_numpy(samples.features),
            torch.from_numpy(samples.rows),
            _tensor(relative(self.config) / deviation),
            _tensor(mean / deviation),
            _tensor(samples.log_return / np.exp(self.spread(newest))),
            _tensor(0.5 * log_variance - self.volatility(newest)),
            _tensor(samples.weight),
            torch.from_numpy(np.cumsum(samples.weight)),
            len(self.config.features),
        )

    def _epochs(self, data: _Tensors) -> Iterator[tuple[int, float, Network]]:
        """Yield each epoch with its mean training loss and the averaged net."""
        torch.manual_seed(self.seed)
        config = self.config
        net = self._net(data)
        average = copy.deepcopy(net).eval()
        optimizer = _optimizer(net, config)
        batch, steps = min(config.batch, len(data)), config.steps_of(len(data))
        step = 0
        for epoch in range(config.max_epochs):
            total = 0.0
            net.train()
            for _ in range(steps):
                pinball, volatility = self._losses(net, data.take(data.draw(batch), FORGOTTEN))
                loss = (pinball + config.volatility_weight * volatility).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                step += 1
                _blend(average, net, 1.0 - min(config.average, step / (step + 10)))
                total += float(loss.detach())
            yield epoch, total / steps, average

    def _net(self, data: _Tensors) -> Network:
        config = self.config
        some = data.returns[data.draw(min(len(data), 100_000))]
        unit = torch.quantile(some, self.levels, dim=0).T  # (H, Q)
        network = Network(shape_of(config), config.dropout or 0.0)
        drift_move = torch.sqrt(torch.tensor(config.horizons) / LONG_LEVEL)
        network.start_from(unit, config.drift_share * unit[:, config.median], drift_move)
        return network

    def _losses(self, net: Network, data: _Batch) -> tuple[Tensor, Tensor]:
        """Return the pinball loss of each window, and the loss of its volatility, (N,)."""
        quantiles, log_volatility = net(data.inputs.transpose(0, 1))
        error = data.returns[..., None] - quantiles  # (N, H, Q)
        pinball = torch.maximum(self.levels * error, (self.levels - 1.0) * error).mean((1, 2))
        apart = data.log_ratio - log_volatility
        return pinball, volatility_loss(apart, self.config.qlike_share or 0.0).mean(1)


@torch.no_grad()
def _log_bias(net: Network, data: _Tensors) -> Tensor:
    """Return by how much log volatility is too low, (H,): a mean logarithm is no log of a mean."""
    total = torch.zeros(data.log_ratio.shape[1])
    for some in data.chunks():
        _, log_volatility = net(some.inputs.transpose(0, 1))
        ratio = torch.exp(2.0 * (some.log_ratio - log_volatility)).clamp_max(MAX_RATIO)
        total += (ratio * some.weight[:, None]).sum(0)
    return 0.5 * torch.log(total / data.weight.sum())


def _optimizer(net: Network, config: FitConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019); biases are not decayed."""
    weights = [one for name, one in net.named_parameters() if "weight" in name]
    others = [one for name, one in net.named_parameters() if "weight" not in name]
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate or RATES[0],
        fused=True,
    )


def _blend(average: Network, net: Network, share: float) -> None:
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), net.parameters(), strict=True):
            ours.lerp_(theirs, share)


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
