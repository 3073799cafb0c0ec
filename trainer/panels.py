"""Many symbols of several intervals as one data set: islands, splits by symbol and time, draws.

A folder holds one file of candles an interval and market: Parquet with the columns symbol,
open_ms, open, high, low, close, volume. Files named ``validation-*`` never train, ``context-*`` are
left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.bundle import DataPart, DataSpan
from shared.candles import DAY_MS, INTERVALS_MS, MINUTE_MS
from shared.context import Contexts, ContextSeries, ContextSpec
from trainer.context import join, require, series_of
from trainer.dataset import (
    Inputs,
    Samples,
    SymbolCandles,
    by_length,
    candles_hash,
    samples_at,
    try_features,
    windows_at,
)
from trainer.fit_config import FitConfig

GAP_MS: Final = 5 * DAY_MS
"""A longer gap than this, and than a week of daily candles, ends an island."""

DAILY_GAP_MS: Final = 12 * DAY_MS

TEST_SHARE: Final = 0.2
VALIDATION_SHARE: Final = 0.16
"""Newest shares of a file's candles that are test, and validation before it."""

THIRD: Final = 3
FOURTH: Final = 4
"""One symbol of three is test, and one of four others validation, by a hash of its name."""

FEW: Final = 30
"""Of a file of fewer symbols all that are not test validate, at later times than they train."""

SHOWN: Final = 10
"""Islands of a panel on which a graph is checked."""

SHARES: Final[Mapping[str, float]] = {"days": 0.55, "hours": 0.15, "minutes": 0.15, "minute": 0.15}
"""How often training draws a window of each class of intervals."""

COLUMNS: Final = ["open", "high", "low", "close", "volume"]


@dataclass(frozen=True)
class Island:
    """A symbol's candles without a long gap."""

    symbol: str
    candles: SymbolCandles


@dataclass(frozen=True)
class Panel:
    """The candles of one interval and market, with the times that part them."""

    name: str  # of the file
    interval: str
    islands: tuple[Island, ...]
    validation_ms: int  # training is before, validation from then on
    test_ms: int  # test from then on
    trains: bool  # False: validation alone
    weekends: bool = False  # whether its markets trade on Saturdays

    @property
    def title(self) -> str:
        """The file's name, with a note where it holds two kinds of markets."""
        return f"{self.name}, every day" if self.weekends else self.name

    @property
    def group(self) -> str:
        """The class of its interval, a key of ``SHARES``."""
        length = INTERVALS_MS[self.interval]
        if length >= DAY_MS:
            return "days"
        if length >= 30 * MINUTE_MS:
            return "hours"
        return "minutes" if length >= 5 * MINUTE_MS else "minute"

    @property
    def few(self) -> bool:
        """Whether the symbols are too few to keep some for validation."""
        return len({island.symbol for island in self.islands}) < FEW


def read(folder: Path) -> list[Panel]:
    """Return the panels of a folder's files, by name; raises ``ValueError`` when there are none."""
    panels: list[Panel] = []
    for path in sorted(folder.glob("*.parquet")):
        if not path.name.startswith("context-"):
            panels += _panels(path)
    if not panels:
        raise ValueError(f"{folder}: expected Parquet files of candles, found none")
    return panels


def contexts_of(folder: Path, spec: ContextSpec) -> Contexts:
    """Return the context in a folder's files ``context-*``, of the spec's interval.

    Raises:
        ValueError: when they lack a symbol of it.
    """
    series: dict[str, ContextSeries] = {}
    for path in sorted(folder.glob("context-*.parquet")):
        for panel in _panels(path):
            if INTERVALS_MS[panel.interval] == INTERVALS_MS[spec.interval]:
                series |= {
                    symbol: series_of(candles, panel.interval)
                    for symbol, candles in _whole(panel).items()
                    if symbol in spec.symbols
                }
    require(spec, series, f"the files context-*.parquet of {folder}")
    return Contexts(spec, series)


def _whole(panel: Panel) -> dict[str, SymbolCandles]:
    """Return the candles of each symbol, its islands joined again."""
    parts: dict[str, list[SymbolCandles]] = {}
    for island in panel.islands:
        parts.setdefault(island.symbol, []).append(island.candles)
    return {
        symbol: SymbolCandles(
            np.concatenate([part.open_ms for part in some]),
            np.concatenate([part.candles for part in some]),
        )
        for symbol, some in parts.items()
    }


def joined(panels: Sequence[Panel], contexts: Contexts) -> list[Panel]:
    """Return panels whose candles have the context around them, without its own symbols."""
    return [
        replace(
            panel,
            islands=tuple(
                replace(island, candles=join(island.candles, panel.interval, contexts))
                for island in panel.islands
                if island.symbol not in contexts.spec.symbols
            ),
        )
        for panel in panels
    ]


def _panels(path: Path) -> Iterator[Panel]:
    """Yield a file's panels: markets that trade on weekends apart, as they are of other spans."""
    table = pd.read_parquet(path)
    table = table[_valid(table)].sort_values(["symbol", "open_ms"], kind="stable")
    table = table.drop_duplicates(["symbol", "open_ms"], keep="last")
    spacings = np.diff(table["open_ms"].to_numpy())
    interval = _interval(spacings)
    islands: dict[bool, list[Island]] = {False: [], True: []}
    for symbol, rows in table.groupby("symbol", sort=True):
        open_ms = rows["open_ms"].to_numpy(np.int64)
        candles = rows[COLUMNS].to_numpy(np.float64)
        weekends = bool((open_ms // DAY_MS % 7 == 2).mean() > 0.1)  # Saturdays: a seventh, or none
        islands[weekends] += islands_of(str(symbol), SymbolCandles(open_ms, candles), interval)
    trains = not path.name.startswith("validation-")
    for weekends, some in islands.items():
        if some:
            times = np.concatenate([island.candles.open_ms for island in some])
            shares = [1.0 - TEST_SHARE - VALIDATION_SHARE, 1.0 - TEST_SHARE]
            cuts = np.quantile(times, shares).astype(np.int64) if trains else (0, 1 << 62)
            yield Panel(
                path.stem, interval, tuple(some), int(cuts[0]), int(cuts[1]), trains, weekends
            )


def _valid(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows are candles: finite, positive, prices within low and high."""
    opened, high, low, close, volume = (table[name].to_numpy(np.float64) for name in COLUMNS)
    inside = (low <= np.minimum(opened, close)) & (high >= np.maximum(opened, close))
    valid: NDArray[np.bool_] = inside & (low > 0) & np.isfinite(high) & (volume >= 0)
    return valid


def _interval(spacings: NDArray[np.int64]) -> str:
    """Return the interval whose length is the usual spacing of candles."""
    usual, _ = Counter(spacings[spacings > 0].tolist()).most_common(1)[0]
    return min(INTERVALS_MS, key=lambda name: (abs(INTERVALS_MS[name] - usual), len(name)))


def islands_of(symbol: str, candles: SymbolCandles, interval: str) -> Iterator[Island]:
    """Yield the parts of a symbol's candles between long gaps.

    After one a symbol may come back at another base of splits.
    """
    longest_ms = GAP_MS if INTERVALS_MS[interval] < DAY_MS else DAILY_GAP_MS
    cuts = np.flatnonzero(np.diff(candles.open_ms) > longest_ms) + 1
    for rows in np.split(np.arange(len(candles.open_ms)), cuts):
        yield Island(symbol, candles.rows(rows))


def part_of(symbol: str) -> str:
    """Return the part that a symbol belongs to, by a hash of its name alone."""
    number = int(hashlib.sha256(symbol.encode()).hexdigest()[:8], 16)
    if number % THIRD == 0:
        return "test"
    return "validation" if number // THIRD % FOURTH == 0 else "train"


def positions(
    panel: Panel, island: Island, part: str, least: int, longest: int, kept_out: frozenset[str]
) -> NDArray[np.int64]:
    """Return the last candles of an island's windows that belong to a part, rising.

    Training windows have outcomes before the validation's first candle, those of ``all`` before the
    test's: the longest horizon lies between as an embargo.

    Args:
        panel: of the island.
        island: candles of one symbol.
        part: train, validation, test; or all: train and validation.
        least: candles of a window.
        longest: candles of the longest horizon.
        kept_out: symbols that are test whatever their hash.
    """
    open_ms = island.candles.open_ms
    at = np.arange(least - 1, len(open_ms) - longest)
    symbol = "test" if island.symbol in kept_out else part_of(island.symbol)
    if not panel.trains:
        return at if part == "validation" else at[:0]
    known_ms = open_ms[at + longest]
    from_validation = open_ms[at] >= panel.validation_ms
    from_test = open_ms[at] >= panel.test_ms
    if part == "test":
        return at[from_test] if symbol == "test" else at[:0]
    if symbol == "test":
        return at[:0]
    if part == "all":
        return at[known_ms < panel.test_ms]
    if part == "validation":
        chosen = panel.few or symbol == "validation"
        return at[from_validation & (known_ms < panel.test_ms)] if chosen else at[:0]
    trains = panel.few or symbol == "train"
    return at[known_ms < panel.validation_ms] if trains else at[:0]


def draw(
    panels: Sequence[Panel],
    config: FitConfig,
    part: str,
    count: int,
    seed: int,
    kept_out: frozenset[str] = frozenset(),
    advance: Callable[[str], object] = str,
) -> Samples:
    """Return windows of a part, drawn by class of interval, with weights that keep the shares.

    Args:
        panels: the data.
        config: features, steps, horizons.
        part: see ``positions``.
        count: windows of all classes together, at most.
        seed: of the draw.
        kept_out: symbols that are never drawn to train.
        advance: called with the name of each panel that is done.

    Raises:
        ValueError: when the part has no window.
    """
    found = {
        number: [
            positions(panel, island, part, config.window_length, max(config.horizons), kept_out)
            for island in panel.islands
        ]
        for number, panel in enumerate(panels)
    }
    sizes: Counter[str] = Counter()
    for number, panel in enumerate(panels):
        sizes[panel.group] += sum(map(len, found[number]))
    groups = {group: share for group, share in SHARES.items() if sizes[group]}
    if not groups:
        raise ValueError(f"{part}: expected windows in the data, got none")
    rng = np.random.default_rng(seed)
    chosen: list[list[tuple[Island, NDArray[np.int64]]]] = []
    weights: list[float] = []  # of a window, by panel
    total = sum(groups.values())
    for number, panel in enumerate(panels):
        share = groups.get(panel.group, 0.0) / total
        kept = min(1.0, count * share / max(sizes[panel.group], 1))
        weights.append(count * share / max(kept * sizes[panel.group], 1.0))
        drawn = (at[rng.random(len(at)) < kept] for at in found[number])
        chosen.append(
            [(island, at) for island, at in zip(panel.islands, drawn, strict=True) if len(at)]
        )

    def made() -> Iterator[Samples]:
        for panel, weight, islands in zip(panels, weights, chosen, strict=True):
            lengths = config.window_lengths(panel.interval)
            if islands:
                try_features(islands[0][0].candles, config, lengths[0])
            for island, at in islands:
                yield samples_at(island.candles, at, config, lengths).weighted(weight)
            advance(panel.name)

    return Samples.joined(made(), sum(len(at) for islands in chosen for _, at in islands))


def some_windows(panels: Sequence[Panel], config: FitConfig, batch: int) -> Iterator[Inputs]:
    """Yield windows of every panel and length: some of some islands, in batches of one length."""
    for panel in panels:
        lengths = config.window_lengths(panel.interval)
        for island in panel.islands[:: max(1, len(panel.islands) // SHOWN)]:
            candles, least = island.candles, lengths[0] - 1
            count = min(batch, max(len(candles.open_ms) - least, 0))
            at = np.unique(np.linspace(least, len(candles.open_ms) - 1, count).astype(np.int64))
            for length, some in by_length(at, lengths):
                yield from windows_at(candles, length, some, batch)


def span(panels: Sequence[Panel], kept_out: frozenset[str]) -> DataSpan:
    """Return what a bundle that is trained on ``all`` saw."""
    seen: list[tuple[Panel, dict[str, SymbolCandles]]] = []
    for panel in panels:
        symbols: dict[str, SymbolCandles] = {}
        for number, island in enumerate(panel.islands):
            past = island.candles.until(panel.test_ms)
            is_test = island.symbol in kept_out or part_of(island.symbol) == "test"
            if panel.trains and not is_test and len(past.open_ms):
                symbols[f"{island.symbol} {number}"] = past
        if symbols:
            seen.append((panel, symbols))
    parts = tuple(_part(panel, symbols) for panel, symbols in seen)
    digest = hashlib.sha256("".join(part.sha256 for part in parts).encode())
    names = {name.rpartition(" ")[0] for _, symbols in seen for name in symbols}
    return DataSpan(
        source=", ".join(dict.fromkeys(part.source for part in parts)),
        symbols=tuple(sorted(names)),
        first_ms=min(part.first_ms for part in parts),
        last_ms=max(part.last_ms for part in parts),
        candles=sum(part.candles for part in parts),
        sha256=digest.hexdigest(),
        parts=parts,
    )


def _part(panel: Panel, symbols: Mapping[str, SymbolCandles]) -> DataPart:
    return DataPart(
        source=panel.name,
        interval=panel.interval,
        symbols=len({name.rpartition(" ")[0] for name in symbols}),
        first_ms=min(int(one.open_ms[0]) for one in symbols.values()),
        last_ms=max(int(one.open_ms[-1]) for one in symbols.values()),
        candles=sum(len(one.open_ms) for one in symbols.values()),
        sha256=candles_hash(symbols),
    )
