"""Skill of one method over another: loss saved, bootstrap interval and significance test. Pure.

Losses are summed over symbols by date first: symbols move together on a day, so a day is one
draw and not as many as there are symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from trainer.evaluate.forecast_table import KEYS

BLOCK: Final = 21
"""Dates of a bootstrap block: a month, twice the longest default horizon."""

RESAMPLES: Final = 2000
"""Draws of the bootstrap."""

CONFIDENCE: Final = 0.95
"""Share of the draws inside the interval."""


@dataclass(frozen=True)
class Skill:
    """Skill of a method over another: the share of the other's mean loss that it saves."""

    skill: float  # 1 - loss / other's loss
    low: float  # ends of the bootstrap interval
    high: float
    dm: float  # Diebold-Mariano statistic; positive where the method is better
    p_value: float  # two-sided
    rows: int  # forecasts that both made
    dates: int


NOTHING: Final = Skill(np.nan, np.nan, np.nan, np.nan, np.nan, rows=0, dates=0)


def compare(
    method: pd.DataFrame, other: pd.DataFrame, loss: str, step: int, *, seed: int = 0
) -> Skill:
    """Return the skill over the rows that both methods forecast; NaN where there are none.

    Args:
        method: its losses, with the columns symbol, open_ms, step and ``loss``.
        other: the losses of the one it is measured against.
        loss: the column.
        step: candles ahead; only its rows count.
        seed: of the bootstrap.
    """
    sums = by_date(method, other, loss, step)
    if len(sums) < 2 or not sums["other"].sum() > 0:
        return NOTHING
    mine, others = sums["mine"].to_numpy(), sums["other"].to_numpy()
    low, high = ratio_interval(mine, others, seed=seed)
    statistic, p_value = diebold_mariano(others - mine, step)
    return Skill(
        skill=float(1 - mine.sum() / others.sum()),
        low=1 - high,
        high=1 - low,
        dm=statistic,
        p_value=p_value,
        rows=int(sums["rows"].sum()),
        dates=len(sums),
    )


def by_date(method: pd.DataFrame, other: pd.DataFrame, loss: str, step: int) -> pd.DataFrame:
    """Return both methods' summed losses over their common rows by date, and the count of rows."""
    both = [
        table.loc[(table["step"] == step) & table[loss].notna(), [*KEYS, loss]]
        for table in (method, other)
    ]
    joined = both[0].merge(both[1], on=KEYS, suffixes=("_mine", "_other"))
    groups = joined.groupby("open_ms", sort=True)
    return pd.DataFrame(
        {
            "mine": groups[f"{loss}_mine"].sum(),
            "other": groups[f"{loss}_other"].sum(),
            "rows": groups.size(),
        }
    )


def ratio_interval(
    above: NDArray[np.float64],
    below: NDArray[np.float64],
    *,
    seed: int = 0,
    block: int = BLOCK,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return the 95 % interval of ``sum(above) / sum(below)`` by a block bootstrap of dates.

    Blocks run on from the last date to the first, so that each date is drawn equally often:
    Politis and Romano, "A circular block-resampling procedure for stationary data" (1992), the
    moving blocks of Künsch (1989) without their slight of the ends. Percentile interval.

    Args:
        above: sums by date, shape (n,), in order of time.
        below: sums of the same dates.
        seed: of the draw.
        block: dates in a block; longer than the dependence that overlapping horizons cause.
        resamples: number of draws.
    """
    count = len(above)
    block = min(block, count)
    blocks = -(-count // block)
    starts = np.random.default_rng(seed).integers(0, count, (resamples, blocks))
    lengths = np.full(blocks, block)
    lengths[-1] = count - block * (blocks - 1)  # a resample has as many dates as the data
    ratio = _block_sums(above, starts, lengths) / _block_sums(below, starts, lengths)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratio, [tail, 1 - tail])
    return float(low), float(high)


def _block_sums(
    values: NDArray[np.float64], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return each resample's sum, of blocks at ``starts`` (resamples, blocks)."""
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values]))])
    sums: NDArray[np.float64] = (total[starts + lengths] - total[starts]).sum(axis=1)
    return sums


def diebold_mariano(difference: NDArray[np.float64], step: int) -> tuple[float, float]:
    """Return the statistic and two-sided p-value of a mean loss difference of 0.

    Diebold and Mariano, "Comparing predictive accuracy" (1995), with the small-sample correction
    and Student's t of Harvey, Leybourne and Newbold (1997). The long-run variance is that of
    ``newey_west``.

    Args:
        difference: the other's loss less the method's, by date, shape (n,).
        step: candles ahead: forecasts of h candles share h - 1 of them with the next.
    """
    count = len(difference)
    variance = newey_west(difference, max(step - 1, int(4 * (count / 100) ** (2 / 9))))
    if variance <= 0:
        return float("nan"), float("nan")
    correction = (count + 1 - 2 * step + step * (step - 1) / count) / count
    statistic = difference.mean() / np.sqrt(variance / count) * np.sqrt(max(correction, 0.0))
    return float(statistic), float(2 * stats.t.sf(abs(statistic), count - 1))


def newey_west(values: NDArray[np.float64], lags: int) -> float:
    """Return the long-run variance by Bartlett's weights; Newey and West (1987)."""
    centred = values - values.mean()
    count = len(values)
    variance = centred @ centred / count
    for lag in range(1, min(lags, count - 1) + 1):
        variance += 2 * (1 - lag / (lags + 1)) * (centred[lag:] @ centred[:-lag]) / count
    return float(variance)
