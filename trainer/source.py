"""The candles that a command works on, and what identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.bundle import DataSpan
from trainer.dataset import Samples, SymbolCandles, samples_of, windows
from trainer.fit_config import FitConfig


@dataclass(frozen=True)
class Source:
    """Candles by symbol, with where they are from."""

    name: str
    interval: str
    symbols: Mapping[str, SymbolCandles]

    def samples(self, config: FitConfig) -> Samples:
        """Return every window whose outcomes have all come; raises ``ValueError`` for none."""
        return samples_of(self.symbols, config.features, config.sequence_length, config.horizons)

    def windows(
        self, length: int, start_ms: int, batch: int
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Yield every window whose last candle opens at ``start_ms`` or later; all if none does.

        Args:
            length: candles of a window, T.
            start_ms: UTC.
            batch: most windows at once.
        """
        first_of = {
            name: max(int(np.searchsorted(symbol.open_ms, start_ms)), length - 1)
            for name, symbol in self.symbols.items()
        }
        if all(first_of[name] >= len(one.open_ms) for name, one in self.symbols.items()):
            first_of = dict.fromkeys(first_of, length - 1)
        for name, symbol in self.symbols.items():
            yield from windows(symbol, length, first_of[name], len(symbol.open_ms), batch)

    def span_ms(self) -> tuple[int, int]:
        """Return the opening times of the first and the last candle, UTC."""
        symbols = self.symbols.values()
        return (
            min(int(one.open_ms[0]) for one in symbols),
            max(int(one.open_ms[-1]) for one in symbols),
        )

    def until(self, stop_ms: int) -> Source:
        """Return the candles that open before ``stop_ms``; symbols without any fall out."""
        seen = {name: one.until(stop_ms) for name, one in self.symbols.items()}
        return Source(
            self.name,
            self.interval,
            {name: one for name, one in seen.items() if len(one.open_ms)},
        )


def data_span(source: Source, stop_ms: int) -> DataSpan:
    """Return what the candles before ``stop_ms`` are."""
    seen = source.until(stop_ms)
    first_ms, last_ms = seen.span_ms()
    return DataSpan(
        source=source.name,
        symbols=tuple(sorted(seen.symbols)),
        first_ms=first_ms,
        last_ms=last_ms,
        candles=sum(len(one.open_ms) for one in seen.symbols.values()),
        sha256=candles_hash(seen.symbols),
    )


def candles_hash(symbols: Mapping[str, SymbolCandles]) -> str:
    """Return the SHA-256 of candles as used: names, times and values, little-endian."""
    digest = hashlib.sha256()
    for name in sorted(symbols):
        digest.update(name.encode() + b"\0")
        digest.update(symbols[name].open_ms.astype("<i8").tobytes())
        digest.update(symbols[name].candles.astype("<f8").tobytes())
    return digest.hexdigest()
