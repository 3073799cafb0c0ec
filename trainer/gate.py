"""The gate: tells whether a challenger is better than the champion on candles neither saw. Pure.

Losses are summed by day first: the candles and symbols of a day move together. Days near each
other are alike too, so that runs of days are the draws: Student's t over the means of groups of
consecutive days, by Ibragimov and Müller, "t-statistic based correlation and heterogeneity robust
inference" (2010).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS
from trainer.evaluate.forecast_table import KEYS

if TYPE_CHECKING:
    import pandas as pd

NOMINAL: Final = 0.8
"""Coverage of the interval that is judged by default, between the quantiles 0.1 and 0.9."""

FEWEST_GROUPS: Final = 5
"""Fewest groups of days that can show anything."""

MOST_GROUPS: Final = 16
"""Most groups: more gain little, and shorter ones are more alike."""


@dataclass(frozen=True)
class Rule:
    """What a challenger must hold."""

    margin: float = 0.003  # share of the champion's pinball loss that it must save at least
    level: float = 0.025  # chance at most that one that saves just the margin passes
    qlike_margin: float = 0.02  # share by which QLIKE may be higher
    coverage_margin: float = 0.03  # distance from nominal that is always allowed
    coverage_slack: float = 0.02  # further from nominal than the champion, at most
    nominal: float = NOMINAL  # coverage of the interval that is judged
    class_margin: float = 0.02  # share by which a symbol's loss may rise
    class_level: float = 0.05  # chance at most that any unharmed symbol counts as harmed


@dataclass(frozen=True)
class Verdict:
    """Outcome of a comparison, and all that was looked at."""

    reasons: tuple[str, ...]  # why not; of one that passes: by how much it is better
    figures: Mapping[str, float] = field(default_factory=dict)
    passed: bool = False

    @property
    def words(self) -> str:
        """The reasons in one line."""
        return "; ".join(self.reasons)


def judge(
    challenger: pd.DataFrame, champion: pd.DataFrame, interval_ms: int, rule: Rule | None = None
) -> Verdict:
    """Return whether a challenger passes.

    Args:
        challenger: its losses by row: symbol, open_ms, step, pinball, qlike, inside (whether the
            outcome lay in the interval of ``NOMINAL``).
        champion: the champion's, of the same candles.
        interval_ms: length of a candle.
        rule: what it must hold.
    """
    rule = rule or Rule()
    if (steps := _steps(challenger)) != (others := _steps(champion)):
        return Verdict((f"it forecasts the steps {steps}, the champion {others}",))
    if len(challenger) and not np.isfinite(challenger["pinball"]).all():
        return Verdict(("some of its forecasts are not finite numbers",))
    both = challenger.merge(champion, on=KEYS, suffixes=("", "_champion"))
    if both.empty:
        return Verdict(("there is no candle that both forecast",))
    scale = both.groupby("step")["pinball_champion"].transform("mean")  # each step counts alike
    both = both.assign(
        day=both["open_ms"] // DAY_MS,
        mine=both["pinball"] / scale,
        other=both["pinball_champion"] / scale,
    )
    longest = group_days(steps[-1], interval_ms)
    days = both.groupby("day")[["mine", "other"]].sum()
    figures = {"days": float(len(days)), "rows": float(len(both)), "skill": _skill(days)}
    figures |= {f"skill_{step}": _skill(rows) for step, rows in both.groupby("step")}
    if len(days) < (fewest := fewest_days(steps[-1], interval_ms)):
        why = f"{len(days)} days that neither saw, fewer than {fewest}"
        return Verdict((f"{why}: nothing can be shown",), figures)
    chance = chance_of(days["mine"], days["other"], rule.margin, longest)
    figures |= {"chance": chance, **_volatility(both), **_coverage(both)}
    reasons = [
        *_too_small(figures, rule),
        *_worse_volatility(figures, rule),
        *_worse_coverage(figures, rule),
        *_harmed(both, longest, rule),
    ]
    if reasons:
        return Verdict(tuple(reasons), figures)
    shown = f"pinball {figures['skill']:.2%} lower over {len(days)} days"
    why = f"{shown}, by more than {rule.margin:.1%} (p {chance:.2g})"
    return Verdict((why,), figures, passed=True)


def group_days(longest_step: int, interval_ms: int) -> int:
    """Return the days that a group has at least: twice the longest forecast."""
    return 2 * max(1, math.ceil(longest_step * interval_ms / DAY_MS))


def fewest_days(longest_step: int, interval_ms: int) -> int:
    """Return the fewest days that can show anything."""
    return FEWEST_GROUPS * group_days(longest_step, interval_ms)


def chance_of(mine: pd.Series, other: pd.Series, margin: float, longest: int) -> float:
    """Return the one-sided p-value of a saving of at most ``margin``.

    Args:
        mine: losses by day.
        other: the other's, of the same days.
        margin: share of the other's loss.
        longest: days in a group at least.
    """
    from scipy import stats  # noqa: PLC0415 - half a second of every command's start otherwise

    saved: NDArray[np.float64] = (other * (1 - margin) - mine).to_numpy(dtype=np.float64)
    count = min(MOST_GROUPS, len(saved) // longest)
    means = np.array([group.mean() for group in np.array_split(saved, count)])
    spread = means.std(ddof=1)
    if not spread > 0:
        return 0.0 if means.mean() > 0 else 1.0
    return float(stats.t.sf(means.mean() / spread * math.sqrt(count), count - 1))


def _skill(sums: pd.DataFrame) -> float:
    return float(1 - sums["mine"].sum() / sums["other"].sum())


def _steps(losses: pd.DataFrame) -> Sequence[int]:
    return sorted(int(step) for step in losses["step"].unique())


def _volatility(both: pd.DataFrame) -> dict[str, float]:
    known = both[both["qlike"].notna() & both["qlike_champion"].notna()]
    means = known[["qlike", "qlike_champion"]].mean()
    return {str(name): float(value) for name, value in means.items()}


def _coverage(both: pd.DataFrame) -> dict[str, float]:
    return {name: float(both[column].mean()) for name, column in (
        ("coverage", "inside"), ("coverage_champion", "inside_champion"),
    )}  # fmt: skip


def _too_small(figures: Mapping[str, float], rule: Rule) -> Iterator[str]:
    skill, chance = figures["skill"], figures["chance"]
    if not chance <= rule.level:
        yield (
            f"pinball {abs(skill):.2%} {'lower' if skill > 0 else 'higher'}: not better by "
            f"{rule.margin:.1%} beyond chance (p {chance:.2g}, at most {rule.level:g})"
        )


def _worse_volatility(figures: Mapping[str, float], rule: Rule) -> Iterator[str]:
    mine, other = figures["qlike"], figures["qlike_champion"]
    if np.isfinite(other) and not mine <= other + rule.qlike_margin * abs(other):
        more = f"more than {rule.qlike_margin:.0%} higher"
        yield f"QLIKE {mine:.4f}, the champion's {other:.4f}: {more}"


def _worse_coverage(figures: Mapping[str, float], rule: Rule) -> Iterator[str]:
    mine, other = figures["coverage"], figures["coverage_champion"]
    allowed = max(rule.coverage_margin, abs(other - rule.nominal) + rule.coverage_slack)
    if not abs(mine - rule.nominal) <= allowed:
        yield f"{rule.nominal:.0%} intervals hold {mine:.1%}, the champion's {other:.1%}"


def _harmed(both: pd.DataFrame, longest: int, rule: Rule) -> Iterator[str]:
    """Yield the symbols whose loss is higher by more than the margin, beyond chance."""
    by_day = both.groupby(["symbol", "day"])[["mine", "other"]].sum()
    groups = {str(name): days.droplevel("symbol") for name, days in by_day.groupby("symbol")}
    allowed = 1 - 1 / (1 + rule.class_margin)  # as what the champion saves of its loss
    for symbol, days in groups.items():
        if len(days) < longest * FEWEST_GROUPS:
            continue
        chance = chance_of(days["other"], days["mine"], allowed, longest)
        if chance <= rule.class_level / len(groups):
            yield f"{symbol}: pinball {-_skill(days):.1%} higher"
