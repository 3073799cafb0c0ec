"""Samples to a fitted ensemble: early stopping on validation, seeded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.dataset import Samples, cut_at, split
from trainer.fit_config import LEVEL, FitConfig, Scaling
from trainer.network import CLIP, Model, Network, Shape
from trainer.scaling import Array, Scalers, fit_scalers, log_scales, relative

MAX_LOG_RATIO: Final = 3.0
MIN_LOG_RATIO: Final = -2.0
"""Realised over forecast volatility beyond these teaches nothing but instability."""

MIN_RATIO: Final = 1e-4
"""Keeps the logarithm of a candle without a range finite."""

MAX_RATIO: Final = 30.0
"""Realised over forecast variance counts as no more when the mean is made right."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of one net."""

    net: int
    scaling: Scaling
    epoch: int  # from 0
    train_loss: float
    pinball: float  # on validation, of scaled targets
    volatility: float  # squared error of its logarithm, on validation


@dataclass(frozen=True)
class Fitted:
    """A trained model with what explains it."""

    config: FitConfig
    seed: int
    model: Model  # in evaluation mode
    scalers: Scalers
    history: tuple[Epoch, ...]
    best_epochs: tuple[int, ...]  # of each net, from 0
    train_samples: int
    validation_samples: int
    cut_ms: int  # opening time of the first validation window's last candle


def fit(
    samples: Samples,
    config: FitConfig,
    seed: int = 0,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Fitted:
    """Train one net for each scaling and return their ensemble.

    The newest ``validation_share`` of the times decides when to stop, with an embargo as long as
    the longest horizon before it; then each net is trained again for as many epochs on all
    samples, so that the newest are not wasted. Scalers are fitted on the training part only.

    Args:
        samples: by ``dataset.samples_of`` with the config's features, length and horizons.
        config: how.
        seed: of everything random; the same one gives the same weights on the same machine.
        on_epoch: told of every epoch; it may raise to stop (pruning).

    Raises:
        ValueError: when there are too few samples for two parts.
    """
    cut_ms = cut_at(samples, 1.0 - config.validation_share)
    train, validation = split(samples, cut_ms)
    least = 2 * len(config.quantile_levels)
    if min(len(train), len(validation)) < least:
        around = config.window_length - 1 + config.horizons[-1]
        raise ValueError(
            f"candles: expected at least {candles_needed(config)} before the end of training, got "
            f"{len(np.unique(samples.open_ms)) + around}: a window has {config.window_length}, the "
            f"longest horizon {config.horizons[-1]}, and {least} windows each are needed to train "
            f"and to validate, which got {len(train)} and {len(validation)}"
        )
    scalers = fit_scalers(train, config)
    history: list[Epoch] = []

    def record(epoch: Epoch) -> None:
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)

    nets, best_epochs = [], []
    with _repeatable():
        for number in range(len(config.scalings)):
            trainer = _Trainer(config, scalers, number, seed)
            best = trainer.search(train, validation, record)
            nets.append(trainer.train(samples, best + 1))
            best_epochs.append(best)
    return Fitted(
        config=config,
        seed=seed,
        model=assemble(nets, scalers, config),
        scalers=scalers,
        history=tuple(history),
        best_epochs=tuple(best_epochs),
        train_samples=len(train),
        validation_samples=len(validation),
        cut_ms=cut_ms,
    )


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


def assemble(networks: Sequence[Network], scalers: Scalers, config: FitConfig) -> Model:
    """Return the trained networks as one model, their scalings folded into it."""
    model = Model(config.features, config.sequence_length, shape_of(config, len(networks)))
    mean, deviation = scalers.inputs.mean_, scalers.inputs.scale_
    _set(model, "input_weight", relative(config) / deviation)
    _set(model, "input_bias", -mean / deviation)
    scales = [log_scales(scaling, scalers, config) for scaling in config.scalings]
    strangeness = np.zeros((len(config.features), 1))
    strangeness[config.index(LEVEL)] = 1.0 / scalers.level[1]
    maps = [spread for spread, _ in scales] + [volatility for _, volatility in scales]
    _set(model, "scale_weight", np.hstack([*[one.weight for one in maps], strangeness]))
    offset = [-scalers.level[0] / scalers.level[1]]
    _set(model, "scale_bias", np.concatenate([*[one.bias for one in maps], offset]))
    away = -0.5 / config.reach**2
    distrust = [away if scaling == "absolute" else 0.0 for scaling in config.scalings]
    _set(model, "distrust", np.array(distrust))
    for number, network in enumerate(networks):
        model.network.place(number, network)
    return model.eval()


def shape_of(config: FitConfig, members: int) -> Shape:
    """Return the sizes of a network of so many members."""
    return Shape(
        features=len(config.features),
        members=members,
        hidden=config.hidden,
        horizons=len(config.horizons),
        levels=len(config.quantile_levels),
        median=config.median,
    )


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
class _Tensors:
    inputs: Tensor  # (N, L, F), standardised
    returns: Tensor  # (N, H), in units of the spread
    variance: Tensor  # (N, H), in units of the squared volatility
    weight: Tensor  # (N, H), of the pinball loss

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Tensor) -> _Tensors:
        return _Tensors(
            self.inputs[rows], self.returns[rows], self.variance[rows], self.weight[rows]
        )


class _Trainer:
    """Trains the net of one scaling."""

    def __init__(self, config: FitConfig, scalers: Scalers, number: int, seed: int) -> None:
        self.config = config
        self.scalers = scalers
        self.number = number
        self.seed = 1000 * seed + number
        self.levels = torch.tensor(config.quantile_levels)
        self.scaling: Scaling = config.scalings[number]
        self.spread, self.volatility = log_scales(self.scaling, scalers, config)

    def search(self, train: Samples, held_out: Samples, record: Callable[[Epoch], None]) -> int:
        """Return the epoch whose averaged weights do best on the samples held out."""
        data, validation = self._tensors(train), self._tensors(held_out)
        best, best_epoch = float("inf"), 0
        for epoch, train_loss, net in self._epochs(data):
            with torch.no_grad():
                pinball, volatility = (float(one) for one in self._losses(net, validation))
            record(Epoch(self.number, self.scaling, epoch, train_loss, pinball, volatility))
            loss = pinball + self.config.stop_weight * volatility
            if loss < best:
                best, best_epoch = loss, epoch
            elif epoch - best_epoch >= self.config.patience:
                break
        return best_epoch

    def train(self, samples: Samples, epochs: int) -> Network:
        """Return the averaged net after so many epochs, its variance right in the mean."""
        data = self._tensors(samples)
        for epoch, _, net in self._epochs(data):
            if epoch + 1 == epochs:
                net.raise_volatility(_log_bias(net, data))
                return net
        raise ValueError(f"epochs: expected 1 to {self.config.max_epochs}, got {epochs}")

    def _tensors(self, samples: Samples) -> _Tensors:
        shape = samples.features.shape
        newest = samples.features[:, -1].astype(np.float64)  # (N, F)
        flat = samples.features.reshape(-1, shape[2]).astype(np.float64) @ relative(self.config)
        inputs = np.clip(self.scalers.inputs.transform(flat), -CLIP, CLIP)
        spread = np.exp(self.spread(newest))  # (N, H)
        weight = np.ones_like(spread)
        if self.scaling == "level":  # errors count as they do in returns
            weight = spread / spread.mean(axis=0)
        return _Tensors(
            _tensor(inputs.reshape(shape)),
            _tensor(samples.log_return / spread),
            _tensor(samples.variance / np.exp(2.0 * self.volatility(newest))),
            _tensor(weight),
        )

    def _epochs(self, data: _Tensors) -> Iterator[tuple[int, float, Network]]:
        """Yield each epoch with its mean training loss and the averaged net."""
        torch.manual_seed(self.seed)
        config = self.config
        net = self._net(data)
        average = copy.deepcopy(net).eval()
        optimizer = _optimizer(net, config)
        batch = min(config.batch, len(data))
        step = 0
        for epoch in range(config.max_epochs):
            total, batches = 0.0, len(data) // batch
            net.train()
            order = torch.randperm(len(data))
            for i in range(batches):
                some = data.take(order[i * batch : (i + 1) * batch])
                pinball, volatility = self._losses(net, some)
                loss = pinball + config.volatility_weight * volatility
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                step += 1
                _blend(average, net, 1.0 - min(config.average, step / (step + 10)))
                total += float(loss.detach())
            yield epoch, total / batches, average

    def _net(self, data: _Tensors) -> Network:
        config = self.config
        unit = torch.quantile(data.returns, self.levels, dim=0).T  # (H, Q)
        location = config.drift_share * unit[:, config.median]
        network = Network(shape_of(config, 1), config.dropout)
        network.start_from(unit, location)
        return network

    def _losses(self, net: Network, data: _Tensors) -> tuple[Tensor, Tensor]:
        """Return the mean pinball loss, and the mean squared error of the log volatility.

        Of the logarithm, as in HAR's: realised variance is nearly log-normal (Andersen et al.
        2003), so that it teaches more than QLIKE does, whose few largest ratios rule the rest.
        """
        quantiles, log_volatility = _alone(net, data.inputs)
        error = data.returns[..., None] - quantiles  # (N, H, Q)
        pinball = torch.maximum(self.levels * error, (self.levels - 1.0) * error).mean(-1)
        log_ratio = 0.5 * torch.log(data.variance + MIN_RATIO) - log_volatility  # (N, H)
        squared = log_ratio.clamp(MIN_LOG_RATIO, MAX_LOG_RATIO) ** 2
        return (pinball * data.weight).mean(), squared.mean()


def _log_bias(net: Network, data: _Tensors) -> Tensor:
    """Return by how much log volatility is too low, (H,): a mean logarithm is no log of a mean."""
    with torch.no_grad():
        _, log_volatility = _alone(net, data.inputs)
        ratio = data.variance / torch.exp(2.0 * log_volatility)
        return 0.5 * torch.log(ratio.clamp_max(MAX_RATIO).mean(0))


def _alone(network: Network, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the quantiles (N, H, Q) and log volatilities (N, H) of a network of one member."""
    quantiles, log_volatility = network(inputs.transpose(0, 1))
    return quantiles[:, 0], log_volatility[:, 0]


def _optimizer(net: Network, config: FitConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019); biases are not decayed."""
    weights = [one for name, one in net.named_parameters() if "weight" in name]
    others = [one for name, one in net.named_parameters() if "weight" not in name]
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )


def _blend(average: Network, net: Network, share: float) -> None:
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), net.parameters(), strict=True):
            ours.lerp_(theirs, share)


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
