"""Rules of a series beyond those of a candle: which series there are, and what may not overlap."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from shared.candles import (
    DAY_MS,
    INTERVALS_MS,
    MINUTE_MS,
    Candle,
    InvalidCandle,
    RejectReason,
)
from shared.forecaster import Models, nearest_trained

QUARTER_MS: Final = 15 * MINUTE_MS
"""Grid of intervals that are longer: sessions open at quarters of an hour, as at 9:30 or 9:15."""

SHIFT_MS: Final = 60 * MINUTE_MS
"""How far daily and longer candles may overlap: their midnights move with daylight saving."""

MONTH_MS: Final = 28 * DAY_MS
"""Shortest length of a candle of a month."""

MAX_SERIES: Final = 50_000
"""Most series of a worker: with full daily windows 950 MB, beside the 170 MB of a process."""


@dataclass(frozen=True)
class Rules:
    """What a worker takes; by default everything."""

    symbols: tuple[str, ...] = ()  # patterns such as *-USD; empty for all
    off_grid: frozenset[str] = frozenset()  # sources whose candles may open at any time
    max_series: int = MAX_SERIES
    strict_models: Models | None = None  # if given, only intervals that these were trained on

    def check(self, candle: Candle) -> None:
        """Raise ``InvalidCandle`` for a candle of a series that is not wanted, or off its grid."""
        if self.strict_models is not None:
            _require_trained(candle, self.strict_models)
        if self.symbols and not any(
            fnmatchcase(candle.symbol, pattern) for pattern in self.symbols
        ):
            raise InvalidCandle(
                RejectReason.NOT_LISTED,
                f"symbol: expected one of --allow-symbols, got {candle.symbol}",
            )
        length = INTERVALS_MS[candle.interval]
        grid = min(length, MINUTE_MS)
        if length < DAY_MS and candle.open_ms % grid and candle.source not in self.off_grid:
            raise InvalidCandle(
                RejectReason.OFF_GRID,
                f"open_ms: expected a whole minute, got {candle.open_ms}; candles of a source in "
                "--off-grid-sources may open at any time",
            )


def too_many(candle: Candle, most: int) -> InvalidCandle:
    """Return the refusal of a further series."""
    return InvalidCandle(
        RejectReason.TOO_MANY_SERIES,
        f"{candle.symbol} {candle.interval}: expected at most {most} series (--max-series)",
    )


def overlaps(open_ms: int, close_ms: int, later_open_ms: int, interval: str) -> bool:
    """Tell whether a candle lasts beyond the opening of a later one."""
    slack = SHIFT_MS if INTERVALS_MS[interval] >= DAY_MS else 0
    return open_ms < later_open_ms < close_ms - slack


def is_close(open_ms: int, later_open_ms: int, interval: str) -> bool:
    """Tell whether a candle opens so soon after another that one of them is not regular."""
    return later_open_ms - open_ms < INTERVALS_MS[interval] // 2


def is_regular(open_ms: int, close_ms: int, interval: str) -> bool:
    """Tell whether a candle is of its interval's full length and on its grid.

    Of two candles that overlap a regular one wins over one that is not, whichever comes first.
    """
    length = INTERVALS_MS[interval]
    grid = DAY_MS if length >= DAY_MS else min(length, QUARTER_MS)
    full = MONTH_MS if interval == "1mo" else length
    return open_ms % grid == 0 and close_ms - open_ms >= full


def _require_trained(candle: Candle, models: Models) -> None:
    model = models.of(candle.interval, candle.symbol)
    if nearest_trained(model.intervals, candle.interval) is not None:
        raise InvalidCandle(
            RejectReason.NO_MODEL,
            f"interval: expected one that {model.model_version} was trained on "
            f"({', '.join(model.intervals)}), got {candle.interval}; promote a model for it, or "
            "run without --strict-interval",
        )
