"""The network's inputs: each feature is one torch function of candles, registered by name.

A feature reads series over a window, ``(B, T)`` in float64, and returns its values at the newest L
candles, ``(B, L)``. Four verbs lead from a series to those values: ``newest``, ``ago``, ``mean``
and ``highest``. A feature knows nothing after its candle, no scale of price or volume, and is
finite for any valid candles: flat ones, and markets whose volume is always 0, included.

The functions become part of the ONNX graph, so only torch operations that it can express are
allowed, and no Python decision that depends on a tensor's values.

To add a feature, write a function like these, here or in a file of your own, and name it::

    python -m trainer fit --features default,my_features.py:vwap-gap --data ... --out ...
"""

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

DAY_MS: Final = 86_400_000
WEEK: Final = 5  # trading days, as in Corsi (2009)
MONTH: Final = 22
LONG: Final = 120  # half a year, less the weeks that a window needs for its steps

MIN_VARIANCE: Final = 1e-10
"""Floor of the mean range variance of a month or longer: 0.001 % a candle, below any market."""

QUIET_SHARE: Final = 0.01
"""Floor of a shorter mean, as a share of the month's: a candle without a range counts as a tenth
as volatile as usual, since its logarithm would otherwise be unbounded."""

QUIET_MOVES: Final = 0.2
"""Floor of the mean absolute return over the mean range volatility; about 0.8 in real markets."""

QUIET_VOLUME: Final = 0.02
"""Floor of a candle's turnover, as a share of its month's mean."""

QUIET_EVENTS: Final = 0.05
"""Floor of the largest variance around a quarter's event, as a share of the mean of 120."""

GAP_RATIO: Final = 1.5
"""Candles whose openings lie this many usual spacings apart have a gap between them."""

TINY: Final = 1e-300
"""Floor of a divisor that is 0 only where the dividend is 0 too."""

TILE: Final = 16
"""A window's length is a multiple of this, so that vectorised logarithms have no scalar tail,
whose last bit would depend on the window's place in its batch."""


class Candles:
    """B windows of candles as series of shape (B, T), oldest first; the features' only input.

    The verbs take a series that ends with the newest candle, however many candles it holds.
    """

    def __init__(self, candles: Tensor, open_ms: Tensor, steps: int) -> None:
        """Take the windows.

        Args:
            candles: open, high, low, close, volume; float64, shape (B, T, 5).
            open_ms: opening times, UTC epoch milliseconds; int64, shape (B, T).
            steps: newest candles whose features are wanted, L.
        """
        self._columns = candles.transpose(1, 2)  # (B, 5, T)
        self.open_ms = open_ms
        self.steps = steps
        self.length = candles.shape[1]

    @cached_property
    def _log_prices(self) -> Tensor:
        return torch.log(self._columns[:, :4])

    @property
    def open(self) -> Tensor:
        """Opening prices, quote currency."""
        return self._columns[:, 0]

    @property
    def high(self) -> Tensor:
        """Highest prices, quote currency."""
        return self._columns[:, 1]

    @property
    def low(self) -> Tensor:
        """Lowest prices, quote currency."""
        return self._columns[:, 2]

    @property
    def close(self) -> Tensor:
        """Closing prices, quote currency."""
        return self._columns[:, 3]

    @property
    def volume(self) -> Tensor:
        """Units traded; 0 where the market has none."""
        return self._columns[:, 4]

    @cached_property
    def gaps(self) -> Tensor:
        """Overnight moves ln(o_t / c_{t-1}); 0 at the first candle."""
        moves = self._log_prices[:, 0, 1:] - self._log_prices[:, 3, :-1]
        return functional.pad(moves, (1, 0))

    @cached_property
    def bodies(self) -> Tensor:
        """Moves within the candle, ln(c_t / o_t)."""
        return self._log_prices[:, 3] - self._log_prices[:, 0]

    @cached_property
    def returns(self) -> Tensor:
        """Log returns ln(c_t / c_{t-1}); the first one is the candle's own body."""
        return self.gaps + self.bodies

    @cached_property
    def variance(self) -> Tensor:
        """Range variance of each candle, see ``range_variance``."""
        ranges = self._log_prices[:, 1] - self._log_prices[:, 2]
        return range_variance(self.gaps, self.bodies, ranges)

    @cached_property
    def month(self) -> Tensor:
        """Mean range variance of 22 candles at the newest steps, (B, L)."""
        return self.mean(self.variance, MONTH).clamp_min(MIN_VARIANCE)

    @cached_property
    def level(self) -> Tensor:
        """Mean range variance of 120 candles at the newest steps, (B, L)."""
        return self.mean(self.variance, LONG).clamp_min(MIN_VARIANCE)

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


def range_variance(gaps: Values, bodies: Values, ranges: Values) -> Values:
    """Return range-based variances: squared log returns, at least 0, of any shape.

    ``rv = ln(o_t/c_{t-1})^2 + 1/2 ln(h_t/l_t)^2 - (2 ln 2 - 1) ln(c_t/o_t)^2``: the overnight move
    and the estimator of Garman and Klass (1980), "On the Estimation of Security Price Volatilities
    from Historical Data", Journal of Business 53, for the session. Never below 0, since a body
    lies within its range and has the smaller weight.
    """
    return gaps * gaps + 0.5 * (ranges * ranges) - (2 * math.log(2) - 1) * (bodies * bodies)


Function = Callable[[Candles], Tensor]
"""Returns a feature's values (B, L) in float64, or (B, T), of which the newest L count."""


@dataclass(frozen=True)
class Feature:
    """A registered input of the network."""

    name: str
    lookback: int  # candles that its newest value needs, this one included
    function: Function
    log: float | None  # the feature is so many times the logarithm of what the function returns

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


def feature(lookback: int, *, log: float | None = None) -> Callable[[Function], Function]:
    """Register a function as the feature of its name, with dashes for underscores.

    Args:
        lookback: candles that its newest value needs, this one included; the window's length
            follows from it.
        log: the function returns positive numbers, and the feature is their natural logarithm
            times this. All such features share one logarithm in the graph.

    Raises:
        ValueError: when another file has a feature of this name, or the docstring is missing.
    """

    def register(function: Function) -> Function:
        made = Feature(function.__name__.replace("_", "-"), lookback, function, log)
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


@feature(lookback=2)
def log_return(candles: Candles) -> Tensor:
    """Log return ln(c_t / c_{t-1})."""
    return candles.newest(candles.returns)


@feature(lookback=MONTH + 1)
def scaled_gap(candles: Candles) -> Tensor:
    """Overnight gap ln(o_t / c_{t-1}) over the root of the mean range variance of 22 candles."""
    return candles.newest(candles.gaps) / torch.sqrt(candles.month)


@feature(lookback=MONTH + 1)
def scaled_return(candles: Candles) -> Tensor:
    """Log return over the root of the mean range variance of 22 candles."""
    return candles.newest(candles.returns) / torch.sqrt(candles.month)


@feature(lookback=20)
def sma_ratio(candles: Candles) -> Tensor:
    """Close over its simple moving average of 20 candles, minus 1."""
    return candles.newest(candles.close) / candles.mean(candles.close, 20) - 1.0


@feature(lookback=15)
def rsi(candles: Candles) -> Tensor:
    """Relative strength index of 14 candles, 0 to 100; 50 when nothing has moved.

    Wilder (1978), "New Concepts in Technical Trading Systems", with simple averages (Cutler):
    Wilder's own smoothing would reach beyond any window. Gains are half of the way travelled plus
    the net change.
    """
    changes = candles.close[:, 1:] - candles.close[:, :-1]
    travelled = candles.mean(changes.abs(), 14)
    return 50.0 + 50.0 * candles.mean(changes, 14) / travelled.clamp_min(TINY)


@feature(lookback=MONTH + 1, log=0.5)
def range_volatility_1(candles: Candles) -> Tensor:
    """Log of the range volatility of this candle: the daily term of Corsi's HAR.

    Corsi (2009), "A Simple Approximate Long-Memory Model of Realized Volatility", Journal of
    Financial Econometrics 7.
    """
    return torch.maximum(candles.newest(candles.variance), QUIET_SHARE * candles.month)


@feature(lookback=MONTH + 1, log=0.5)
def range_volatility_5(candles: Candles) -> Tensor:
    """Log root of the mean range variance of 5 candles: HAR's weekly term."""
    return torch.maximum(candles.mean(candles.variance, WEEK), QUIET_SHARE * candles.month)


@feature(lookback=MONTH + 1, log=0.5)
def range_volatility_22(candles: Candles) -> Tensor:
    """Log root of the mean range variance of 22 candles: HAR's monthly term."""
    return candles.month


@feature(lookback=LONG + 1, log=0.5)
def range_volatility_120(candles: Candles) -> Tensor:
    """Log root of the mean range variance of 120 candles: the level to return to."""
    return candles.level


@feature(lookback=LONG + 1, log=1.0)
def return_range_ratio(candles: Candles) -> Tensor:
    """Log of the mean absolute return over the mean range volatility, of 120 candles.

    What ranges understate, as in an index whose opening price is stale.
    """
    moves = candles.mean(candles.returns.abs(), LONG)
    volatility = candles.mean(torch.sqrt(candles.variance), LONG)
    return (moves / volatility.clamp_min(math.sqrt(MIN_VARIANCE))).clamp_min(QUIET_MOVES)


@feature(lookback=131, log=0.5)
def quarter_volatility_1(candles: Candles) -> Tensor:
    """Log root of the largest range variance 61 to 64 candles ago, or 122 to 129 if less.

    Reports come some 63 trading days apart, so what follows the newest candle had its like then:
    whether one may be due at the next candle.
    """
    return _quarter(candles, (61, 64), (122, 129))


@feature(lookback=131, log=0.5)
def quarter_volatility_5(candles: Candles) -> Tensor:
    """Log root of the largest range variance 57 to 64 candles ago, or 114 to 129 if less."""
    return _quarter(candles, (57, 64), (114, 129))


@feature(lookback=131, log=0.5)
def quarter_volatility_10(candles: Candles) -> Tensor:
    """Log root of the largest range variance 49 to 64 candles ago, or 114 to 129 if less."""
    return _quarter(candles, (49, 64), (114, 129))


@feature(lookback=MONTH, log=1.0)
def log_volume(candles: Candles) -> Tensor:
    """Log of the turnover (close x volume) over its mean of 22 candles; 0 without volume."""
    turnover = candles.close * candles.volume
    ratio = (candles.newest(turnover) + TINY) / (candles.mean(turnover, MONTH) + TINY)
    return ratio.clamp_min(QUIET_VOLUME)


@feature(lookback=1)
def time_of_day_sin(candles: Candles) -> Tensor:
    """Sine of the opening's time of day: 2 pi times the share of the UTC day that is over."""
    return torch.sin(2 * math.pi * _time_of_day(candles))


@feature(lookback=1)
def time_of_day_cos(candles: Candles) -> Tensor:
    """Cosine of the opening's time of day: 2 pi times the share of the UTC day that is over."""
    return torch.cos(2 * math.pi * _time_of_day(candles))


@feature(lookback=1)
def day_of_week_sin(candles: Candles) -> Tensor:
    """Sine of the opening's day of week (UTC): 2 pi times days since Monday over 7."""
    return torch.sin(2 * math.pi / 7 * _day_of_week(candles))


@feature(lookback=1)
def day_of_week_cos(candles: Candles) -> Tensor:
    """Cosine of the opening's day of week (UTC): 2 pi times days since Monday over 7."""
    return torch.cos(2 * math.pi / 7 * _day_of_week(candles))


@feature(lookback=MONTH + 1, log=1.0)
def gap_length(candles: Candles) -> Tensor:
    """Log of the time since the candle before opened over the shortest such time of 22 candles.

    0 within a session or a week of daily candles, above 0 after a night, a weekend or a halt.
    """
    spacing = _spacing(candles)
    return candles.newest(spacing) / -candles.highest(-spacing, 0, MONTH - 1)


@feature(lookback=2 * MONTH)
def candles_since_gap(candles: Candles) -> Tensor:
    """Candles since the last gap in time, as a share of 22; 1 when there was none among 22.

    A gap is a spacing of at least 1.5 times the shortest of 22 candles.
    """
    spacing = _spacing(candles)
    shortest = -functional.max_pool1d(functional.pad(-spacing, (MONTH - 1, 0)), MONTH, stride=1)
    place = torch.arange(candles.length, dtype=torch.float64)
    gaps = torch.where(spacing >= GAP_RATIO * shortest, place, torch.zeros_like(spacing))
    since = candles.newest(place.expand_as(spacing)) - candles.highest(gaps, 0, MONTH - 1)
    return since.clamp_max(MONTH) / MONTH


def _quarter(candles: Candles, newer: tuple[int, int], older: tuple[int, int]) -> Tensor:
    event = torch.minimum(
        candles.highest(candles.variance, *newer), candles.highest(candles.variance, *older)
    )
    return torch.maximum(event, QUIET_EVENTS * candles.level)


def _time_of_day(candles: Candles) -> Tensor:
    return (candles.newest(candles.open_ms) % DAY_MS).to(torch.float64) / DAY_MS


def _day_of_week(candles: Candles) -> Tensor:
    days = torch.div(candles.newest(candles.open_ms), DAY_MS, rounding_mode="floor")
    return ((days + 3) % 7).to(torch.float64)  # 1970-01-01 was a Thursday


def _spacing(candles: Candles) -> Tensor:
    """Return the time since the candle before opened, ms, (B, T); 1 for the first."""
    spacing = candles.open_ms[:, 1:] - candles.open_ms[:, :-1]
    return functional.pad(spacing.to(torch.float64), (1, 0)).clamp_min(1.0)


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


def extract(names: Sequence[str], candles: Candles) -> Tensor:
    """Return the features of windows at their newest steps, (B, L, F) in float32, not scaled."""
    wanted = [FEATURES[name] for name in names]
    order = sorted(range(len(wanted)), key=lambda i: wanted[i].log is None)  # logarithms first
    plain = [_at_steps(wanted[i], candles) for i in order]
    factors = [factor for i in order if (factor := wanted[i].log) is not None]
    if factors:
        scale = torch.tensor(factors, dtype=torch.float64).repeat_interleave(candles.steps)
        logs = torch.log(torch.cat(plain[: len(factors)], dim=1)) * scale
        plain = [logs, *plain[len(factors) :]]
    values = torch.cat(plain, dim=1).to(torch.float32).view(-1, len(names), candles.steps)
    if order != sorted(order):
        values = values[:, sorted(range(len(order)), key=order.__getitem__)]
    return values.transpose(1, 2)


def _at_steps(known: Feature, candles: Candles) -> Tensor:
    """Return what a feature's function gives at the newest steps, (B, L)."""
    values = known.function(candles)
    return candles.newest(values) if values.shape[1] == candles.length else values


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
    window_length(names, 1)
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
        }:
            raise ValueError(
                f"{name}: expected float64 of shape (B, {steps}) or (B, {whole.length}), "
                f"got {values.dtype} of shape {tuple(values.shape)}"
            )
        values = _at_steps(known, whole)
        if not torch.isfinite(values).all():
            raise ValueError(f"{name}: expected finite values, got others on real candles")
        earlier = _at_steps(known, Candles(changed, open_ms, steps))[:, :-1]
        if not torch.equal(earlier, values[:, :-1]):
            raise ValueError(f"{name}: looks ahead: its values change with later candles")
        first = whole.length - steps + 1 - known.lookback
        if first < 0:
            raise ValueError(
                f"{name}: expected windows of {known.lookback + steps - 1} candles, "
                f"got {whole.length}"
            )
        older = candles.clone()
        older[:, :first, :4] *= 3.0
        if not torch.equal(_at_steps(known, Candles(older, open_ms, steps)), values):
            raise ValueError(
                f"{name}: looks back further than its lookback of {known.lookback} candles"
            )
