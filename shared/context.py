"""Context: the newest closes of other symbols, such as an index, joined to a window by time.

A model may read, beside a series's own candles, the newest closes of some context symbols. Worker,
API and trainer join them by the functions here: a context candle counts once it has closed, never
before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.candles import (
    DAY_MS,
    INTERVALS_MS,
    MAX_CANDLES,
    Candle,
    Interval,
    InvalidCandle,
    RejectReason,
    Symbol,
    decode_candle,
)
from shared.window import Push

MAX_SYMBOLS: Final = 16
"""Most context symbols of a model."""

LENGTH: Final = 128
"""Closes of each context symbol that a model reads by default: half a year of days. A multiple of
16, as the length of a window is."""

STALE_MS: Final = 7 * DAY_MS
STALE_INTERVALS: Final = 3
"""A context candle older than the longer of both is unknown: a weekend with holidays is shorter."""

CAPACITY: Final = 65_536
"""Candles of a context symbol that a process keeps, 2 MB: as many years of days as there are."""

SHARED: Final = 256
"""Contexts that are remembered for the symbols whose candles close together, 2 MB at most."""

NEVER: Final = int(np.iinfo(np.int64).min)
"""The time of a close that is unknown."""

Times = NDArray[np.int64]
Closes = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]


class ContextSpec(BaseModel):
    """The context that a model reads; part of a bundle's config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbols: Annotated[tuple[Symbol, ...], Field(min_length=1, max_length=MAX_SYMBOLS)]  # K
    interval: Interval  # of the context's candles, whatever the window's are
    length: Annotated[int, Field(ge=2, le=MAX_CANDLES)] = LENGTH  # newest closes of each, C

    @model_validator(mode="after")
    def _symbols_differ(self) -> Self:
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"symbols: expected each once, got {', '.join(self.symbols)}")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of one window's context, (C, K)."""
        return self.length, len(self.symbols)


def stale_ms(interval: str) -> int:
    """Return the age from which on a context candle says nothing, ms after its close."""
    return max(STALE_MS, STALE_INTERVALS * INTERVALS_MS[interval])


class ContextSeries:
    """Closed candles of one context symbol and interval, in order; in memory, no I/O.

    Closes are held as 32-bit floats, as windows hold prices.
    """

    def __init__(self, interval: str, capacity: int = CAPACITY) -> None:
        """Make an empty one.

        Args:
            interval: of the candles.
            capacity: candles that are kept at least; the oldest go when there are twice as many.
        """
        self._stale_ms = stale_ms(interval)
        self._capacity = capacity
        self._count = 0
        self._open_ms: Times = np.empty(0, np.int64)
        self._close_ms: Times = np.empty(0, np.int64)
        self._closes: Closes = np.empty(0, np.float32)
        self._since: Times = np.empty(0, np.int64)  # place of the first since the last long gap

    @classmethod
    def of(cls, interval: str, open_ms: Times, close_ms: Times, closes: Floats) -> Self:
        """Return the series of many candles (n,), whose times rise; it keeps all of them."""
        series = cls(interval, max(CAPACITY, len(open_ms)))
        series._hold(open_ms, close_ms, closes.astype(np.float32))
        return series

    def __len__(self) -> int:
        return self._count

    @property
    def newest_ms(self) -> int:
        """Close of the newest candle, UTC; ``NEVER`` without one."""
        return int(self._close_ms[self._count - 1]) if self._count else NEVER

    def push(self, open_ms: int, close_ms: int, close: float) -> Push:
        """Put a candle in its place by time, or correct the one that opened then.

        Args:
            open_ms: UTC.
            close_ms: UTC.
            close: quote currency.

        Returns:
            The effect: ``DUPLICATE`` where nothing changed; ``OVERLAPS`` of a candle that does not
            close between its neighbours, ``TOO_OLD`` of one before all that a full series keeps:
            neither is taken.
        """
        count = self._count
        at = int(np.searchsorted(self._open_ms[:count], open_ms))
        replaces = at < count and self._open_ms[at] == open_ms
        after = at + 1 if replaces else at
        if (at and close_ms <= self._close_ms[at - 1]) or (
            after < count and close_ms >= self._close_ms[after]
        ):
            return Push.OVERLAPS
        if at == count:
            self._append(open_ms, close_ms, close)
            return Push.APPENDED
        if not replaces and at == 0 and count >= self._capacity:
            return Push.TOO_OLD
        rounded = np.float32(close)
        if replaces and self._close_ms[at] == close_ms and self._closes[at] == rounded:
            return Push.DUPLICATE
        before, later = slice(0, at), slice(after, count)
        self._hold(
            np.concatenate([self._open_ms[before], [open_ms], self._open_ms[later]]),
            np.concatenate([self._close_ms[before], [close_ms], self._close_ms[later]]),
            np.concatenate([self._closes[before], [rounded], self._closes[later]]),
        )
        if not replaces:
            return Push.INSERTED
        return Push.REPLACED_NEWEST if after == count else Push.REPLACED

    def as_of(self, times: Times, length: int) -> tuple[Closes, Times]:
        """Return the newest closes of candles that had closed by some times.

        A candle that closes at the very time counts. Closes are unknown before the first candle
        and across a gap after which they would be stale; all are if the newest one is stale.

        Args:
            times: UTC, (B,).
            length: closes of each, C.

        Returns:
            Closes, oldest first, NaN where unknown, (B, C); and the time of the newest one, UTC,
            ``NEVER`` where it is unknown, (B,).
        """
        if not self._count:
            return np.full((len(times), length), np.nan, np.float32), np.full(len(times), NEVER)
        stop = np.searchsorted(self._close_ms[: self._count], times, side="right")  # (B,)
        newest = np.maximum(stop - 1, 0)
        fresh = (stop > 0) & (times - self._close_ms[newest] <= self._stale_ms)
        places = newest[:, None] + np.arange(1 - length, 1)  # (B, C)
        known = fresh[:, None] & (places >= self._since[newest][:, None])
        closes = np.where(known, self._closes[np.maximum(places, 0)], np.float32(np.nan))
        return closes, np.where(fresh, self._close_ms[newest], NEVER)

    def _append(self, open_ms: int, close_ms: int, close: float) -> None:
        if self._count >= 2 * self._capacity:
            kept = slice(self._count - self._capacity, self._count)
            self._hold(self._open_ms[kept], self._close_ms[kept], self._closes[kept])
        at = self._count
        if at == len(self._open_ms):
            room = max(64, at)
            more = np.zeros(room, np.int64)
            self._open_ms = np.concatenate([self._open_ms, more])
            self._close_ms = np.concatenate([self._close_ms, more])
            self._since = np.concatenate([self._since, more])
            self._closes = np.concatenate([self._closes, more.astype(np.float32)])
        self._open_ms[at], self._close_ms[at], self._closes[at] = open_ms, close_ms, close
        is_unbroken = at > 0 and close_ms - self._close_ms[at - 1] <= self._stale_ms
        self._since[at] = self._since[at - 1] if is_unbroken else at
        self._count = at + 1

    def _hold(self, open_ms: Times, close_ms: Times, closes: Closes) -> None:
        """Take the candles, with room for none after them."""
        self._open_ms, self._close_ms, self._closes = open_ms.copy(), close_ms.copy(), closes.copy()
        self._count = len(open_ms)
        begins = np.diff(close_ms, prepend=close_ms[:1]) > self._stale_ms
        self._since = np.maximum.accumulate(np.where(begins, np.arange(self._count), 0))


def context_key(candle: Candle) -> bytes:
    """Return the key of a candle in the context topic, which is compacted: each has its own."""
    return f"{candle.symbol}|{candle.interval}|{candle.open_ms}".encode()


def decode_context(key: bytes | None, value: bytes | None, now_ms: int) -> Candle:
    """Return the candle in a message of the context topic; raises as ``decode_candle`` does.

    Args:
        key: as ``context_key`` makes it.
        value: the message's value, a candle as in the candles topic.
        now_ms: the current time, UTC epoch milliseconds.
    """
    symbol = None if key is None else key.partition(b"|")[0]
    candle = decode_candle(symbol, value, now_ms)
    if key != context_key(candle):
        raise InvalidCandle(
            RejectReason.WRONG_KEY, f"key: expected {context_key(candle)!r}, got {key!r:.80}"
        )
    return candle


@dataclass(frozen=True)
class ContextWindow:
    """The context of one window, as one model reads it."""

    closes: Closes  # (C, K), oldest first; NaN where unknown
    as_of_ms: int | None  # the oldest of the symbols' newest closes, UTC; None if none is known

    @property
    def content(self) -> bytes:
        """What the identity of a forecast takes in of it."""
        return (self.as_of_ms or 0).to_bytes(8, "little", signed=True) + self.closes.tobytes()


@dataclass(frozen=True)
class Contexts:
    """The series that one model's context is read of."""

    spec: ContextSpec
    series: Mapping[str, ContextSeries]  # by symbol; those missing are unknown

    def as_of(self, times: Times) -> tuple[Closes, Times]:
        """Return the contexts of windows whose last candles close at some times.

        Args:
            times: UTC, (B,).

        Returns:
            Closes, NaN where unknown, (B, C, K); the time of each symbol's newest close,
            ``NEVER`` where it is unknown, (B, K).
        """
        closes = np.full((len(times), *self.spec.shape), np.nan, np.float32)
        newest = np.full((len(times), len(self.spec.symbols)), NEVER)
        for at, symbol in enumerate(self.spec.symbols):
            if symbol in self.series:
                closes[:, :, at], newest[:, at] = self.series[symbol].as_of(times, closes.shape[1])
        return closes, newest

    def window(self, as_of_ms: int) -> ContextWindow:
        """Return the context of a window whose last candle closes at ``as_of_ms``, UTC."""
        closes, newest = self.as_of(np.array([as_of_ms]))
        known = newest[newest > NEVER]
        return ContextWindow(closes[0], int(known.min()) if len(known) else None)


class ContextStore:
    """All context candles that a process has read; in memory, no I/O."""

    def __init__(self) -> None:
        """Make an empty one."""
        self._series: dict[int, dict[str, ContextSeries]] = {}  # by length of the interval, symbol
        self._windows: dict[tuple[ContextSpec, int], ContextWindow] = {}

    def push(self, candle: Candle) -> Push:
        """Take a candle of the context topic; see ``ContextSeries.push``."""
        by_symbol = self._series.setdefault(INTERVALS_MS[candle.interval], {})
        if candle.symbol not in by_symbol:
            by_symbol[candle.symbol] = ContextSeries(candle.interval)
        self._windows.clear()
        return by_symbol[candle.symbol].push(candle.open_ms, candle.close_ms, candle.close)

    def window(self, spec: ContextSpec, as_of_ms: int) -> ContextWindow:
        """Return the context of a window that closes at ``as_of_ms``, UTC, for a model's spec.

        All symbols' windows of one close share it until the next candle of the context.
        """
        key = spec, as_of_ms
        if key not in self._windows:
            if len(self._windows) >= SHARED:
                self._windows.clear()
            self._windows[key] = self.contexts(spec).window(as_of_ms)
        return self._windows[key]

    def newest_ms(self, symbol: str, interval: str) -> int:
        """Return the close of the newest candle held of a symbol, UTC; ``NEVER`` without one."""
        series = self._series.get(INTERVALS_MS[interval], {}).get(symbol)
        return NEVER if series is None else series.newest_ms

    def contexts(self, spec: ContextSpec) -> Contexts:
        """Return the series that a model's context is read of."""
        return Contexts(spec, self._series.get(INTERVALS_MS[spec.interval], {}))  # 60m is 1h


def unknown(spec: ContextSpec, windows: int) -> Closes:
    """Return contexts of which nothing is known, (windows, C, K)."""
    return np.full((windows, *spec.shape), np.nan, np.float32)


def stack_contexts(spec: ContextSpec, contexts: Iterable[ContextWindow | None]) -> Closes:
    """Return the contexts of windows, (B, C, K); unknown where a window has none.

    Raises:
        ValueError: when one is of another shape than the spec's.
    """
    nothing = unknown(spec, 1)[0]
    rows = [nothing if context is None else context.closes for context in contexts]
    for row in rows:
        if row.shape != spec.shape:
            raise ValueError(
                f"context: expected closes of the shape {spec.shape}, of "
                f"{', '.join(spec.symbols)}, got {row.shape}"
            )
    return np.stack(rows)
