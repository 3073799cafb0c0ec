"""GARCH(1,1)-t and GJR-GARCH(1,1,1)-t with filtered historical simulation."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from arch import arch_model
from numpy.typing import NDArray
from scipy.signal import lfilter

from shared.forecaster import Prediction
from trainer.evaluate.baselines.walk import Walk
from trainer.evaluate.realised import range_variances

PERCENT: Final = 100.0
"""Factor of the returns: in per cent the optimiser's steps have the right size."""

PATHS: Final = 2000
"""Number of simulated paths of each origin."""


QUIET_SHARE: Final = 0.01
WILD_SHARE: Final = 1e4
"""Bounds of a variance, as shares of the mean squared return so far."""

TINY: Final = 1e-12
"""Floor of the mean squared return, per cent²."""


@dataclass(frozen=True)
class Fit:
    """Parameters of ``v' = omega + (alpha + gamma·[e < 0])·e² + beta·v``, returns in per cent."""

    mean: float
    omega: float
    alpha: float
    gamma: float  # 0 for plain GARCH
    beta: float
    first: float  # variance before the first return
    least: float = 0.0  # bounds of a variance, per cent²
    most: float = np.inf

    def bounded(self, variances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return variances within the bounds, in the same array.

        GJR's may fall below 0 where ``alpha + gamma`` does, and a market that stands still and then
        jumps has residuals whose powers no float holds.
        """
        return np.clip(variances, self.least, self.most, out=variances)

    def variances(self, returns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of each return and of the next one, shape (n + 1,), per cent²."""
        shocks = returns - self.mean
        news = self.omega + (self.alpha + self.gamma * (shocks < 0)) * shocks**2
        ahead, _ = lfilter([1.0], [1.0, -self.beta], news, zi=[self.beta * self.first])
        return self.bounded(np.concatenate([[self.first], ahead]))


class Garch:
    """GARCH(1,1) with Student's t (Bollerslev 1987), or GJR's (1993) if ``asymmetric``.

    The distribution comes by filtered historical simulation: Barone-Adesi, Giannopoulos and
    Vosper, "VaR without correlations for portfolios of derivative securities" (1999). Past
    residuals over their own volatility are drawn again and sent through the recursion. The
    volatility is scaled to the level of the range variance by their mean ratio in the past.
    """

    def __init__(self, *, asymmetric: bool = False, paths: int = PATHS) -> None:
        self.asymmetric = asymmetric
        self.paths = paths

    @property
    def name(self) -> str:
        return "GJR-GARCH" if self.asymmetric else "GARCH-t"

    def forecast(self, candles: NDArray[np.float64], walk: Walk) -> Prediction:
        out = walk.blank(len(candles))
        returns = PERCENT * np.diff(np.log(candles[:, 3]))  # of candle 1, 2, …
        ranges = PERCENT**2 * range_variances(candles)[1:]
        for start, stop in walk.blocks(len(candles)):
            rows = slice(start - walk.first, stop - walk.first)
            fit = self._fit(returns[:start])
            variances = fit.variances(returns[: stop - 1])  # (stop,): one for each coming candle
            residuals = (returns[:start] - fit.mean) / np.sqrt(variances[:start])
            now = variances[start:stop]  # of the candle after each origin
            out.log_return[rows] = self._quantiles(fit, residuals, now, walk) / PERCENT
            ratio = np.mean(ranges[:start] / variances[:start])
            mean = mean_variances(fit, residuals, now, walk.horizons)  # (block, H)
            out.volatility[rows] = np.sqrt(ratio * mean) / PERCENT
        return out

    def _fit(self, returns: NDArray[np.float64]) -> Fit:
        model = arch_model(
            returns, mean="Constant", vol="GARCH", p=1, o=int(self.asymmetric), q=1, dist="t",
            rescale=False,
        )  # fmt: skip
        result = model.fit(disp="off", show_warning=False)
        params = result.params
        usual = max(float(np.mean(returns**2)), TINY)
        return Fit(
            mean=float(params["mu"]),
            omega=float(params["omega"]),
            alpha=float(params["alpha[1]"]),
            gamma=float(params.get("gamma[1]", 0.0)),
            beta=float(params["beta[1]"]),
            first=float(result.conditional_volatility[0]) ** 2,
            least=QUIET_SHARE * usual,
            most=WILD_SHARE * usual,
        )

    def _quantiles(
        self, fit: Fit, residuals: NDArray[np.float64], now: NDArray[np.float64], walk: Walk
    ) -> NDArray[np.float64]:
        """Return quantiles of the sum of returns, shape (block, H, Q), per cent.

        All origins of a block go through the same drawn residuals at once. The draw depends on
        the fit's data alone, so that it is the same whatever comes later.
        """
        rng = np.random.default_rng(zlib.crc32(residuals.tobytes()))
        draws = rng.choice(residuals, (walk.horizons[-1], self.paths))
        variance = np.repeat(now[:, None], self.paths, axis=1)  # (block, paths)
        total = np.zeros_like(variance)
        out = np.empty((len(now), len(walk.horizons), len(walk.levels)))
        for k, drawn in enumerate(draws, start=1):
            shock = np.sqrt(variance) * drawn
            total += fit.mean + shock
            variance *= fit.beta
            variance += fit.omega + (fit.alpha + fit.gamma * (drawn < 0)) * shock**2
            fit.bounded(variance)
            if k in walk.horizons:
                out[:, walk.horizons.index(k)] = np.quantile(total, walk.levels, axis=1).T
        if walk.horizons[0] == 1:  # known exactly, without drawing
            shape = np.quantile(residuals, walk.levels)
            out[:, 0] = fit.mean + np.sqrt(now)[:, None] * shape
        return out


def mean_variances(
    fit: Fit, residuals: NDArray[np.float64], now: NDArray[np.float64], horizons: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return the expected mean variance over each horizon, shape (block, H), per cent².

    Exact for residuals drawn from the past: ``v' = omega + (alpha·E[z²] + gamma·E[z²; z < 0] +
    beta)·v``.
    """
    squares = residuals**2
    factor = fit.alpha * squares.mean() + fit.gamma * np.mean(squares * (residuals < 0)) + fit.beta
    path = [now]
    for _ in range(horizons[-1] - 1):
        path.append(fit.bounded(fit.omega + factor * path[-1]))
    total = np.cumsum(path, axis=0)  # (longest, block)
    return np.stack([total[step - 1] / step for step in horizons], axis=1)
