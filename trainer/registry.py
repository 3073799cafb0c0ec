"""The registry of features: windows as series, the decorator, and features of one's own file."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Values = TypeVar("Values", Tensor, NDArray[np.float64])

MONTH: Final = 22  # trading days, as in Corsi (2009)
LONG: Final = 120  # half a year, less the weeks that a window needs for its steps

MIN_VARIANCE: Final = 1e-10
"""Floor of the mean range variance of a month or longer: 0.001 % a candle, below any market."""

TILE: Final = 16
"""A window's length is a multiple of this, so that vectorised logarithms have no scalar tail,
whose last bit would depend on the window's place in its batch."""


class Candles:
    """B windows of candles as series of shape (B, T), oldest first; the features' only input.

    The verbs take a series that ends with the newest candle, however many candles it holds. A
    window may hold more candles than every one must: ``all_open_ms``, ``all_variance`` and
    ``newest_moves`` reach back over them.
    """

    def __init__(
        self, candles: Tensor, open_ms: Tensor, steps: int, length: int | None = None
    ) -> None:
        """Take the windows.

        Args:
            candles: open, high, low, close, volume; float64, shape (B, W, 5).
            open_ms: opening times, UTC epoch milliseconds; int64, shape (B, W).
            steps: newest candles whose features are wanted, L.
            length: newest candles that make up the series, T; by default all, W.
        """
        self._all = candles
        self.all_open_ms = open_ms
        self._shared: dict[str, Tensor] = {}
        self.steps = steps
        self.length = candles.shape[1] if length is None else length
        whole = length is None
        newest = candles if whole else candles[:, -self.length :]
        self._columns = newest.transpose(1, 2)  # (B, 5, T)
        self.open_ms = open_ms if whole else open_ms[:, -self.length :]

    @cached_property
    def _log_prices(self) -> tuple[Tensor, ...]:
        """Logarithms of open, high, low and close, each (B, T)."""
        logs = torch.log(self._columns[:, :4])
        return tuple(logs[:, i] for i in range(4))

    @cached_property
    def open(self) -> Tensor:
        """Opening prices, quote currency."""
        return self._columns[:, 0]

    @cached_property
    def high(self) -> Tensor:
        """Highest prices, quote currency."""
        return self._columns[:, 1]

    @cached_property
    def low(self) -> Tensor:
        """Lowest prices, quote currency."""
        return self._columns[:, 2]

    @cached_property
    def close(self) -> Tensor:
        """Closing prices, quote currency."""
        return self._columns[:, 3]

    @cached_property
    def volume(self) -> Tensor:
        """Units traded; 0 where the market has none."""
        return self._columns[:, 4]

    @cached_property
    def gaps(self) -> Tensor:
        """Overnight moves ln(o_t / c_{t-1}); 0 at the first candle."""
        moves = self._log_prices[0][:, 1:] - self._log_prices[3][:, :-1]
        return functional.pad(moves, (1, 0))

    @cached_property
    def bodies(self) -> Tensor:
        """Moves within the candle, ln(c_t / o_t)."""
        return self._log_prices[3] - self._log_prices[0]

    @cached_property
    def returns(self) -> Tensor:
        """Log returns ln(c_t / c_{t-1}); the first one is the candle's own body."""
        return self.gaps + self.bodies

    @cached_property
    def variance(self) -> Tensor:
        """Range variance of each candle, see ``range_variance``."""
        ranges = self._log_prices[1] - self._log_prices[2]
        return range_variance(self.gaps, self.bodies, ranges)

    @cached_property
    def all_variance(self) -> Tensor:
        """Range variance of every candle of the window, (B, W), float32, without a logarithm.

        ``2 (a - b) / (a + b)`` is ``ln(a / b)`` but for a share of ``ln(a / b)^2 / 12``: 0.3 % for
        a move by a fifth. Windows may be long, and logarithms are what they would cost most. The
        stream's prices have 32 bits, so that their differences lose nothing.
        """
        opened, high, low, close = torch.split(self._all_prices, 1, dim=1)  # (B, 1, W)
        gaps = functional.pad(_log_ratio(opened[:, :, 1:], close[:, :, :-1]), (1, 0))
        variance = range_variance(gaps, _log_ratio(close, opened), _log_ratio(high, low))
        return variance[:, 0]

    @cached_property
    def _all_prices(self) -> Tensor:
        """Open, high, low and close of every candle of the window, (B, 4, W), float32."""
        return self._all[:, :, :4].to(torch.float32).transpose(1, 2)

    def newest_moves(self, span: int, count: int) -> Tensor:
        """Return the newest log returns over ``span`` candles, (B, ``count`` or W), float32.

        0 at the window's first ``span``; without a logarithm, as ``all_variance``.

        Args:
            span: candles, at most ``TILE``.
            count: a multiple of ``TILE``.
        """
        close = self._all_prices[:, 3, -(count + TILE) :]
        moves = _log_ratio(close[:, span:], close[:, :-span])
        return functional.pad(moves, (span, 0))[:, -count:]

    @cached_property
    def month(self) -> Tensor:
        """Mean range variance of 22 candles at the newest steps, (B, L)."""
        return self.mean(self.variance, MONTH).clamp_min(MIN_VARIANCE)

    @cached_property
    def level(self) -> Tensor:
        """Mean range variance of 120 candles at the newest steps, (B, L)."""
        return self.mean(self.variance, LONG).clamp_min(MIN_VARIANCE)

    def shared(self, name: str, make: Callable[[Candles], Tensor]) -> Tensor:
        """Return what ``make`` gives, made once for all features that ask for this name."""
        if name not in self._shared:
            self._shared[name] = make(self)
        return self._shared[name]

    def newest(self, series: Tensor) -> Tensor:
        """Return a series at the newest steps, (B, L)."""
        return series[:, series.shape[1] - self.steps :]

    def ago(self, series: Tensor, candles: int) -> Tensor:
        """Return what a series was so many candles before each of the newest steps, (B, L)."""
        end = series.shape[1] - candles
        return series[:, end - self.steps : end]

    def mean(self, series: Tensor, candles: int) -> Tensor:
        """Return the mean of the last ``candles`` values at each of the newest steps, (B, L).

        A product with a banded matrix: one node of the graph, without the rounding that is left
        when running sums are subtracted. Older candles are cut off where that halves the work.
        """
        needed = self.steps + candles - 1
        count = series.shape[1]
        kept = needed if 2 * needed <= count else count
        last = kept - self.steps + torch.arange(self.steps)
        back = last - torch.arange(kept)[:, None]  # from each step to each kept candle
        band = ((back >= 0) & (back < candles)).to(torch.float64) / candles
        return (series[:, count - kept :] if kept < count else series) @ band

    def highest(self, series: Tensor, first: int, last: int) -> Tensor:
        """Return the highest value ``first`` to ``last`` candles before each step, (B, L)."""
        end = series.shape[1] - first
        span = series[:, None, end - self.steps - last + first : end]  # a channel, for pooling
        return functional.max_pool1d(span, last - first + 1, stride=1)[:, 0]


def _log_ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return nearly ``ln(above / below)``, of any shape."""
    return 2.0 * (above - below) / (above + below)


def range_variance(gaps: Values, bodies: Values, ranges: Values) -> Values:
    """Return range-based variances: squared log returns, at least 0, of any shape.

    ``rv = ln(o_t/c_{t-1})^2 + 1/2 ln(h_t/l_t)^2 - (2 ln 2 - 1) ln(c_t/o_t)^2``: the overnight move
    and the estimator of Garman and Klass (1980), "On the Estimation of Security Price Volatilities
    from Historical Data", Journal of Business 53, for the session. Never below 0, since a body
    lies within its range and has the smaller weight.
    """
    return gaps * gaps + 0.5 * (ranges * ranges) - (2 * math.log(2) - 1) * (bodies * bodies)


Function = Callable[[Candles], Tensor]
"""Returns a feature's values (B, L) in float64; (B, T), of which the newest L count; or (B, 1),
what is known at the newest candle, which every step is given."""


@dataclass(frozen=True)
class Feature:
    """A registered input of the network."""

    name: str
    lookback: int  # candles that its newest value needs, this one included
    function: Function
    log: float | None  # the feature is so many times the logarithm of what the function returns
    reach: int  # candles that it reads where the window holds them, at least the lookback

    @property
    def description(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def file(self) -> str:
        """The source file that defines it."""
        return inspect.getsourcefile(self.function) or ""


_REGISTRY: dict[str, Feature] = {}

FEATURES: Final[Mapping[str, Feature]] = MappingProxyType(_REGISTRY)
"""Every registered feature by name, in the order of registration."""


def feature(
    lookback: int, *, log: float | None = None, reach: int = 0
) -> Callable[[Function], Function]:
    """Register a function as the feature of its name, with dashes for underscores.

    Args:
        lookback: candles that its newest value needs, this one included; the window's length
            follows from it.
        log: the function returns positive numbers, and the feature is their natural logarithm
            times this. All such features share one logarithm in the graph.
        reach: candles that it reads where the window holds more than the lookback.

    Raises:
        ValueError: when another file has a feature of this name, or the docstring is missing.
    """

    def register(function: Function) -> Function:
        name = function.__name__.replace("_", "-")
        made = Feature(name, lookback, function, log, max(reach, lookback))
        known = _REGISTRY.get(made.name)
        if known is not None and known.file != made.file:
            raise ValueError(f"{made.file}: feature {made.name} exists already in {known.file}")
        if not made.description:
            raise ValueError(f"{made.file}: feature {made.name}: expected a docstring, got none")
        if lookback < 1:
            raise ValueError(f"{made.name}: lookback: expected at least 1, got {lookback}")
        _REGISTRY[made.name] = made
        return function

    return register


def window_length(names: Sequence[str], steps: int) -> int:
    """Return the candles of a window that gives these features at ``steps`` candles, T.

    Raises:
        ValueError: for an unknown feature, no feature, or no step.
    """
    unknown = [name for name in names if name not in FEATURES]
    if unknown or not names:
        raise ValueError(
            f"expected some of {', '.join(FEATURES)}, got {', '.join(unknown) or 'none'}"
        )
    if steps < 1:
        raise ValueError(f"sequence_length: expected at least 1, got {steps}")
    needed = max(FEATURES[name].lookback for name in names) + steps - 1
    return -(-needed // TILE) * TILE


def reach(names: Sequence[str]) -> int:
    """Return the candles beyond which a longer window changes none of these features."""
    return max(FEATURES[name].reach for name in names)


def extract(names: Sequence[str], candles: Candles) -> Tensor:
    """Return the features of windows at their newest steps, (B, L, F) in float32, not scaled."""
    wanted = [FEATURES[name] for name in names]
    series: list[list[Tensor]] = [[], [], [], []]  # logarithms of steps, of windows; others
    order: list[list[int]] = [[], [], [], []]
    for number, known in enumerate(wanted):
        values = known.function(candles)
        alike = values.shape[1] == 1
        kind = 2 * (known.log is None) + alike
        series[kind].append(values if alike else _cut(values, candles))
        order[kind].append(number)
    if order[0] or order[1]:
        factors = [float(wanted[number].log or 0.0) for number in order[0]]
        scale = torch.tensor(factors, dtype=torch.float64).repeat_interleave(candles.steps)
        alike_scale = torch.tensor([float(wanted[number].log or 0.0) for number in order[1]])
        logs = torch.log(torch.cat(series[0] + series[1], dim=1))
        logs = logs * torch.cat([scale, alike_scale.to(torch.float64)])
        series[0] = [logs[:, : len(scale)]] if order[0] else []
        series[1] = [logs[:, len(scale) :]] if order[1] else []
    parts: list[Tensor] = []  # each (B, some of F, L)
    if of_steps := len(order[0] + order[2]):
        steps = torch.cat(series[0] + series[2], dim=1).to(torch.float32)
        parts.append(steps.view(-1, of_steps, candles.steps))
    if order[1] or order[3]:
        windows = torch.cat(series[1] + series[3], dim=1).to(torch.float32)
        parts.append(windows[:, :, None].expand(-1, -1, candles.steps))
    values = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    found = order[0] + order[2] + order[1] + order[3]
    if found != sorted(found):
        values = values[:, sorted(range(len(found)), key=found.__getitem__)]
    return values.transpose(1, 2)


def _cut(values: Tensor, candles: Candles) -> Tensor:
    """Return a function's values at the newest steps, (B, L)."""
    return candles.newest(values) if values.shape[1] == candles.length else values


def _at_steps(known: Feature, candles: Candles) -> Tensor:
    """Return what a feature's function gives at the newest steps, (B, L)."""
    values = known.function(candles)
    return values.expand(-1, candles.steps) if values.shape[1] == 1 else _cut(values, candles)


def resolve(specs: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Return the names of features after loading the files that define them.

    Args:
        specs: names, ``default`` for the default ones, or ``FILE.py:NAME`` for one of a user's own.
        default: what ``default`` stands for.

    Raises:
        ValueError: naming what is unknown, or why a file cannot be used.
    """
    names: list[str] = []
    for spec in specs:
        path, colon, name = spec.rpartition(":")
        if colon:
            _load(Path(path))
        names += default if spec == "default" else [name.replace("_", "-")]
    if not names or not FEATURES.keys() >= set(names):
        raise ValueError(f"expected default, FILE.py:NAME or some of {', '.join(FEATURES)}")
    return tuple(dict.fromkeys(names))


def _load(path: Path) -> ModuleType:
    """Run a file of features, which registers them.

    The file is the user's own code, run when a model is trained; a bundle holds no code.
    """
    spec = importlib.util.spec_from_file_location(f"candlecast_features_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: expected a Python file that defines features")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    return module


@torch.no_grad()
def check(names: Sequence[str], steps: int, candles: Tensor, open_ms: Tensor) -> None:
    """Try every feature on real windows before hours are spent on it.

    Args:
        names: of the features.
        steps: L.
        candles: some windows, (B, T, 5).
        open_ms: their opening times, (B, T).

    Raises:
        ValueError: naming a feature of another shape, with values that are not finite, that knows
            later candles, or that looks back further than it says.
    """
    changed = candles.clone()
    changed[:, -1] *= torch.tensor([1.1, 1.3, 0.9, 1.2, 2.0])
    for name in names:
        known = FEATURES[name]
        whole = Candles(candles, open_ms, steps)
        values = known.function(whole)
        if values.dtype != torch.float64 or tuple(values.shape) not in {
            (len(candles), steps),
            (len(candles), whole.length),
            (len(candles), 1),
        }:
            raise ValueError(
                f"{name}: expected float64 of shape (B, {steps}), (B, {whole.length}) or (B, 1), "
                f"got {values.dtype} of shape {tuple(values.shape)}"
            )
        alike = values.shape[1] == 1  # at all steps: what is known at the newest
        values = _at_steps(known, whole)
        if not torch.isfinite(values).all():
            raise ValueError(f"{name}: expected finite values, got others on real candles")
        earlier = _at_steps(known, Candles(changed, open_ms, steps))[:, :-1]
        if not alike and not torch.equal(earlier, values[:, :-1]):
            raise ValueError(f"{name}: looks ahead: its values change with later candles")
        if whole.length < known.lookback + steps - 1:
            raise ValueError(
                f"{name}: expected windows of {known.lookback + steps - 1} candles, "
                f"got {whole.length}"
            )
        first = max(whole.length - known.reach - (0 if alike else steps - 1), 0)
        older = candles.clone()
        older[:, :first, :4] *= 3.0
        if not torch.equal(_at_steps(known, Candles(older, open_ms, steps)), values):
            raise ValueError(
                f"{name}: looks back further than its lookback of {known.lookback} candles"
            )
