"""Runs baselines over all symbols, into tables like the back-test's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import pandas as pd

from trainer.evaluate.baselines.automatic import Arima, Ets
from trainer.evaluate.baselines.empirical import Drift, Ewma, Persistence, RollingQuantiles
from trainer.evaluate.baselines.garch import Garch
from trainer.evaluate.baselines.har import Har, HarTimeOfDay
from trainer.evaluate.baselines.price_level import PriceLevelLstm
from trainer.evaluate.baselines.walk import Baseline, Walk, forecast_symbol
from trainer.evaluate.losses import Symbol

BASELINES: Final[Mapping[str, Callable[[], Baseline]]] = {
    "persistence": Persistence,
    "drift": Drift,
    "rolling": RollingQuantiles,
    "ewma": Ewma,
    "garch": Garch,
    "gjr": lambda: Garch(asymmetric=True),
    "har": Har,
    "har-time": HarTimeOfDay,
    "har-levels": lambda: Har(in_levels=True),
    "lstm": PriceLevelLstm,
    "arima": Arima,
    "ets": Ets,
}
"""Baselines by their name in ``NAMES``."""


def forecast_all(
    names: Sequence[str],
    symbols: Mapping[str, Symbol],
    walk: Walk,
    advance: Callable[[str], object] = str,
) -> dict[str, pd.DataFrame]:
    """Return each baseline's table over all symbols, by the name that the report shows.

    Args:
        names: of ``BASELINES``.
        symbols: candles by symbol.
        walk: horizons, levels and refits.
        advance: called with the baseline and symbol that are done; by default nothing comes of it.
    """
    tables = {}
    for baseline in (BASELINES[name]() for name in names):
        parts = []
        for name, symbol in symbols.items():
            parts.append(forecast_symbol(baseline, name, symbol.open_ms, symbol.candles, walk))
            advance(f"{baseline.name} {name}")
        tables[baseline.name] = pd.concat(parts, ignore_index=True)
    return tables
