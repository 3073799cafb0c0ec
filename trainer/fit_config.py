"""How to train: everything that may be chosen, with the defaults that validation chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from shared.candles import MAX_CANDLES
from shared.forecasts import MAX_HORIZONS, MAX_LEVELS

Scaling = Literal["har", "level", "absolute"]
"""What a net's targets are divided by: HAR's volatility, that of 120 candles, or a constant."""

TERMS: Final = ("range-volatility-1", "range-volatility-5", "range-volatility-22")
"""Of Corsi's HAR (2009); the network sees them relative to ``LEVEL``."""

LEVEL: Final = "range-volatility-120"
RATIO: Final = "return-range-ratio"
REQUIRED: Final = (*TERMS, LEVEL, RATIO)

QUARTER: Final = ("quarter-volatility-1", "quarter-volatility-5", "quarter-volatility-10")
"""What moved a quarter ago and two: the network sees it relative to ``LEVEL`` as well."""

DEFAULT_FEATURES: Final = (
    *TERMS,
    LEVEL,
    *QUARTER,
    RATIO,
    "log-volume",
    "scaled-return",
    "scaled-gap",
    "sma-ratio",
    "rsi",
)


@dataclass(frozen=True)
class FitConfig:
    """How to train; every default was chosen on validation, see ``docs/model.md``."""

    features: tuple[str, ...] = DEFAULT_FEATURES
    sequence_length: int = 12  # steps, L
    horizons: tuple[int, ...] = (1, 5, 10)  # candles ahead, rising
    quantile_levels: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    scalings: tuple[Scaling, ...] = ("har", "level", "absolute")  # one net each
    hidden: int = 24  # of each net
    dropout: float = 0.5
    learning_rate: float = 4e-3
    weight_decay: float = 1.0  # AdamW's: decoupled, times the learning rate a step
    batch: int = 512
    max_epochs: int = 30
    patience: int = 6  # epochs without a better validation loss before training stops
    average: float = 0.98  # decay of the moving average of the weights, which is what is kept
    volatility_weight: float = 1.0  # of log volatility's squared error, beside the pinball loss
    stop_weight: float = 0.3  # of it in the validation loss
    drift_share: float = 0.25  # of the training median; a full one is mostly noise
    ratio_power: float = 0.8  # how far spreads follow the window's own return-range ratio
    reach: float = 1.5  # deviations of volatility's level over which "absolute" is trusted
    validation_share: float = 0.15  # newest share of the times, for early stopping

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
    def window_length(self) -> int:
        """Candles of a window, T; raises ``ValueError`` for unknown features or too many."""
        from trainer import features  # noqa: PLC0415 - torch takes seconds

        length = features.window_length(self.features, self.sequence_length)
        if length > MAX_CANDLES:
            raise ValueError(
                f"sequence_length: expected a window of at most {MAX_CANDLES} candles, got {length}"
            )
        return length

    @property
    def median(self) -> int:
        """Index of the median among the levels."""
        return self.quantile_levels.index(0.5)

    def index(self, feature: str) -> int:
        """Return a feature's column."""
        return self.features.index(feature)
