"""A bundle against every classical method, on every class of candles in a folder: one matrix.

Symbols and times are those that no bundle trained from the folder has seen; see ``trainer.panels``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shared.candles import DAY_MS
from shared.forecaster import Forecaster, Prediction
from shared.shortfall import shortfalls
from shared.window import held
from trainer.dataset import SymbolCandles
from trainer.evaluate import backtest, tail_tests
from trainer.evaluate.baselines.har import least_variance
from trainer.evaluate.baselines.run import BASELINES
from trainer.evaluate.baselines.walk import Baseline, Walk, past_moves, walked
from trainer.evaluate.evaluation import MODEL, WITHOUT_CONTEXT, Part
from trainer.evaluate.losses import pinball, qlike
from trainer.evaluate.realised import mean_ahead, range_variances
from trainer.evaluate.skill import BLOCK, ratio_interval
from trainer.panels import Island, Panel, positions

Floats = NDArray[np.float64]

HISTORY: Final = 300
"""Candles that the baselines are first fitted on."""

FITS: Final = 8
"""Refits of a baseline over an island's forecasts, at most; half a year apart at least."""

LEAST_REFIT: Final = 126

SLOW: Final = frozenset({"garch", "gjr"})
SLOW_ISLANDS: Final = 12
"""Islands of a class on which the baselines that take minutes are measured."""

SLOW_ROWS: Final = 1500

TEST_ROWS: Final = 250
"""Forecasts of a symbol that the tests of its tail ask for."""

REFUSED: Final = 0.05
"""Largest p value at which a test refuses."""

CURRENCIES: Final = frozenset(
    {"AUD", "CAD", "CHF", "EUR", "GBP", "JPY", "NZD", "USD", "XAG", "XAU"}
)
"""Codes (ISO 4217) of which a pair is a symbol of six letters."""

CROSS_SECTION: Final = 5
"""Symbols at a time that an information coefficient asks for."""

CRISIS: Final = 0.1
"""Share of a class's months, those of the largest moves, that count as a crisis."""


class Cell(Part):
    """The model against one method, in one loss, class and horizon."""

    group: str
    step: int
    loss: str
    baseline: str
    skill: float  # % lower than the baseline's
    low: float  # ends of the 95 % interval, by blocks of dates
    high: float
    calm: float  # outside crisis months
    median: float  # of the symbols' own
    rows: int
    symbols: int
    dates: int


class Tail(Part):
    """How the model's quantiles held, in one class and horizon."""

    group: str
    step: int
    rows: int
    inside_80: float  # %
    inside_90: float
    hit_1: float  # % of outcomes below the 1 % quantile
    hit_2_5: float
    kupiec: float | None  # % of symbols whose 1 % hits Kupiec's test does not refuse
    christoffersen: float | None  # % of symbols whose hits do not follow each other
    dynamic_quantile: float | None  # % of symbols whose hits nothing foretells
    es_ratio: float  # mean return below the 2.5 % quantile over the forecast one
    rmse_ratio: float  # of the median, over persistence's
    ic: float | None  # mean correlation of median and return over the symbols of a time
    rank_ic: float | None  # of their ranks
    volatility_r2: float  # share of the realised volatility's variance that the forecast explains
    volatility_mae: float  # %, of the mean realised volatility


class Matrix(Part):
    """All figures of ``evaluate --all``; its JSON file."""

    made_at_ms: int
    model_version: str
    part: str
    cells: list[Cell]
    tails: list[Tail]


@dataclass(frozen=True)
class Losses:
    """What methods lost on one island, at one horizon; None where a method was not measured."""

    symbol: str
    open_ms: NDArray[np.int64]  # (N,)
    returns: Floats  # (N,)
    quantiles: Floats  # (N, Q), the model's
    volatility: Floats  # (N,), the model's, per candle
    realised: Floats  # (N,), per candle
    by_method: Mapping[str, tuple[Floats, Floats]]  # pinball (N,), QLIKE (N,)


def evaluate(
    forecaster: Forecaster,
    panels: Sequence[Panel],
    part: str,
    baselines: Sequence[str],
    kept_out: frozenset[str],
    made_at_ms: int,
    advance: Callable[[str], object] = str,
) -> Matrix:
    """Return the matrix over a part of the data.

    Args:
        forecaster: the model under test.
        panels: the data.
        part: validation or test.
        baselines: names of ``baselines.run.BASELINES``.
        kept_out: symbols that are test whatever their hash.
        made_at_ms: now, UTC.
        advance: called with the name of each panel that is done.
    """
    found: dict[str, dict[str, list[tuple[int, Losses]]]] = {}  # by file and kind of market
    for panel in panels:
        kinds = found.setdefault(panel.name, {})
        slow = 0
        for island in panel.islands:
            at = positions(panel, island, part, HISTORY, max(forecaster.horizons), kept_out)
            if len(at) < 2 * max(forecaster.horizons):
                continue
            slow += 1
            names = [name for name in baselines if name not in SLOW or slow <= SLOW_ISLANDS]
            losses = kinds.setdefault(_kind(panel, island.symbol), [])
            losses += _losses(forecaster, panel.interval, island, at, names)
        advance(panel.name)
    cells: list[Cell] = []
    tails: list[Tail] = []
    for group, rows in _groups(found):
        for step in forecaster.horizons:
            islands = [losses for ahead, losses in rows if ahead == step]
            cells += _cells(group, step, islands)
            tails.append(_tail(group, step, islands, forecaster.quantile_levels))
    return Matrix(
        made_at_ms=made_at_ms,
        model_version=forecaster.model_version,
        part=part,
        cells=cells,
        tails=tails,
    )


def _kind(panel: Panel, symbol: str) -> str:
    """Return the kind of a symbol's market, of which a file may hold several."""
    if len(symbol) == 6 and {symbol[:3], symbol[3:]} <= CURRENCIES:
        return "currencies"
    return "every day" if panel.weekends else "others"


def _groups(
    found: Mapping[str, Mapping[str, list[tuple[int, Losses]]]],
) -> Iterator[tuple[str, list[tuple[int, Losses]]]]:
    """Yield each file with its losses, and each kind of market of one that holds several."""
    for name, kinds in found.items():
        rows = [losses for some in kinds.values() for losses in some]
        if rows:
            yield name, rows
        if len(kinds) > 1:
            for kind, some in kinds.items():
                yield f"{name}: {kind}", some


def _losses(
    forecaster: Forecaster,
    interval: str,
    island: Island,
    at: NDArray[np.int64],
    names: Sequence[str],
) -> Iterator[tuple[int, Losses]]:
    first, stop = int(at[0]), int(at[-1]) + 1
    candles = island.candles.candles
    levels = np.asarray(forecaster.quantile_levels)
    made = {MODEL: backtest.predict_all(forecaster, island.candles, first, stop, interval)}
    if forecaster.context:
        blind = replace(island.candles, around=None)
        made[WITHOUT_CONTEXT] = backtest.predict_all(forecaster, blind, first, stop, interval)
    for name in names:
        baseline, until = BASELINES[name](), min(stop, first + SLOW_ROWS) if name in SLOW else stop
        made[baseline.name] = _walked(baseline, island.candles, first, until, forecaster)
    log_close, ranges = np.log(candles[:, 3]), range_variances(candles)
    floor = least_variance(ranges)
    rows = np.arange(first, stop)
    for j, step in enumerate(forecaster.horizons):
        returns = past_moves(log_close, step)[rows]
        realised = np.maximum(mean_ahead(ranges, rows, step), floor[rows])
        by_method = {}
        for method, prediction in made.items():
            some = slice(0, len(prediction.volatility))
            quantiles = prediction.log_return[:, j].astype(np.float64)
            variance = np.maximum(
                prediction.volatility[:, j].astype(np.float64) ** 2, floor[rows[some]]
            )
            by_method[method] = (
                pinball(returns[some], quantiles, levels).mean(axis=1),
                qlike(realised[some], variance),
            )
        open_ms = island.candles.open_ms[rows]
        quantiles = made[MODEL].log_return[:, j].astype(np.float64)
        yield (
            step,
            Losses(
                island.symbol, open_ms, returns, quantiles,
                made[MODEL].volatility[:, j].astype(np.float64), np.sqrt(realised), by_method,
            ),
        )  # fmt: skip


def _walked(
    baseline: Baseline, candles: SymbolCandles, first: int, stop: int, forecaster: Forecaster
) -> Prediction:
    """Return a baseline's forecasts at candles ``first`` to ``stop - 1``."""
    refit = max(LEAST_REFIT, -(-(stop - first) // FITS))
    walk = Walk(forecaster.horizons, forecaster.quantile_levels, first, refit)
    return walked(baseline, candles.open_ms[:stop], held(candles.candles[:stop]), walk)


def _cells(group: str, step: int, islands: Sequence[Losses]) -> Iterator[Cell]:
    crisis = _crisis_months(islands)
    methods = dict.fromkeys(name for island in islands for name in island.by_method)
    for baseline in methods:
        some = [island for island in islands if baseline in island.by_method]
        for number, loss in enumerate(("pinball", "qlike")):
            if baseline != MODEL:
                yield _cell(group, step, loss, number, baseline, some, crisis)


def _cell(
    group: str,
    step: int,
    loss: str,
    number: int,
    baseline: str,
    islands: Sequence[Losses],
    crisis: frozenset[int],
) -> Cell:
    days, mine, others, ratios = [], [], [], []
    for island in islands:
        theirs = island.by_method[baseline][number]
        ours = island.by_method[MODEL][number][: len(theirs)]
        known = np.isfinite(ours) & np.isfinite(theirs)
        days.append(island.open_ms[: len(theirs)][known] // DAY_MS)
        mine.append(ours[known])
        others.append(theirs[known])
        if others[-1].sum() > 0:
            ratios.append(1 - mine[-1].sum() / others[-1].sum())
    day, our, their = np.concatenate(days), np.concatenate(mine), np.concatenate(others)
    dates, index = np.unique(day, return_inverse=True)
    above, below = (np.bincount(index, losses).astype(np.float64) for losses in (our, their))
    block = int(np.clip(len(dates) // 10, 1, BLOCK))
    low, high = ratio_interval(above, below, block=block)
    calm = ~np.isin(_month(dates), list(crisis))
    return Cell(
        group=group,
        step=step,
        loss=loss,
        baseline=baseline,
        skill=100 * (1 - above.sum() / below.sum()),
        low=100 * (1 - high),
        high=100 * (1 - low),
        calm=100 * (1 - above[calm].sum() / below[calm].sum()),
        median=100 * float(np.median(ratios)),
        rows=len(day),
        symbols=len({island.symbol for island in islands}),
        dates=len(dates),
    )


def _month(days: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the months of days since 1970, as numbers."""
    return days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _crisis_months(islands: Sequence[Losses]) -> frozenset[int]:
    """Return the months of the largest moves: those a tenth of the months, in a class."""
    months = np.concatenate([_month(island.open_ms // DAY_MS) for island in islands])
    moves = np.concatenate(
        [np.abs(island.returns) / np.abs(island.returns).mean().clip(1e-12) for island in islands]
    )
    names, index = np.unique(months, return_inverse=True)
    mean = np.bincount(index, moves) / np.bincount(index)
    count = int(CRISIS * len(names))
    return frozenset(names[np.argsort(mean)[len(names) - count :]].tolist())


def _tail(group: str, step: int, islands: Sequence[Losses], levels: Sequence[float]) -> Tail:
    returns = np.concatenate([island.returns for island in islands])
    quantiles = np.concatenate([island.quantiles for island in islands])
    q = dict(zip(levels, quantiles.T, strict=True))
    hits = {level: returns <= q[level] for level in (0.01, 0.025)}
    worst = hits[0.025]
    shortfall = shortfalls(levels, quantiles)[:, 1]
    tests = np.array([_tests(island, levels.index(0.01), step) for island in islands
                      if len(island.returns) >= TEST_ROWS])  # fmt: skip
    kupiec, christoffersen, dynamic_quantile = (
        100 * (tests > REFUSED).mean(axis=0) if len(tests) else [None] * 3
    )
    median = q[0.5]
    ic, rank_ic = _information(
        np.concatenate([island.open_ms for island in islands]), median, returns
    )
    return Tail(
        group=group,
        step=step,
        rows=len(returns),
        inside_80=100 * float(((returns >= q[0.1]) & (returns <= q[0.9])).mean()),
        inside_90=100 * float(((returns >= q[0.05]) & (returns <= q[0.95])).mean()),
        hit_1=100 * float(hits[0.01].mean()),
        hit_2_5=100 * float(worst.mean()),
        kupiec=kupiec,
        christoffersen=christoffersen,
        dynamic_quantile=dynamic_quantile,
        es_ratio=float(returns[worst].mean() / shortfall[worst].mean()),
        rmse_ratio=float(np.sqrt(((returns - median) ** 2).mean() / (returns**2).mean())),
        ic=ic,
        rank_ic=rank_ic,
        **_volatility(islands),
    )


def _tests(island: Losses, column: int, step: int) -> tuple[float, float, float]:
    """Return the p values of the tests of the 1 % quantile's hits."""
    quantiles = island.quantiles[:, column]
    hits = island.returns <= quantiles
    return (
        tail_tests.kupiec(hits, 0.01),
        tail_tests.christoffersen(hits),
        tail_tests.dynamic_quantile(hits, quantiles, 0.01, step),
    )


def _information(
    open_ms: NDArray[np.int64], median: Floats, returns: Floats
) -> tuple[float | None, float | None]:
    """Return the information coefficients: how the medians of a time order the returns."""
    order = np.argsort(open_ms, kind="stable")
    cuts = np.flatnonzero(np.diff(open_ms[order])) + 1
    found = []
    for rows in np.split(order, cuts):
        ours, came = median[rows], returns[rows]
        if len(rows) >= CROSS_SECTION and ours.std() > 0 and came.std() > 0:
            ranks = stats.rankdata(ours), stats.rankdata(came)
            found.append([np.corrcoef(ours, came)[0, 1], np.corrcoef(*ranks)[0, 1]])
    if not found:
        return None, None
    ic, rank_ic = np.mean(found, axis=0).tolist()
    return ic, rank_ic


def _volatility(islands: Sequence[Losses]) -> dict[str, float]:
    """Return how near the forecast volatility is to the realised one."""
    ours = np.concatenate([island.volatility for island in islands])
    came = np.concatenate([island.realised for island in islands])
    known = np.isfinite(ours) & np.isfinite(came)
    apart, came = came[known] - ours[known], came[known]
    return {
        "volatility_r2": float(1 - (apart**2).sum() / ((came - came.mean()) ** 2).sum()),
        "volatility_mae": 100 * float(np.abs(apart).mean() / came.mean()),
    }
