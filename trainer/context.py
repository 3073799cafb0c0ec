"""Context in training: its features, in torch for the graph, and the candles that it is read of.

The features depend on the context alone, as of the end of a window, so every step of the window is
given the same. Those of a symbol of which too little is known are 0, the one that says so included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shared.context import NEVER, Contexts, ContextSeries, ContextSpec
from shared.intervals import closes_of
from trainer.registry import MIN_VARIANCE, MONTH, TILE

if TYPE_CHECKING:
    from trainer.dataset import SymbolCandles

FEATURES: Final[Mapping[str, str]] = {
    "known": "1 where the newest 23 closes of the context symbol are known, else 0.",
    "return-1": "Its log return of 1 context candle.",
    "return-5": "Its log return of 5 context candles.",
    "return-22": "Its log return of 22 context candles.",
    "level": "Log of its newest close over the geometric mean of those known, 128 at most.",
    "volatility-5": "Log of the root mean squared return of 5 over that of 22 context candles.",
    "volatility-22": "Log of the root mean squared return of 22 context candles over 1 %.",
}
"""Features of each context symbol, with what they are."""

RETURNS: Final = (1, 5, MONTH)
WEEK: Final = 5
USUAL: Final = 0.01
QUIET_SHARE: Final = 0.01
"""Floor of the mean of 5, as a share of that of 22: of a context that stands still."""

FORGOTTEN: Final = 0.25
"""Share of the training windows that are shown without their context: a model must work without."""


def inputs_of(spec: ContextSpec | None) -> dict[str, str]:
    """Return the names of the context's features with descriptions, by symbol and feature."""
    return {
        f"{symbol} {name}": text
        for symbol in (spec.symbols if spec else ())
        for name, text in FEATURES.items()
    }


def features_of(closes: Tensor) -> Tensor:
    """Return the features of contexts, (B, K x 7) in float32: all of a symbol, then of the next.

    Args:
        closes: newest closes, oldest first, (B, C, K); not above 0, as NaN, where unknown.
    """
    is_known = closes > 0
    logs = torch.log(torch.where(is_known, closes.to(torch.float64), 1.0))  # (B, C, K)
    counted = is_known.to(torch.float64)
    known = counted[:, -MONTH - 1 :].amin(dim=1)  # (B, K)
    newest = logs[:, -1]
    returns = [newest - logs[:, -1 - candles] for candles in RETURNS]
    level = newest - logs.sum(dim=1) / counted.sum(dim=1).clamp_min(1.0)
    squares = (logs[:, -MONTH:] - logs[:, -MONTH - 1 : -1]) ** 2  # (B, 22, K)
    month = squares.mean(dim=1).clamp_min(MIN_VARIANCE)
    week = torch.maximum(squares[:, -WEEK:].mean(dim=1), QUIET_SHARE * month)
    logs_of_means = _log(torch.cat([week / month, month / USUAL**2], dim=1))
    short, long = torch.chunk(logs_of_means, 2, dim=1)
    values = torch.stack([known, *returns, level, 0.5 * short, 0.5 * long], dim=2)  # (B, K, 7)
    return (values * known[:, :, None]).flatten(1).to(torch.float32)


def beside(features: Tensor, closes: Tensor) -> Tensor:
    """Return features (B, L, F) with those of contexts (B, C, K) beside them, at every step."""
    made = features_of(closes)[:, None].expand(-1, features.shape[1], -1)
    return torch.cat([features, made], dim=2)


def _log(values: Tensor) -> Tensor:
    """Return the logarithms of (B, n), taken of a multiple of ``TILE`` a window; see there."""
    count = values.shape[1]
    padded = functional.pad(values, (0, -count % TILE), value=1.0)
    return torch.log(padded)[:, :count]


@dataclass(frozen=True)
class Around:
    """What surrounds a symbol's candles: when they close, and the context as of then."""

    close_ms: NDArray[np.int64]  # (n,), UTC
    contexts: Contexts

    def rows(self, part: slice | NDArray[np.int64]) -> Around:
        """Return that of some of the candles."""
        return Around(self.close_ms[part], self.contexts)


def series_of(candles: SymbolCandles, interval: str) -> ContextSeries:
    """Return a symbol's candles as context."""
    close_ms = closes_of(candles.open_ms, candles.close_ms, interval)
    return ContextSeries.of(interval, candles.open_ms, close_ms, candles.candles[:, 3])


def join(candles: SymbolCandles, interval: str, contexts: Contexts) -> SymbolCandles:
    """Return a symbol's candles with their context."""
    close_ms = closes_of(candles.open_ms, candles.close_ms, interval)
    return replace(candles, around=Around(close_ms, contexts))


def without_context(symbols: Mapping[str, SymbolCandles]) -> dict[str, SymbolCandles]:
    """Return candles as a model sees them that knows nothing of what surrounds them."""
    return {name: replace(candles, around=None) for name, candles in symbols.items()}


def require(spec: ContextSpec, series: Mapping[str, ContextSeries], place: str) -> None:
    """Raise ``ValueError`` unless a place has candles of all symbols of a context."""
    missing = [symbol for symbol in spec.symbols if symbol not in series]
    if missing:
        raise ValueError(
            f"context: expected {spec.interval} candles of {', '.join(spec.symbols)} in {place}, "
            f"got none of {', '.join(missing)}"
        )


def coverage(symbols: Mapping[str, SymbolCandles], spec: ContextSpec) -> dict[str, float]:
    """Return the share of the candles that each context symbol is known as of."""
    known = np.zeros(len(spec.symbols))
    count = 0
    for candles in symbols.values():
        if candles.around:
            series, times = candles.around.contexts.series, candles.around.close_ms
            known += [
                (series[name].as_of(times, 1)[1] > NEVER).sum() if name in series else 0
                for name in spec.symbols
            ]
            count += len(times)
    return dict(zip(spec.symbols, (known / max(count, 1)).tolist(), strict=True))
