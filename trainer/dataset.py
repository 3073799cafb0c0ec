"""Candles by symbol to windows, samples with known outcomes, and splits that never leak."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from shared.bundle import DataSpan
from shared.files import findings
from shared.files.findings import Finding
from shared.files.series import History
from shared.history import Progress, ReadOptions, bundled, from_file
from shared.window import held
from trainer import features
from trainer.evaluate.realised import mean_ahead, range_variances
from trainer.fit_config import FitConfig

TRIED: Final = 2
"""Windows on which every feature is tried first."""

BATCH: Final = 4096
"""Windows whose features are computed at once: some 20 MB."""


@dataclass(frozen=True)
class SymbolCandles:
    """One symbol's candles, oldest first."""

    open_ms: NDArray[np.int64]  # (n,), UTC, rising
    candles: NDArray[np.float64]  # (n, 5): open, high, low, close, volume

    def until(self, stop_ms: int) -> SymbolCandles:
        """Return the candles that open before ``stop_ms``."""
        kept = int(np.searchsorted(self.open_ms, stop_ms))
        return SymbolCandles(self.open_ms[:kept], self.candles[:kept])


@dataclass(frozen=True)
class Dataset:
    """What a table holds, by symbol, and what is odd about it."""

    history: History
    symbols: Mapping[str, SymbolCandles]
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """The name of the table."""
        return self.history.name


@dataclass(frozen=True)
class Samples:
    """Windows with known outcomes, N of them, by symbol and time."""

    features: NDArray[np.float32]  # (N, L, F), raw
    log_return: NDArray[np.float64]  # (N, H), from the window's last close
    variance: NDArray[np.float64]  # (N, H), mean range variance of the candles ahead, per candle
    open_ms: NDArray[np.int64]  # (N,), of the window's last candle
    known_ms: NDArray[np.int64]  # (N,), of the last candle that an outcome uses

    def __len__(self) -> int:
        return len(self.open_ms)

    def where(self, kept: NDArray[np.bool_]) -> Samples:
        """Return the samples for which ``kept`` (N,) holds."""
        return Samples(
            self.features[kept],
            self.log_return[kept],
            self.variance[kept],
            self.open_ms[kept],
            self.known_ms[kept],
        )


def load(
    path: Path | None,
    interval: str = "1d",
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Return the candles in a file of any form, or the bundled ones for None.

    Raises:
        HistoryError: when the table cannot be read as candles at all.
    """
    if path is not None:
        return of_history(from_file(path, interval, options, progress))
    chosen = options.symbols if options else ()
    return of_history(bundled(chosen) if chosen else bundled())


def of_history(history: History) -> Dataset:
    """Return a history as arrays by symbol, with what is odd about them."""
    symbols = {rows.symbol: SymbolCandles(rows.open_ms, rows.candles) for rows in history.series}
    return Dataset(history, symbols, findings.of_history(history))


def too_short(dataset: Dataset, window_length: int) -> tuple[Finding, ...]:
    """Return a finding of the symbols that never fill one window, if there are any."""
    return findings.too_short(dataset.history, window_length)


def samples_of(
    symbols: Mapping[str, SymbolCandles],
    names: Sequence[str],
    sequence_length: int,
    horizons: Sequence[int],
) -> Samples:
    """Return every window whose outcomes have all come.

    Windows hold 32-bit prices, as the stream's do; outcomes have all their bits.

    Args:
        symbols: candles by symbol.
        names: the features, F of them.
        sequence_length: steps of each window, L.
        horizons: candles ahead, rising, H of them.

    Raises:
        ValueError: when no symbol is long enough, or a feature is not what it says.
    """
    length = features.window_length(names, sequence_length)
    enough = {
        symbol: one for symbol, one in symbols.items() if len(one.open_ms) >= length + max(horizons)
    }
    if not enough:
        longest = max((len(one.open_ms), symbol) for symbol, one in symbols.items())
        raise ValueError(
            f"candles: expected a symbol with at least {length + max(horizons)}, a window of "
            f"{length} and {max(horizons)} ahead, got at most {longest[0]}, of {longest[1]}: more "
            "candles, or shorter --horizons and --sequence-length"
        )
    some, times = next(windows(next(iter(enough.values())), length, length - 1, length + TRIED - 1))
    features.check(names, sequence_length, torch.from_numpy(some), torch.from_numpy(times))
    parts = [_samples(one, names, sequence_length, horizons) for one in enough.values()]
    return Samples(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.log_return for part in parts]),
        np.concatenate([part.variance for part in parts]),
        np.concatenate([part.open_ms for part in parts]),
        np.concatenate([part.known_ms for part in parts]),
    )


def split(samples: Samples, cut_ms: int) -> tuple[Samples, Samples]:
    """Return the samples that were over before ``cut_ms``, and those made from then on.

    Between them lies an embargo as long as the longest horizon: a sample whose outcome was still
    open at the cut is in neither part, so nothing after the cut was seen before it.
    """
    return (
        samples.where(samples.known_ms < cut_ms),
        samples.where(samples.open_ms >= cut_ms),
    )


def cut_at(samples: Samples, share: float) -> int:
    """Return the opening time before which ``share`` of the samples' distinct times lie."""
    times = np.unique(samples.open_ms)
    return int(times[min(int(len(times) * share), len(times) - 1)])


def windows(
    symbol: SymbolCandles, length: int, first: int, stop: int, batch: int = BATCH
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Yield the windows whose last candles are ``first`` to ``stop - 1``, some at a time.

    Args:
        symbol: its candles, rounded to 32 bits on the way, as the stream's windows are.
        length: candles of a window, T.
        first: position of the first window's last candle, at least T - 1.
        stop: position after that of the last window's last candle.
        batch: most windows at once.

    Yields:
        Candles (B, T, 5) and their opening times (B, T).
    """
    view = np.lib.stride_tricks.sliding_window_view
    for start in range(first, stop, batch):
        rows = slice(start - length + 1, min(start + batch, stop))
        candles = view(held(symbol.candles[rows]), length, axis=0).transpose(0, 2, 1)
        yield (
            np.ascontiguousarray(candles),
            np.ascontiguousarray(view(symbol.open_ms[rows], length)),
        )


@torch.no_grad()
def _samples(
    symbol: SymbolCandles, names: Sequence[str], sequence_length: int, horizons: Sequence[int]
) -> Samples:
    length = features.window_length(names, sequence_length)
    longest = max(horizons)
    at = np.arange(length - 1, len(symbol.open_ms) - longest)  # (N,), last candles of windows
    inputs = [
        features.extract(
            names,
            features.Candles(torch.from_numpy(candles), torch.from_numpy(open_ms), sequence_length),
        ).numpy()
        for candles, open_ms in windows(symbol, length, length - 1, len(symbol.open_ms) - longest)
    ]
    log_close = np.log(symbol.candles[:, 3])
    variances = range_variances(symbol.candles)
    return Samples(
        np.concatenate(inputs),
        np.column_stack([log_close[at + step] - log_close[at] for step in horizons]),
        np.column_stack([mean_ahead(variances, at, step) for step in horizons]),
        symbol.open_ms[at],
        symbol.open_ms[at + longest],
    )


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
