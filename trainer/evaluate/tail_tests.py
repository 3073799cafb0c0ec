"""Tests of a tail quantile's hits, as risk people expect them; each returns a p value. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

LAGS: Final = 4
"""Hits before that the dynamic quantile test looks at, as Engle and Manganelli do."""

DRAWS: Final = 199
"""Series drawn under the null: with 1 more a multiple of 20, so that a test at 5 % is exact."""

DEPENDENT: Final = 1e-9
"""Share of the largest eigenvalue below which a regressor is a sum of others."""


def kupiec(hits: NDArray[np.bool_], level: float) -> float:
    """Return the p value of as many hits as there are, at a rate of ``level``.

    The likelihood ratio of Kupiec (1995), "Techniques for verifying the accuracy of risk
    measurement models".

    Args:
        hits: whether each outcome fell to the quantile or below, (N,).
        level: of the quantile.
    """
    count, total = int(hits.sum()), len(hits)
    free = _log_likelihood(count, total, count / total)
    return float(stats.chi2.sf(2 * (free - _log_likelihood(count, total, level)), 1))


def christoffersen(hits: NDArray[np.bool_]) -> float:
    """Return the p value of a hit being as likely after a hit as after none.

    The likelihood ratio of Christoffersen (1998), "Evaluating interval forecasts".

    Args:
        hits: whether each outcome fell to the quantile or below, (N,), in the order of time.
    """
    before, after = hits[:-1], hits[1:]
    pairs = [(int((after & state).sum()), int(state.sum())) for state in (before, ~before)]
    share = int(after.sum()) / len(after)
    alone = sum(_log_likelihood(n, m, n / m if m else 0.0) for n, m in pairs)
    joined = sum(_log_likelihood(n, m, share) for n, m in pairs)
    return float(stats.chi2.sf(2 * (alone - joined), 1))


def dynamic_quantile(
    hits: NDArray[np.bool_], quantiles: Floats, level: float, step: int = 1
) -> float:
    """Return the p value of hits that neither hits before nor the quantile itself foretell.

    The statistic of Engle and Manganelli (2004), "CAViaR: conditional autoregressive value at risk
    by regression quantiles": of hits less their rate, regressed on 1, the four before and the
    quantile. Its chi-squared limit refuses three times too often at 1 % of 500 outcomes, so it is
    held against its values on series drawn under the null (Dufour 2006, "Monte Carlo tests with
    nuisance parameters"; Christoffersen and Pelletier 2004). They are hits of sums of ``step``
    independent normal moves: outcomes further ahead overlap, and that alone is not a fault.

    Args:
        hits: whether each outcome fell to the quantile or below, (N,), in the order of time.
        quantiles: forecast, (N,).
        level: of the quantile.
        step: candles ahead.
    """
    rng = np.random.default_rng(0)
    moves = np.cumsum(rng.standard_normal((DRAWS, len(hits) + step)), axis=1)
    drawn = (moves[:, step:] - moves[:, :-step]) / np.sqrt(step) <= stats.norm.ppf(level)
    found, *null = _dynamic_quantile(np.vstack([hits, drawn]) - level, quantiles)
    return float((1 + np.sum(np.array(null) >= found)) / (1 + DRAWS))


def _dynamic_quantile(excess: Floats, quantiles: Floats) -> Floats:
    """Return the sum of squares that the regression explains, of series (S, N) each: (S,)."""
    now = excess[:, LAGS:]
    regressors = [
        np.ones_like(now[:1]),
        *(excess[:, LAGS - lag : -lag] for lag in range(1, LAGS + 1)),
        (quantiles / np.abs(quantiles).mean())[None, LAGS:],
    ]
    with_now = np.stack(
        [(regressor * now).sum(axis=1) for regressor in regressors], axis=1
    )  # (S, K)
    gram = np.empty((len(now), len(regressors), len(regressors)))
    for i, left in enumerate(regressors):
        for j, right in enumerate(regressors[: i + 1]):
            gram[:, i, j] = gram[:, j, i] = (left * right).sum(axis=1)
    inverse = np.linalg.pinv(gram, rcond=DEPENDENT, hermitian=True)
    explained: Floats = np.einsum("si,sij,sj->s", with_now, inverse, with_now)
    return explained


def _log_likelihood(count: int, total: int, share: float) -> float:
    """Return the log likelihood of ``count`` hits of ``total`` at a probability."""
    hit = count * np.log(share) if count else 0.0
    return float(hit + ((total - count) * np.log1p(-share) if total > count else 0.0))
