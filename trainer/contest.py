"""Challenger against champion, on candles that neither has seen: forecasts, losses, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd

from shared.bundle import Bundle
from shared.candles import DAY_MS, INTERVALS_MS
from shared.context import Contexts, ContextSpec
from shared.forecaster import OnnxForecaster
from shared.forecasts import MEDIAN
from trainer.context import join
from trainer.dataset import Source, SymbolCandles
from trainer.evaluate import backtest, losses
from trainer.evaluate.forecast_table import KEYS, levels_of, quantile_column
from trainer.gate import NOMINAL, Rule, Verdict, judge

MOST_JUDGED: Final = 500_000
"""Most candles from which both models forecast for the gate, some 1 GB of losses."""


def cut(source: Source, champion: Bundle, share: float) -> int:
    """Return the midnight from which on neither challenger nor champion has seen a candle.

    Args:
        source: the candles.
        champion: what serves now.
        share: newest part of the distinct opening times, for the gate.
    """
    times = np.unique(np.concatenate([held.open_ms for held in source.symbols.values()]))
    cut_ms = int(np.quantile(times, 1 - share))
    cut_ms = max(cut_ms, unseen_from(source, champion))
    return -(-cut_ms // DAY_MS) * DAY_MS


def unseen_from(source: Source, model: Bundle) -> int:
    """Return the time from which on a model has seen no candle of the symbols, UTC."""
    seen = model.config.data
    return seen.last_ms + 1 if set(seen.symbols) & set(source.symbols) else 0


def compare(
    source: Source, challenger: Bundle, champion: Bundle, start_ms: int, rule: Rule,
    context: Callable[[ContextSpec], Contexts] | None = None,
) -> Verdict:  # fmt: skip
    """Return the gate's verdict over the candles from a time on.

    Two models may have different levels; those that both have count. Of more candles than
    ``MOST_JUDGED`` one of n does. Each model reads the context that it was trained on, of what
    ``context`` gives; without that, none.
    """
    levels = set(challenger.config.quantile_levels) & set(champion.config.quantile_levels)
    if challenger.config.model_version == champion.config.model_version:
        return Verdict(("the training chose the champion itself",))
    tail = min(levels - {MEDIAN}, key=lambda level: abs(level - (1 - NOMINAL) / 2), default=MEDIAN)
    if not (tail < MEDIAN and 1 - tail in {round(level, 6) for level in levels}):
        return Verdict(("it has no interval in common with the champion",))
    every = backtest.thinning(source.symbols, start_ms, MOST_JUDGED)
    mine, other = (
        _losses(OnnxForecaster(model), _with(source, model, context), start_ms, levels, tail, every)
        for model in (challenger, champion)
    )
    return judge(mine, other, INTERVALS_MS[source.interval], replace(rule, nominal=1 - 2 * tail))


def _with(
    source: Source, model: Bundle, context: Callable[[ContextSpec], Contexts] | None
) -> Source:
    """Return the candles as a model reads them, its context around them."""
    spec = model.config.context
    if spec is None or context is None:
        return source
    contexts = context(spec)
    return replace(
        source,
        symbols={
            name: join(candles, source.interval, contexts)
            for name, candles in source.symbols.items()
        },
    )


def _losses(
    forecaster: OnnxForecaster,
    source: Source,
    start_ms: int,
    levels: set[float],
    tail: float,
    every: int,
) -> pd.DataFrame:
    """Return the losses that the gate looks at, symbol by symbol, so that memory stays small."""
    parts = []
    for name, held in source.symbols.items():
        symbol: Mapping[str, SymbolCandles] = {name: held}
        table = losses.join_outcomes(
            backtest.run(forecaster, symbol, start_ms, interval=source.interval, every=every),
            symbol,
        )
        others = [quantile_column(level) for level in levels_of(table) if level not in levels]
        table = table.drop(columns=others)
        inside = table["close"].between(
            table[quantile_column(tail)], table[quantile_column(round(1 - tail, 6))]
        )
        parts.append(
            losses.losses(table)[[*KEYS, "pinball", "qlike"]].assign(inside=inside.to_numpy())
        )
    return pd.concat(parts, ignore_index=True)
