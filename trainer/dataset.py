"""Candles by symbol to windows, samples with known outcomes, and splits that never leak."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from shared.bundle import DataSpan
from shared.files import findings
from shared.files.findings import Finding
from shared.files.series import History
from shared.history import Progress, ReadOptions, bundled, from_file
from shared.window import held
from trainer import context, features
from trainer.context import Around
from trainer.evaluate.realised import mean_ahead, range_variances
from trainer.fit_config import FitConfig

TRIED: Final = 2
"""Windows on which every feature is tried first."""

BATCH: Final = 4096
BATCH_CANDLES: Final = 144 * BATCH
"""Windows whose features are computed at once, and the candles in them: some 20 MB."""


CHUNK: Final = 8192
"""Windows that are computed with at once."""

MOST_WINDOWS: Final = 500_000
"""Most windows that train on one interval's candles, some 0.6 GB; of more, each n-th is taken."""

Inputs = tuple[NDArray[Any], ...]
"""A batch of windows, as a forecaster takes them: candles (B, T, 5), opening times (B, T) and,
where there is one, the context (B, C, K)."""

MOST_CHECKED: Final = 100_000
"""Most windows on which a graph is compared with its network, likewise."""


@dataclass(frozen=True)
class SymbolCandles:
    """One symbol's candles, oldest first."""

    open_ms: NDArray[np.int64]  # (n,), UTC, rising
    candles: NDArray[np.float64]  # (n, 5): open, high, low, close, volume
    close_ms: NDArray[np.int64] | None = None  # (n,), UTC; None: one interval after the opening
    around: Around | None = None  # their context; None: they have none

    def until(self, stop_ms: int) -> SymbolCandles:
        """Return the candles that open before ``stop_ms``."""
        return self.rows(slice(int(np.searchsorted(self.open_ms, stop_ms))))

    def rows(self, part: slice | NDArray[np.int64]) -> SymbolCandles:
        """Return some of the candles, with their context."""
        return SymbolCandles(
            self.open_ms[part],
            self.candles[part],
            None if self.close_ms is None else self.close_ms[part],
            self.around and self.around.rows(part),
        )


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
    """Windows with known outcomes, N of them, by symbol and time.

    The parts of a split share the features, which are most of the memory: each has its rows.
    """

    features: NDArray[np.float32]  # (M, L, F), raw, M at least N
    rows: NDArray[np.int64]  # (N,), which of them
    log_return: NDArray[np.float64]  # (N, H), from the window's last close
    variance: NDArray[np.float64]  # (N, H), mean range variance of the candles ahead, per candle
    open_ms: NDArray[np.int64]  # (N,), of the window's last candle
    known_ms: NDArray[np.int64]  # (N,), of the last candle that an outcome uses
    weight: NDArray[np.float64]  # (N,), how often training draws it

    def __len__(self) -> int:
        return len(self.open_ms)

    def where(self, kept: NDArray[np.bool_]) -> Samples:
        """Return the samples for which ``kept`` (N,) holds."""
        _, *arrays = vars(self).values()
        return Samples(self.features, *(array[kept] for array in arrays))

    def newest(self) -> NDArray[np.float64]:
        """Return the features of each window's newest step, (N, F)."""
        newest: NDArray[np.float64] = self.features[self.rows, -1].astype(np.float64)
        return newest

    def chunks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the features of all windows in order, (n, L, F), some at a time."""
        for start in range(0, len(self), CHUNK):
            yield self.features[self.rows[start : start + CHUNK]]

    def weighted(self, weight: float) -> Samples:
        """Return the samples, each to be drawn by this weight."""
        return replace(self, weight=np.full(len(self), weight))

    @classmethod
    def joined(cls, parts: Iterable[Samples], count: int) -> Samples:
        """Return all windows of the parts, in order; each part can go once the next is made.

        Args:
            parts: one at least.
            count: windows of all parts together.
        """
        features: NDArray[np.float32] | None = None
        others: list[Sequence[NDArray[Any]]] = []
        filled = 0
        for part in parts:
            if features is None:
                features = np.empty((count, *part.features.shape[1:]), np.float32)
            features[filled : filled + len(part)] = part.features[part.rows]
            filled += len(part)
            others.append([*vars(part).values()][2:])
        if features is None or filled != count:
            raise ValueError(f"parts: expected {count} windows, got {filled}")
        arrays = zip(*others, strict=True)
        return cls(features, np.arange(count), *(np.concatenate(array) for array in arrays))


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
    symbols = {
        rows.symbol: SymbolCandles(rows.open_ms, rows.candles, rows.close_ms)
        for rows in history.series
    }
    return Dataset(history, symbols, findings.of_history(history))


def too_short(dataset: Dataset, window_length: int) -> tuple[Finding, ...]:
    """Return a finding of the symbols that never fill one window, if there are any."""
    return findings.too_short(dataset.history, window_length)


def samples_of(symbols: Mapping[str, SymbolCandles], config: FitConfig, interval: str) -> Samples:
    """Return the windows whose outcomes have all come: each, or each n-th of very many.

    Windows hold 32-bit prices, as the stream's do, and as many candles as a stream of these would
    hold by then; outcomes have all their bits.

    Args:
        symbols: candles by symbol.
        config: features, steps and horizons.
        interval: of the candles.

    Raises:
        ValueError: when no symbol is long enough, or a feature is not what it says.
    """
    lengths, longest = config.window_lengths(interval), max(config.horizons)
    least = lengths[0] + longest
    enough = {symbol: one for symbol, one in symbols.items() if len(one.open_ms) >= least}
    if not enough:
        most = max((len(one.open_ms), symbol) for symbol, one in symbols.items())
        raise ValueError(
            f"candles: expected a symbol with at least {least}, a window of {lengths[0]} and "
            f"{max(config.horizons)} ahead, got at most {most[0]}, of {most[1]}: more "
            "candles, or shorter --horizons and --sequence-length"
        )
    try_features(next(iter(enough.values())), config, lengths[0])
    spans = [(lengths[0] - 1, len(held.open_ms) - longest) for held in enough.values()]
    places = thinned(spans, MOST_WINDOWS)
    parts = (
        samples_at(symbol, at, config, lengths)
        for symbol, at in zip(enough.values(), places, strict=True)
    )
    return Samples.joined(parts, sum(map(len, places)))


def thinned(spans: Sequence[tuple[int, int]], most: int) -> list[NDArray[np.int64]]:
    """Return the positions in spans, first and stop, or each n-th so that they are ``most``.

    Each span begins at another one of the first n, so that series side by side give windows of
    different times, and what is taken depends on no chance.
    """
    total = sum(max(0, stop - first) for first, stop in spans)
    every = max(1, -(-total // most))
    return [
        np.arange(min(first + number % every, stop), stop, every)
        for number, (first, stop) in enumerate(spans)
    ]


def try_features(symbol: SymbolCandles, config: FitConfig, length: int) -> None:
    """Raise ``ValueError`` for a feature that is not what it says, on a symbol's first windows."""
    some, times, *_ = next(windows(symbol, length, length - 1, length + TRIED - 1))
    names, steps = config.features, config.sequence_length
    features.check(names, steps, torch.from_numpy(some), torch.from_numpy(times))


@torch.no_grad()
def samples_at(
    symbol: SymbolCandles, at: NDArray[np.int64], config: FitConfig, lengths: Sequence[int]
) -> Samples:
    """Return the windows that end at some candles, with their outcomes.

    Args:
        symbol: its candles.
        at: positions of the windows' last candles, rising, (N,); the longest horizon lies within.
        config: features, steps and horizons.
        lengths: that a window may have, rising; each is the longest that there are candles for.
    """
    steps = config.sequence_length
    inputs = [np.empty((0, steps, len(config.inputs)), np.float32)]
    for length, some in by_length(at, lengths):
        for window in windows_at(symbol, length, some):
            candles, open_ms, *closes = map(torch.from_numpy, window)
            series = features.Candles(candles, open_ms, steps, lengths[0])
            made = features.extract(config.features, series)
            if config.context:
                around = closes[0] if closes else torch.zeros(len(made), *config.context.shape)
                made = context.beside(made, around)
            inputs.append(made.numpy())
    log_close = np.log(symbol.candles[:, 3])
    variances = range_variances(symbol.candles)
    return Samples(
        np.concatenate(inputs),
        np.arange(len(at)),
        np.column_stack([log_close[at + step] - log_close[at] for step in config.horizons]),
        np.column_stack([mean_ahead(variances, at, step) for step in config.horizons]),
        symbol.open_ms[at],
        symbol.open_ms[at + max(config.horizons)],
        np.ones(len(at)),
    )


def by_length(
    at: NDArray[np.int64], lengths: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each length of a window with the positions, of ``at``, that it is the longest for."""
    ends = np.searchsorted(at, np.array(lengths) - 1)
    for length, some in zip(lengths, np.split(at, ends)[1:], strict=True):
        if len(some):
            yield length, some


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
) -> Iterator[Inputs]:
    """Yield the windows whose last candles are ``first`` to ``stop - 1``; see ``windows_at``."""
    yield from windows_at(symbol, length, np.arange(first, stop), batch)


def windows_at(
    symbol: SymbolCandles, length: int, at: NDArray[np.int64], batch: int = BATCH
) -> Iterator[Inputs]:
    """Yield windows, some at a time.

    Args:
        symbol: its candles, rounded to 32 bits on the way, as the stream's windows are.
        length: candles of a window, T.
        at: positions of the windows' last candles, rising, each at least T - 1.
        batch: most windows at once, of 144 candles; fewer of longer ones.

    Yields:
        Candles (B, T, 5), their opening times (B, T) and, where the symbol has one, their context
        (B, C, K).
    """
    view = np.lib.stride_tricks.sliding_window_view
    count = max(1, min(batch, BATCH_CANDLES // length))
    for start in range(0, len(at), count):
        some = at[start : start + count]
        rows = slice(some[0] - length + 1, some[-1] + 1)
        taken = some - some[0]
        candles = view(held(symbol.candles[rows]), length, axis=0)[taken].transpose(0, 2, 1)
        inputs = np.ascontiguousarray(candles), view(symbol.open_ms[rows], length)[taken]
        if symbol.around is None:
            yield inputs
        else:
            yield (*inputs, symbol.around.contexts.as_of(symbol.around.close_ms[some])[0])


@dataclass(frozen=True)
class Source:
    """Candles by symbol, with where they are from."""

    name: str
    interval: str
    symbols: Mapping[str, SymbolCandles]

    def samples(self, config: FitConfig) -> Samples:
        """Return the windows of ``samples_of``; raises ``ValueError`` for none."""
        return samples_of(self.symbols, config, self.interval)

    def windows(self, lengths: Sequence[int], start_ms: int, batch: int) -> Iterator[Inputs]:
        """Yield the windows whose last candle opens at ``start_ms`` or later; all if none does.

        Of more than ``MOST_CHECKED`` each n-th.

        Args:
            lengths: that a window may have, rising; each is the longest that there are candles for.
            start_ms: UTC.
            batch: most windows at once.
        """
        first_of = {
            name: max(int(np.searchsorted(symbol.open_ms, start_ms)), lengths[0] - 1)
            for name, symbol in self.symbols.items()
        }
        if all(first_of[name] >= len(one.open_ms) for name, one in self.symbols.items()):
            first_of = dict.fromkeys(first_of, lengths[0] - 1)
        spans = [(first_of[name], len(symbol.open_ms)) for name, symbol in self.symbols.items()]
        for symbol, places in zip(self.symbols.values(), thinned(spans, MOST_CHECKED), strict=True):
            for length, at in by_length(places, lengths):
                yield from windows_at(symbol, length, at, batch)

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
