"""How to train: everything that may be chosen, with the defaults that validation chose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shared.candles import DAY_MS, INTERVALS_MS, MAX_CANDLES
from shared.context import ContextSpec
from shared.forecasts import MAX_HORIZONS, MAX_LEVELS

TERMS: Final = ("range-volatility-1", "range-volatility-5", "range-volatility-22")
"""Of Corsi's HAR (2009); the network sees them relative to ``LEVEL``."""

LEVEL: Final = "range-volatility-120"
YEARS: Final = "range-volatility-480"
SLOTS: Final = (
    "slot-ahead-1",
    "slot-ahead-5",
    "slot-ahead-10",
    "slot-before-1",
    "slot-before-5",
    "slot-before-22",
)
"""What followed and preceded this time of day in four weeks; further terms of the HAR."""

HABITS: Final = (
    "move-ratio-1",
    "move-ratio-5",
    "move-ratio-10",
    "still-share",
    "volatility-spread",
    "volatility-memory-1",
    "volatility-memory-10",
)
"""How this series has moved for long: what a HAR of its own would have learned of it."""

DRIFT: Final = "drift-480"
"""How far this series has run for long; its medians may follow."""

RATIO: Final = "return-range-ratio"
REQUIRED: Final = (*TERMS, LEVEL, RATIO)

QUARTER: Final = ("quarter-volatility-1", "quarter-volatility-5", "quarter-volatility-10")
"""What moved a quarter ago and two."""

HAR: Final = (*TERMS, YEARS, *SLOTS, *QUARTER)
"""Terms of the linear HAR that the network's targets are divided by, those that there are:
logarithms of volatility, which the network sees relative to ``LEVEL``."""

LONGER: Final = (512, 1024, MAX_CANDLES)
"""Candles of windows that hold more than a forecast needs."""

LONG_LEVEL: Final = 480
"""Candles of the level of ``YEARS``."""

LEAST_STEPS: Final = 50
PASSES: Final = 2
"""Of an epoch: as many steps, or as often through the windows, as ``epoch_steps`` allow."""

FEW: Final = 5_000
MANY: Final = 500_000
"""Windows at which the pairs below hold; see ``FitConfig.adapted``."""

DRIFT_FROM: Final = 50_000
"""Windows from which on a network is shown how far series ran: of a few series none can learn which
of their drifts last."""

DROPOUTS: Final = (0.5, 0.2)
RATES: Final = (2e-3, 8e-3)
QLIKE_OF_MANY: Final = 0.5
HAR_OF_FEW: Final = 0.3
LEAST_HAR: Final = 0.05
"""A smaller share of HAR is left out."""

WEEK_MS: Final = 7 * DAY_MS
WEEK_MARGIN: Final = 32
"""Candles that features read before a slot of a week ago."""

DEFAULT_FEATURES: Final = (
    *TERMS,
    LEVEL,
    *QUARTER,
    RATIO,
    "log-volume",
    "gap-length",
    "usual-gap",
    "interval",
    "scaled-return",
    "scaled-gap",
    "sma-ratio",
    "rsi",
    YEARS,
    *SLOTS,
    "slots-known",
    *HABITS,
    DRIFT,
)
"""In the order in which the graph makes them: those of each step, those of the window."""


@dataclass(frozen=True)
class FitConfig:
    """How to train; every default was chosen on validation, see ``docs/model.md``."""

    features: tuple[str, ...] = DEFAULT_FEATURES
    sequence_length: int = 12  # steps, L
    horizons: tuple[int, ...] = (1, 5, 10)  # candles ahead, rising
    quantile_levels: tuple[float, ...] = (
        0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99,
    )  # fmt: skip
    hidden: int = 48
    dropout: float | None = None  # where None, by the number of windows: see ``adapted``
    learning_rate: float | None = None
    weight_decay: float = 0.2  # AdamW's: decoupled, times the learning rate a step
    batch: int = 1024  # windows of a step, drawn by class
    epoch_steps: int = 400  # steps between two looks at the validation loss; fewer of few windows
    max_epochs: int = 10
    patience: int = 3  # epochs without a better validation loss before training stops
    average: float = 0.998  # decay of the moving average of the weights, which is what is kept
    volatility_weight: float = 0.5  # of the volatility's loss, beside the pinball loss
    qlike_share: float | None = None  # of that loss; the rest is the logarithm's squared error
    har_share: float | None = None  # of the pooled HAR in a model without the built-in one
    stop_weight: float = 0.3  # of it in the validation loss
    drift_share: float = 0.25  # of the training median; a full one is mostly noise
    follows_drift: bool | None = None  # whether the network is shown the series' own drift
    ratio_power: float = 0.8  # how far spreads follow the window's own return-range ratio
    windows: int = 1_000_000  # drawn of a folder of many symbols
    validation_share: float = 0.15  # newest share of the times, for early stopping
    context: ContextSpec | None = None  # closes of other symbols that the network reads beside

    def __post_init__(self) -> None:
        """Raise ``ValueError`` naming the setting that cannot be."""
        missing = [name for name in REQUIRED if name not in self.features]
        if missing:
            raise ValueError(
                f"features: expected {', '.join(REQUIRED)} among them, no {missing[0]}"
            )
        for name, values in (("horizons", self.horizons), ("levels", self.quantile_levels)):
            if not values or list(values) != sorted(set(values)):
                raise ValueError(f"{name}: expected rising numbers, got {values}")
        if len(self.horizons) > MAX_HORIZONS or len(self.quantile_levels) > MAX_LEVELS:
            raise ValueError(
                f"expected at most {MAX_HORIZONS} horizons and {MAX_LEVELS} levels, which a "
                f"forecast's message holds, got {len(self.horizons)} and "
                f"{len(self.quantile_levels)}"
            )
        if self.horizons[-1] > MAX_CANDLES:
            raise ValueError(f"horizons: expected at most {MAX_CANDLES}, got {self.horizons[-1]}")
        if self.horizons[0] < 1:
            raise ValueError(f"horizons: expected at least 1, got {self.horizons[0]}")
        if 0.5 not in self.quantile_levels or not 0 < self.quantile_levels[0] < 1 > max(
            self.quantile_levels
        ):
            raise ValueError(
                f"levels: expected 0.5 and others in (0, 1), got {self.quantile_levels}"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The network's inputs: the features of the candles, then those of the context."""
        if self.context is None:
            return self.features
        from trainer import context  # noqa: PLC0415 - torch takes seconds

        return (*self.features, *context.inputs_of(self.context))

    @property
    def window_length(self) -> int:
        """Candles of a window, T; raises ``ValueError`` for unknown features or too many."""
        from trainer import features  # noqa: PLC0415 - torch takes seconds

        length = features.window_length(self.features, self.sequence_length)
        if length > MAX_CANDLES:
            raise ValueError(
                f"sequence_length: expected a window of at most {MAX_CANDLES} candles, got {length}"
            )
        return length

    def window_lengths(self, interval: str) -> tuple[int, ...]:
        """Return the lengths that a window of an interval's candles may have, rising.

        A forecast needs the first; each longer one brings what the shorter lacks: the long level,
        and for times of day a week at least. Raises ``ValueError`` as ``window_length`` does.
        """
        from trainer import features  # noqa: PLC0415 - torch takes seconds

        lengths = [self.window_length]
        spacing_ms = INTERVALS_MS[interval]
        week = WEEK_MS // spacing_ms + WEEK_MARGIN if spacing_ms < DAY_MS else 0
        wanted = min(max(week, LONG_LEVEL), features.reach(self.features))
        for length in LONGER:
            if lengths[-1] < min(wanted, length):
                lengths.append(length)
        return tuple(lengths)

    def adapted(self, windows: int) -> FitConfig:
        """Return the config with what was left open chosen for so many windows.

        What validation chose for ``FEW`` windows and for ``MANY``, and between them by the
        logarithm of their number: few windows are soon known by heart, their QLIKE is that of a
        few shocks, and a linear HAR beside the network keeps it from being far off.
        """
        many = min(math.log(max(windows, FEW) / FEW) / math.log(MANY / FEW), 1.0)  # 0 to 1
        har_share = HAR_OF_FEW * (1 - many)
        chosen = {
            "dropout": DROPOUTS[0] + many * (DROPOUTS[1] - DROPOUTS[0]),
            "learning_rate": RATES[0] * (RATES[1] / RATES[0]) ** many,
            "qlike_share": QLIKE_OF_MANY * many,
            "har_share": har_share if har_share >= LEAST_HAR else 0.0,
            "follows_drift": windows >= DRIFT_FROM,
        }
        return replace(
            self, **{name: value for name, value in chosen.items() if getattr(self, name) is None}
        )

    def steps_of(self, windows: int) -> int:
        """Return the steps between two looks at the validation loss, with so many windows."""
        return min(self.epoch_steps, max(LEAST_STEPS, PASSES * windows // self.batch))

    @property
    def median(self) -> int:
        """Index of the median among the levels."""
        return self.quantile_levels.index(0.5)

    def some_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of the names that are features here, in their order."""
        return tuple(name for name in names if name in self.features)

    def index(self, feature: str) -> int:
        """Return a feature's column."""
        return self.features.index(feature)
