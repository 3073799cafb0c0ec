"""Market of the stream benchmark: random walks of many symbols whose windows are full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS, Candle
from shared.window import Window
from stream_app.pipeline import table_key
from stream_app.state import SymbolState

START_MS: Final = 946_857_600_000  # 2000-01-03, a Monday, midnight UTC
INTERVAL: Final = "1d"

ELSEWHERE: Final = 1_000
"""Partition that the known candles came from: one that no candle is sent to, so none is old."""


def opening_ms(trading_day: int) -> int:
    """Return the opening of a trading day counted from the start; weekends are left out."""
    weeks, day = divmod(trading_day, 5)
    return START_MS + (weeks * 7 + day) * DAY_MS


@dataclass(frozen=True)
class Message:
    """A candle as it is sent."""

    key: bytes
    value: bytes


class Market:
    """Daily candles of S symbols: ``window_length`` days that are known, then those that are sent.

    Every contender is sent the same candles, for all comes from one seed.
    """

    def __init__(self, symbols: int, window_length: int, days: int, *, seed: int = 5) -> None:
        self.symbols = symbols
        self.window_length = window_length
        self.days = days
        rng = np.random.default_rng(seed)
        shape = (symbols, window_length + days)
        close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.012, shape), axis=1))
        opened = close * np.exp(rng.normal(0, 0.006, shape))
        spread = np.exp(np.abs(rng.normal(0, 0.006, (2, *shape))))
        high, low = np.maximum(opened, close) * spread[0], np.minimum(opened, close) / spread[1]
        volume = np.round(1e6 * np.exp(rng.normal(0, 0.4, shape)))
        prices = np.stack([opened, high, low, close], axis=2).round(4)
        self._ohlcv = np.concatenate([prices, volume[:, :, None]], axis=2)  # (S, T + D, 5)

    def symbol(self, number: int) -> str:
        """Return the name of a symbol, which ends in its number."""
        return f"S{number:04d}"

    def day(self, number: int) -> list[Message]:
        """Return the candles of a day that is sent, counted from 0, one for each symbol."""
        return [self._message(row, number) for row in range(self.symbols)]

    def _message(self, symbol: int, day: int) -> Message:
        candle = self._candle(symbol, self.window_length + day)
        return Message(candle.symbol.encode(), candle.encode())

    def _candle(self, symbol: int, day: int) -> Candle:
        row: list[float] = self._ohlcv[symbol, day].tolist()
        names = ("open", "high", "low", "close", "volume")
        open_ms = opening_ms(day)
        return Candle.trusted(
            **dict(zip(names, row, strict=True)),
            symbol=self.symbol(symbol),
            interval=INTERVAL,
            open_ms=open_ms,
            close_ms=open_ms + DAY_MS,
            source="benchmark",
        )

    def states(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and state of every symbol before the first day that is sent."""
        for number, records in enumerate(self.windows):
            last = self._candle(number, self.window_length - 1)
            window = Window(self.window_length, records.tobytes())
            state = SymbolState(window, 0, ((ELSEWHERE, 0),), last.close_ms, last.close)
            yield table_key(last), state.encode()

    @cached_property
    def windows(self) -> NDArray[np.uint8]:
        """The records of the known days, shape (S, 28 T)."""
        return np.stack([self._records(row) for row in range(self.symbols)])

    def _records(self, symbol: int) -> NDArray[np.uint8]:
        window = Window(self.window_length)
        for day in range(self.window_length):
            window, _ = window.push(self._candle(symbol, day))
        return np.frombuffer(window.records, dtype=np.uint8)

    def save_windows(self, path: Path) -> None:
        """Write the windows for contenders that do not read the worker's changelog."""
        np.save(path, self.windows)
