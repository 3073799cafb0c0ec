"""The gate lets better challengers through, and of equal ones next to none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from shared.candles import DAY_MS
from trainer.gate import Verdict, judge

STEPS = (1, 5, 10)
NULLS = 200


def losses(
    chance: np.random.Generator, days: int, symbols: int, *, skill: float = 0.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the losses of a challenger and a champion, of overlapping forecasts.

    Both lose by the same market; what sets them apart is common to a day's symbols, and lasts as
    long as a forecast does.
    """
    rows = pd.MultiIndex.from_product(
        [range(symbols), range(days), STEPS], names=["symbol", "day", "step"]
    ).to_frame(index=False)
    market = moving(np.abs(chance.standard_normal(days + 10)))
    apart = moving(chance.standard_normal(days + 10))
    day = rows["day"].to_numpy()
    base = np.sqrt(rows["step"]) * (0.2 + market[day]) * chance.uniform(0.5, 1.5, len(rows))
    table = pd.DataFrame(
        {
            "symbol": rows["symbol"].map("S{}".format),
            "open_ms": day * DAY_MS,
            "step": rows["step"],
            "pinball": base,
            "qlike": chance.uniform(0.3, 0.5, len(rows)),
            "inside": chance.uniform(size=len(rows)) < 0.8,
        }
    )
    ratio = (1 - skill) * (1 + 0.03 * apart[day] + 0.02 * chance.standard_normal(len(rows)))
    return table.assign(pinball=base * ratio), table


def moving(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each value and the nine after it, on the scale of one."""
    summed: NDArray[np.float64] = np.convolve(values, np.ones(10) / np.sqrt(10), "valid")
    return summed


def verdict(seed: int, *, days: int = 100, symbols: int = 5, skill: float = 0.0) -> Verdict:
    chance = np.random.default_rng(seed)
    return judge(*losses(chance, days, symbols, skill=skill), DAY_MS)


@pytest.mark.parametrize("days", [100, 250])
def test_of_200_equal_challengers_at_most_one_in_twenty_passes(days: int) -> None:
    passed = sum(verdict(seed, days=days).passed for seed in range(NULLS))
    print(f"{passed} of {NULLS} nulls of {days} days passed: {passed / NULLS:.1%}")
    assert passed <= 0.05 * NULLS


def test_a_worse_challenger_never_passes() -> None:
    assert not any(verdict(seed, skill=-0.02).passed for seed in range(50))


def test_a_better_challenger_passes() -> None:
    passed = [verdict(seed, days=250, skill=0.05) for seed in range(20)]
    assert all(made.passed for made in passed)
    assert "lower over 250 days" in passed[0].words


def refused(words: str, **changes: float | str) -> None:
    chance = np.random.default_rng(1)
    challenger, champion = losses(chance, 250, 5, skill=0.05)
    made = judge(challenger.assign(**changes), champion, DAY_MS)
    assert not made.passed
    assert words in made.words


def test_a_challenger_is_refused_for_anything_that_gets_worse() -> None:
    refused("QLIKE", qlike=0.9)
    refused("80% intervals hold 0.0%", inside=False)
    refused("not finite", pinball=np.nan)
    refused("the champion [1, 5, 10]", step=1)
    refused("no candle that both forecast", symbol="other")


def test_a_challenger_that_harms_one_symbol_is_refused() -> None:
    chance = np.random.default_rng(1)
    challenger, champion = losses(chance, 250, 5, skill=0.1)
    harmed = challenger["symbol"] == "S3"
    challenger.loc[harmed, "pinball"] = champion.loc[harmed, "pinball"] * 1.05
    made = judge(challenger, champion, DAY_MS)
    assert made.reasons == ("S3: pinball 5.0% higher",)


def test_too_few_days_show_nothing() -> None:
    chance = np.random.default_rng(1)
    made = judge(*losses(chance, 99, 5, skill=0.5), DAY_MS)
    assert "99 days that neither saw, fewer than 100" in made.words
