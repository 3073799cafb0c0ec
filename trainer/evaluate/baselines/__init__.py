"""Classical methods that the network is measured against, each walked forward."""

from typing import Final

NAMES: Final = (
    "persistence",
    "drift",
    "rolling",
    "ewma",
    "garch",
    "gjr",
    "har",
    "har-time",
    "har-levels",
    "lstm",
    "arima",
    "ets",
)
"""Names of the baselines for ``--baselines``; ``baselines.run`` holds the methods, and takes
seconds to import."""

OF_CLASSES: Final = ("har", "har-time", "ewma", "garch", "gjr")
"""The strong ones, by which ``evaluate --all`` measures many symbols within minutes."""
