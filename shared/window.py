"""Window: the newest candles of one symbol and interval, in order and bounded, as bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS, INTERVALS_MS, MAX_NUMBER, MIN_PRICE, WEEKEND, Candle
from shared.messages import END_MS, FIRST_MS

_RECORD: Final = struct.Struct("<q5f")
_OPENING: Final = struct.Struct("<q20x")
_DTYPE: Final = np.dtype([("open_ms", "<i8"), ("ohlcv", "<f4", 5)])
RECORD_BYTES: Final = _RECORD.size
"""Size of a candle: its opening time and five floats of 32 bits."""


class Push(Enum):
    """Effect of a candle on a window."""

    APPENDED = "appended"  # newer than all
    REPLACED_NEWEST = "replaced_newest"  # a correction of the newest candle
    REPLACED = "replaced"  # a correction inside the window
    INSERTED = "inserted"  # late, between candles of the window
    DUPLICATE = "duplicate"  # changes nothing
    TOO_OLD = "too_old"  # before a full window's first candle; changes nothing
    OVERLAPS = "overlaps"  # within another candle's time; changes nothing

    __hash__ = object.__hash__  # Enum's own is Python code, and each candle asks several times


@dataclass(frozen=True, slots=True)
class Window:
    """Up to ``capacity`` candles, oldest first, one for each opening time.

    Prices and volume are held as 32-bit floats: 3e-8 relative, far below any return that a
    model looks at, at half the state. Every caller goes through a window, so all see the same.
    """

    capacity: int
    records: bytes = b""

    @classmethod
    def from_records(cls, capacity: int, records: bytes) -> Window:
        """Return the window of stored records, cut to the newest ``capacity`` candles."""
        return cls(capacity, records[-capacity * RECORD_BYTES :])

    def __len__(self) -> int:
        return len(self.records) // RECORD_BYTES

    @property
    def is_full(self) -> bool:
        """True when the window holds ``capacity`` candles."""
        return len(self.records) >= self.capacity * RECORD_BYTES

    def push(self, candle: Candle) -> tuple[Window, Push]:
        """Return the window with the candle in its place by time, and the effect."""
        record = _RECORD.pack(
            candle.open_ms, candle.open, candle.high, candle.low, candle.close, candle.volume
        )
        last = self.last_open_ms
        if last is None or candle.open_ms > last:
            excess = len(self) + 1 - self.capacity
            kept = self.records[excess * RECORD_BYTES :] if excess > 0 else self.records
            return Window(self.capacity, kept + record), Push.APPENDED
        if candle.open_ms < last:
            return self._push_inside(candle.open_ms, record)
        if record == self.records[-RECORD_BYTES:]:
            return self, Push.DUPLICATE
        return Window(self.capacity, self.records[:-RECORD_BYTES] + record), Push.REPLACED_NEWEST

    def _push_inside(self, open_ms: int, record: bytes) -> tuple[Window, Push]:
        times = self._view()["open_ms"]
        at = int(np.searchsorted(times, open_ms))
        start = at * RECORD_BYTES
        if times[at] == open_ms:
            end = start + RECORD_BYTES
            if self.records[start:end] == record:
                return self, Push.DUPLICATE
            return self._with(self.records[:start] + record + self.records[end:]), Push.REPLACED
        if at == 0 and self.is_full:
            return self, Push.TOO_OLD
        # a full window lets its oldest candle go for the late one
        first = RECORD_BYTES if self.is_full else 0
        grown = self.records[first:start] + record + self.records[start:]
        return self._with(grown), Push.INSERTED

    def _with(self, records: bytes) -> Window:
        return Window(self.capacity, records)

    def before(self, open_ms: int) -> Window:
        """Return the window of the candles that opened before a time."""
        kept = int(np.searchsorted(self._view()["open_ms"], open_ms)) * RECORD_BYTES
        return self._with(self.records[:kept])

    def next_open_ms(self, open_ms: int) -> int | None:
        """Return when the first candle after a time opened, UTC epoch milliseconds, if any."""
        times = self._view()["open_ms"]
        at = int(np.searchsorted(times, open_ms, side="right"))
        return int(times[at]) if at < len(times) else None

    def newest(self, count: int) -> Window:
        """Return the window of the newest ``count`` candles, or of all when there are fewer."""
        return Window.from_records(count, self.records)

    @property
    def last_open_ms(self) -> int | None:
        """Opening time of the newest candle, UTC epoch milliseconds; None when empty."""
        if not self.records:
            return None
        return int.from_bytes(self.records[-RECORD_BYTES : 8 - RECORD_BYTES], "little", signed=True)

    @property
    def first_open_ms(self) -> int | None:
        """Opening time of the oldest candle, UTC epoch milliseconds; None when empty."""
        if not self.records:
            return None
        return int.from_bytes(self.records[:8], "little", signed=True)

    @property
    def trades_weekends(self) -> bool:
        """True when one of the last seven candles opened on a Saturday or Sunday (UTC).

        A symbol that trades every day has one among any seven daily candles.
        """
        newest = self.records[-7 * RECORD_BYTES :]
        openings = _OPENING.iter_unpack(newest)
        return any([open_ms // DAY_MS % 7 in WEEKEND for (open_ms,) in openings])  # noqa: C419 - faster

    def fault(self) -> str:
        """Return what no window of ours has, such as falling times; empty for one of ours."""
        if not self.records:
            return ""
        times, ohlcv = self._view()["open_ms"], self.ohlcv()
        low, high = ohlcv[:, 2:3], ohlcv[:, 1:2]
        if (times[1:] <= times[:-1]).any() or times[0] < FIRST_MS or times[-1] >= END_MS:
            return f"expected opening times that rise, from {FIRST_MS} to {END_MS - 1}"
        prices, volume = ohlcv[:, :4], ohlcv[:, 4]
        # a comparison with NaN is false
        agree = (prices >= low).all() and (prices <= high).all() and (low > 0).all()
        if not (agree and np.isfinite(high).all() and (volume >= 0).all()):
            return "expected finite prices above 0 between low and high"
        return "" if np.isfinite(volume).all() else "expected a finite volume"

    def ohlcv(self) -> NDArray[np.float32]:
        """Return the candles, shape (T, 5): open, high, low, close, volume; oldest first."""
        return self._view()["ohlcv"]

    def _view(self) -> NDArray[np.void]:
        return np.frombuffer(self.records, dtype=_DTYPE)


def stack(windows: Sequence[Window]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return full windows of one capacity as arrays: candles (B, T, 5), opening times (B, T)."""
    joined = np.frombuffer(b"".join([window.records for window in windows]), dtype=_DTYPE)
    held = joined.reshape(len(windows), -1)  # (B, T)
    return held["ohlcv"].astype(np.float64), held["open_ms"].astype(np.int64)


def held(candles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return candles (..., 5) as a window holds them: rounded to 32-bit floats."""
    return candles.astype(np.float32).astype(np.float64)


@lru_cache(maxsize=16)
def even_times(windows: int, candles: int, interval: str | None = None) -> NDArray[np.int64]:
    """Return opening times for windows without any, (windows, candles), UTC ms.

    They are evenly spaced by the interval, by default a day, and begin at the epoch: a model that
    reads times sees neither gaps nor a season.
    """
    spacing = INTERVALS_MS[interval or "1d"]
    times = np.broadcast_to(np.arange(candles, dtype=np.int64) * spacing, (windows, candles)).copy()
    times.flags.writeable = False  # all callers share it
    return times


def obey_rules(
    opened: NDArray[np.float64],
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    close: NDArray[np.float64],
    volume: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return which candles (n,) obey the rules of ``shared.candles.Ohlcv``; NaN obeys none."""
    valid = low >= MIN_PRICE
    valid &= high <= MAX_NUMBER
    valid &= low <= np.minimum(opened, close)
    valid &= high >= np.maximum(opened, close)
    valid &= volume >= 0
    valid &= volume <= MAX_NUMBER
    return valid
