"""Evaluates forecasts against outcomes: losses, skill, calibration, by year and symbol. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from trainer.evaluate import losses as scoring
from trainer.evaluate import skill
from trainer.evaluate.forecast_table import KEYS, levels_of, quantile_column

MODEL: Final = "Candlecast"
"""Name of the network among the methods."""

WITHOUT_CONTEXT: Final = "Candlecast without context"
"""Name of the network that is shown nothing of the context that it could read."""

SKILL_LOSSES: Final = ("pinball", "crps", "qlike", "squared")
"""Losses in which skill is measured; columns of ``losses.losses``."""

GROUP_LOSSES: Final = ("pinball", "qlike", "squared")
"""Losses in which skill is measured by year and by symbol."""

MAIN_BASELINES: Final = ("GARCH-t", "HAR", "persistence")
"""Baselines in the comparison by symbol when there are more than ``MANY`` symbols."""

MANY: Final = 40
"""Most symbols that are compared with every baseline."""


class Part(BaseModel):
    """A part of a report: read, never changed."""

    model_config = ConfigDict(frozen=True)


class Scores(Part):
    """One method's mean losses at one horizon; None for a loss of what it does not forecast."""

    method: str
    step: int
    rows: int
    pinball: float | None
    crps: float | None
    qlike: float | None
    mse: float | None  # of log returns
    rmse: float | None
    mae: float | None
    price_mse: float | None  # in the quote currency
    price_rmse: float | None
    price_mae: float | None
    covered: dict[int, dict[str, float]]  # nominal per cent -> inside, below, above


class Comparison(Part):
    """The network against one baseline, in one loss at one horizon."""

    baseline: str
    loss: str
    step: int
    skill: float
    low: float
    high: float
    dm: float | None
    p_value: float | None
    rows: int
    dates: int


class Group(Part):
    """One year or one symbol at one horizon."""

    kind: str  # year or symbol
    name: str
    step: int
    rows: int
    rmse_ratio: float  # to persistence's
    covered: dict[int, float]  # nominal per cent -> share inside
    skills: list[Comparison]


class Calibration(Part):
    """Calibration of the network's quantiles at one horizon."""

    step: int
    levels: list[float]
    observed: list[float]  # share of outcomes at or below each quantile
    low: list[float]  # ends of its bootstrap interval
    high: list[float]
    pit_edges: list[float]
    pit_density: list[float]


class Evaluation(Part):
    """The figures of a report."""

    first_ms: int  # open_ms of the first and last candle forecast from, UTC
    last_ms: int
    symbols: list[str]
    horizons: list[int]
    rows: int  # forecasts of each method, the same ones of all
    left_out: int  # forecasts of the network that some baseline did not make
    scores: list[Scores]
    comparisons: list[Comparison]
    calibrations: list[Calibration]
    groups: list[Group]


class NothingToCompare(ValueError):
    """There is no forecast that all methods made and whose outcome is known."""


def evaluate(
    tables: Mapping[str, pd.DataFrame], symbols: Mapping[str, scoring.Symbol]
) -> Evaluation:
    """Return all figures over the rows that every method forecast and whose outcome is known.

    Args:
        tables: forecasts by method; that of ``MODEL`` is the one under test.
        symbols: the candles, by symbol.

    Raises:
        NothingToCompare: when there are no such rows.
    """
    joined = {name: scoring.join_outcomes(table, symbols) for name, table in tables.items()}
    common = _common(joined)
    joined = {name: rows.merge(common, on=KEYS) for name, rows in joined.items()}
    model = joined[MODEL]
    if model.empty:
        raise NothingToCompare(
            "no forecast that every method made and whose outcome is known: "
            "the baselines need two years of candles before their first"
        )
    losses = {name: scoring.losses(rows) for name, rows in joined.items()}
    horizons = [int(step) for step in sorted(model["step"].unique())]
    return Evaluation(
        first_ms=int(model["open_ms"].min()),
        last_ms=int(model["open_ms"].max()),
        symbols=sorted(str(name) for name in model["symbol"].unique()),
        horizons=horizons,
        rows=len(model),
        left_out=len(tables[MODEL]) - len(model),
        scores=[
            _scores(name, step, joined[name], losses[name]) for step in horizons for name in joined
        ],
        comparisons=list(_comparisons(losses, horizons, SKILL_LOSSES)),
        calibrations=[_calibration(model[model["step"] == step], step) for step in horizons],
        groups=list(_groups(model, losses, horizons)),
    )


def _common(joined: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    frames = iter(joined.values())
    common = next(frames)[KEYS]
    for rows in frames:
        common = common.merge(rows[KEYS], on=KEYS)
    return common


def _scores(method: str, step: int, joined: pd.DataFrame, losses: pd.DataFrame) -> Scores:
    rows = joined[joined["step"] == step]
    mean = losses[losses["step"] == step].drop(columns=KEYS).mean()
    spread = bool(rows[quantile_column(levels_of(rows)[0])].notna().all())
    return Scores(
        method=method,
        step=step,
        rows=len(rows),
        pinball=_number(mean["pinball"]),
        crps=_number(mean["crps"]),
        qlike=_number(mean["qlike"]),
        mse=_number(mean["squared"]),
        rmse=_number(np.sqrt(mean["squared"])),
        mae=_number(mean["absolute"]),
        price_mse=_number(mean["price_squared"]),
        price_rmse=_number(np.sqrt(mean["price_squared"])),
        price_mae=_number(mean["price_absolute"]),
        covered=_covered(rows) if spread else {},
    )


def _comparisons(
    losses: Mapping[str, pd.DataFrame], horizons: Sequence[int], names: Sequence[str]
) -> Iterator[Comparison]:
    for baseline in losses:
        for loss in names:
            for step in horizons:
                if baseline != MODEL:
                    yield from _compare(losses, baseline, loss, step)


def _compare(
    losses: Mapping[str, pd.DataFrame], baseline: str, loss: str, step: int
) -> Iterator[Comparison]:
    measured = skill.compare(losses[MODEL], losses[baseline], loss, step)
    if measured.rows:
        yield Comparison(
            baseline=baseline,
            loss=loss,
            step=step,
            skill=measured.skill,
            low=measured.low,
            high=measured.high,
            dm=_number(measured.dm),
            p_value=_number(measured.p_value),
            rows=measured.rows,
            dates=measured.dates,
        )


def _calibration(rows: pd.DataFrame, step: int) -> Calibration:
    levels = levels_of(rows)
    edges, density = scoring.pit_density(rows)
    intervals = [_share_interval(rows, level) for level in levels]
    return Calibration(
        step=step,
        levels=list(levels),
        observed=scoring.reliability(rows).tolist(),
        low=[low for low, _ in intervals],
        high=[high for _, high in intervals],
        pit_edges=edges.tolist(),
        pit_density=density.tolist(),
    )


def _share_interval(rows: pd.DataFrame, level: float) -> tuple[float, float]:
    days = pd.DataFrame(
        {"open_ms": rows["open_ms"], "below": rows["close"] <= rows[quantile_column(level)]}
    )
    sums = days.groupby("open_ms").agg(below=("below", "sum"), count=("below", "size"))
    counts = sums.to_numpy(dtype=np.float64)  # (dates, 2)
    return skill.ratio_interval(counts[:, 0], counts[:, 1])


def _groups(
    model: pd.DataFrame, losses: Mapping[str, pd.DataFrame], horizons: Sequence[int]
) -> Iterator[Group]:
    for kind, key in (("year", _year), ("symbol", _symbol)):
        names = sorted(key(model).unique())
        few = {MODEL, *(MAIN_BASELINES if len(names) > MANY else losses)}
        keys = {method: key(rows) for method, rows in losses.items() if method in few}
        for name in names:
            part = {method: losses[method][of == name] for method, of in keys.items()}
            for step in horizons:
                rows = model[(key(model) == name) & (model["step"] == step)]
                if not rows.empty:
                    yield _group(kind, name, step, rows, part)


def _year(rows: pd.DataFrame) -> pd.Series[str]:
    return pd.to_datetime(rows["open_ms"], unit="ms").dt.year.astype(str)


def _symbol(rows: pd.DataFrame) -> pd.Series[str]:
    return rows["symbol"].astype(str)


def _group(
    kind: str, name: str, step: int, rows: pd.DataFrame, losses: Mapping[str, pd.DataFrame]
) -> Group:
    error = np.log(rows["close"] / rows["predicted_close"])
    move = np.log(rows["close"] / rows["last_close"])
    return Group(
        kind=kind,
        name=name,
        step=step,
        rows=len(rows),
        rmse_ratio=float(np.sqrt((error**2).mean() / (move**2).mean())),
        covered={percent: shares["inside"] for percent, shares in _covered(rows).items()},
        skills=list(_comparisons(losses, [step], GROUP_LOSSES)),
    )


def _covered(rows: pd.DataFrame) -> dict[int, dict[str, float]]:
    intervals = scoring.central_intervals(levels_of(rows))
    return {percent: scoring.coverage(rows, ends) for percent, ends in intervals.items()}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
