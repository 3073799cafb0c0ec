"""The classical methods that the network is measured against, each walked forward."""

from typing import Final

NAMES: Final = (
    "persistence",
    "drift",
    "rolling",
    "ewma",
    "garch",
    "gjr",
    "har",
    "har-levels",
    "lstm",
    "arima",
    "ets",
)
"""Every baseline as ``--baselines`` calls it; ``trainer.baselines.run`` holds what they are, and
takes seconds to import."""
