"""Ledger: what a series has yet to settle, its calibration and its test for drift, as bytes.

One entry for each of the newest candles, the last for the newest: the forecast that was made at
it, or an empty entry where none was. So an entry's place counts the candles since. Entries stay a
while after their last horizon is settled, for corrections.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared import drift
from shared.calibration import Grid, grid_of
from shared.candles import MAX_CANDLES
from shared.forecasts import MAX_LEVELS, MEDIAN
from shared.score_messages import Ends
from shared.window import Push

CORRECTABLE: Final = 4
"""Newest candles, before the newest one, whose correction scores every horizon again."""

MAX_LAYOUTS: Final = 3
"""Most layouts of one series: those of models that were swapped within the longest horizon."""

EMPTY: Final = 0
"""Layout number of an entry without a forecast."""

_COMMON: Final = [("layout", "<u4"), ("open_ms", "<i8")]


@dataclass(frozen=True)
class Layout:
    """What the numbers of an entry mean: the model's version, horizons and levels."""

    model_version: str
    steps: tuple[int, ...]
    levels: tuple[float, ...]

    @cached_property
    def number(self) -> int:
        """The layout's identity in entries, never 0."""
        digest = hashlib.blake2b(repr(self).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") or 1

    @cached_property
    def mark(self) -> bytes:
        """The first bytes of an entry of this layout."""
        return self.number.to_bytes(4, "little")

    @property
    def is_sound(self) -> bool:
        """True when horizons and levels are such as a model has."""
        steps, levels = self.steps, self.levels
        return (
            all(type(step) is int and 1 <= step <= MAX_CANDLES for step in steps)
            and all(type(level) is float and 0 < level < 1 for level in levels)
            and bool(steps)
            and len(levels) <= MAX_LEVELS
            and list(steps) == sorted(set(steps))
            and list(levels) == sorted(set(levels))
            and MEDIAN in levels
        )

    @cached_property
    def grid(self) -> Grid:
        """Horizons and levels."""
        return grid_of(self.steps, self.levels)

    @property
    def numbers(self) -> int:
        """Count of the numbers of a series' calibration and drift."""
        rows, columns = self.grid.shape
        return rows * columns + drift.WIDTH

    @cached_property
    def ends(self) -> Ends:
        """Central intervals."""
        return Ends.of(self.levels)

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The form of an entry."""
        rows, columns, folded = len(self.steps), len(self.levels), len(self.grid.folded)
        return np.dtype(
            [
                *_COMMON,
                ("lasts_ms", "<u4"),  # from the candle's opening to its close
                ("last_close", "<f8"),
                ("sigma", "<f4"),  # of the baseline, a candle
                ("id", "V16"),  # of the forecast
                ("volatility", "<f4", (rows,)),
                ("raw", "<f4", (rows, columns)),  # log returns
                ("calibrated", "<i2", (rows, columns)),  # codes
                ("baseline", "<i2", (rows, folded)),  # codes
            ]
        )

    @cached_property
    def size(self) -> int:
        """Bytes of an entry."""
        return self.dtype.itemsize


@lru_cache(maxsize=256)
def layout_of(model_version: str, steps: tuple[int, ...], levels: tuple[float, ...]) -> Layout:
    """Return the layout of a model; the same object for the same model."""
    return Layout(model_version, steps, levels)


@lru_cache(maxsize=256)
def layouts_in(table: bytes) -> tuple[Layout, ...]:
    """Return the layouts that a ledger names, the newest first."""
    if not table:
        return ()
    return tuple(
        layout_of(version, tuple(steps), tuple(levels))
        for version, steps, levels in json.loads(table)
    )


@lru_cache(maxsize=256)
def table_of(layouts: tuple[Layout, ...]) -> bytes:
    """Return layouts as a ledger names them."""
    rows = [(layout.model_version, layout.steps, layout.levels) for layout in layouts]
    return json.dumps(rows, separators=(",", ":")).encode()


@lru_cache(maxsize=256)
def kept_of(table: bytes) -> int:
    """Return how many entries a ledger with some layouts keeps."""
    return max(layout.steps[-1] for layout in layouts_in(table)) + 1 + CORRECTABLE


@lru_cache(maxsize=256)
def settled_by(table: bytes) -> tuple[tuple[int, int, Layout], ...]:
    """Return what a candle settles: candles ahead, the horizon's place, and the layout of each."""
    return tuple(
        (step, at, layout) for layout in layouts_in(table) for at, step in enumerate(layout.steps)
    )


@dataclass(frozen=True, slots=True)
class Ledger:
    """Pending forecasts, calibration and drift of one series."""

    layouts: bytes = b""  # JSON, the newest first
    calibration: bytes = b""  # float32 (H, W) on the newest layout's grid, then those of drift
    variance: float = 0.0  # of the baseline, a candle
    entry_bytes: int = 0
    entries: bytes = b""  # oldest first

    def fault(self) -> str:
        """Return what no ledger of ours has, such as an unknown layout; empty for one of ours."""
        try:
            layouts = layouts_in(self.layouts)
            width = max((layout.dtype.itemsize for layout in layouts), default=0)
            numbers = layouts[0].numbers if layouts else 0
            sound = all(layout.is_sound for layout in layouts)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            return f"expected layouts of forecasts, got {self.layouts[:80]!r}: {error!r:.80}"
        if len(layouts) > MAX_LAYOUTS or not sound or self.entry_bytes < width:
            return f"expected at most {MAX_LAYOUTS} layouts, and entries of {width} bytes at least"
        if len(self.calibration) != 4 * numbers or not are_finite(self.calibration):
            return f"expected a calibration of {numbers} finite numbers"
        return ""

    @property
    def count(self) -> int:
        """Number of entries."""
        return len(self.entries) // self.entry_bytes if self.entry_bytes else 0

    def entry(self, back: int) -> bytes:
        """Return the entry of ``back`` candles before the newest; nothing where there is none."""
        end = len(self.entries) - back * self.entry_bytes
        return self.entries[end - self.entry_bytes : end] if end >= self.entry_bytes else b""

    def state(self) -> NDArray[np.float32]:
        """Return the calibration, (H, W)."""
        grid = layouts_in(self.layouts)[0].grid
        held = np.frombuffer(self.calibration, dtype=np.float32)
        return held[: -drift.WIDTH].reshape(grid.shape)

    def drift(self) -> NDArray[np.float32]:
        """Return the state of the test for drift, (``drift.WIDTH``,); that of the start if none."""
        if not self.layouts:
            return drift.start()
        return np.frombuffer(self.calibration, dtype=np.float32)[-drift.WIDTH :]

    def using(self, layout: Layout) -> Ledger:
        """Return the ledger ready for a model's forecasts; the same where it was."""
        known = layouts_in(self.layouts)
        if known and known[0].number == layout.number:
            return self
        grid = layout.grid
        if not known:
            state = grid.start()
        elif known[0].grid is grid:
            state = self.state()
        else:
            state = grid.carry(known[0].grid, self.state())
        calibration = state.tobytes() + drift.start().tobytes()  # drift is that of one model
        marks = self._marks() - {layout.mark}
        others = tuple(other for other in known if other.mark in marks)
        table = table_of((layout, *others[: MAX_LAYOUTS - 1]))
        size = max(self.entry_bytes, layout.dtype.itemsize)
        pad = b"\0" * (size - self.entry_bytes)
        entries = b"".join([self.entry(back) + pad for back in range(self.count - 1, -1, -1)])
        return Ledger(table, calibration, self.variance, size, entries)

    def _marks(self) -> set[bytes]:
        return {self.entry(back)[:4] for back in range(self.count)}

    def noting(self, push: Push, open_ms: int, made: bytes | None) -> Ledger:
        """Return the ledger after a candle.

        Args:
            push: what the candle did to the window.
            open_ms: when it opened, UTC.
            made: the entry of the forecast made at it, if there is one.
        """
        if not self.layouts or (made is None and push is not Push.APPENDED):
            return self
        if made is None:
            if not self.entries:
                return self
            made = b"\0\0\0\0" + open_ms.to_bytes(8, "little", signed=True)
        entry = made + b"\0" * (self.entry_bytes - len(made))
        if push is Push.APPENDED:
            most = (kept_of(self.layouts) - 1) * self.entry_bytes
            kept = self.entries[-most:] if len(self.entries) > most else self.entries
        else:
            kept = self.entries[: -self.entry_bytes]
        return Ledger(self.layouts, self.calibration, self.variance, self.entry_bytes, kept + entry)

    def learned(self, calibration: bytes, variance: float) -> Ledger:
        """Return the ledger with another calibration, drift and variance."""
        return Ledger(self.layouts, calibration, variance, self.entry_bytes, self.entries)

    def before(self, open_ms: int) -> Ledger:
        """Return the ledger without the entries of candles that open at or after a time."""
        left = self.count
        while left and self._open_ms(self.count - left) >= open_ms:
            left -= 1
        entries = self.entries[: left * self.entry_bytes]
        return Ledger(self.layouts, self.calibration, self.variance, self.entry_bytes, entries)

    def _open_ms(self, back: int) -> int:
        return int.from_bytes(self.entry(back)[4:12], "little", signed=True)

    def back_of(self, open_ms: int) -> int | None:
        """Return how many candles before the newest one the candle of a time is, if it is here."""
        wanted = open_ms.to_bytes(8, "little", signed=True)
        for back in range(self.count):
            if self.entry(back)[4:12] == wanted:
                return back
        return None


def are_finite(calibration: bytes) -> bool:
    """Tell whether some bytes are finite numbers of 32 bits."""
    if len(calibration) % 4:
        return False
    return bool(np.isfinite(np.frombuffer(calibration, dtype=np.float32)).all())


def rows_of(layout: Layout, entries: list[bytes]) -> NDArray[Any]:
    """Return entries of a layout as rows of a structured array."""
    return np.frombuffer(b"".join(entries), dtype=layout.dtype)
