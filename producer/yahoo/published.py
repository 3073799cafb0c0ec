"""What of a symbol is in the topic, and what an answer adds to that or changes in it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isclose
from typing import Final

from producer.source import Action, ActionKind, Kind, Publication
from producer.yahoo.bars import Bar, closed_new, is_closed
from shared.candles import Candle

RECHECKED: Final = 15
"""Newest candles of a symbol that are asked for again with each poll."""

SAME: Final = 1e-7
"""Relative difference of prices that is none: the rounding of Yahoo's 32-bit floats."""

SCALED: Final = 0.01
"""Relative change that many candles must share to count as another scale, not corrections."""

_EVEN: Final = 1e-3
_ENOUGH: Final = 3

Make = Callable[[Bar], Candle | None]
"""Makes the candle of a bar, None of one that breaks a rule."""


@dataclass(slots=True)
class Ledger:
    """The newest candles of one symbol that are in the topic or on the way there."""

    recent: dict[int, Candle] = field(default_factory=dict)  # by open_ms, rising
    done: set[Action] = field(default_factory=set)  # splits after which the candles came again

    @classmethod
    def of(cls, candles: Iterable[Candle]) -> Ledger:
        """Return the ledger of published candles, of which later ones correct earlier ones."""
        ledger = cls()
        for one in candles:
            ledger.note(one)
        return ledger

    @property
    def newest(self) -> Candle | None:
        """The candle with the latest opening time."""
        return next(reversed(self.recent.values()), None)

    @property
    def newest_ms(self) -> int | None:
        """Its opening time."""
        newest = self.newest
        return None if newest is None else newest.open_ms

    @property
    def oldest_ms(self) -> int | None:
        """Opening time of the oldest candle that is asked for again."""
        return next(iter(self.recent), None)

    def note(self, candle: Candle) -> None:
        """Take in a candle that was published, or is about to be."""
        newest_ms = self.newest_ms
        known = candle.open_ms in self.recent
        self.recent[candle.open_ms] = candle
        if not known and newest_ms is not None and candle.open_ms < newest_ms:
            self.recent = dict(sorted(self.recent.items()))
        while len(self.recent) > RECHECKED:
            del self.recent[next(iter(self.recent))]


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer as of a moment."""

    bars: Sequence[Bar]  # in order
    actions: Sequence[Action]
    market_ms: int  # time of the newest trade
    now_ms: int


def due(ledger: Ledger, seen: Seen, make: Make) -> list[Publication]:
    """Return what to publish: corrections and late candles first, then the new ones, by time.

    Call ``rescaled_by`` before: on another scale every candle would seem corrected.
    """
    new = closed_new(seen.bars, ledger.newest_ms, seen.market_ms, seen.now_ms)
    publications = _corrections(ledger, seen, make)
    begun_ms = ledger.newest.close_ms if ledger.newest is not None else None
    for bar in new:
        candle = make(bar)
        since_ms = bar.open_ms if begun_ms is None else begun_ms
        actions = _between(seen.actions, since_ms, bar.end_ms) if seen.actions else ()
        begun_ms = bar.end_ms
        if candle is not None:
            publications.append(Publication(candle, Kind.CLOSED, actions))
    return publications


def _between(actions: Sequence[Action], since_ms: int, until_ms: int) -> tuple[Action, ...]:
    return tuple(one for one in actions if since_ms <= one.at_ms < until_ms)


def _corrections(ledger: Ledger, seen: Seen, make: Make) -> list[Publication]:
    oldest_ms, newest_ms = ledger.oldest_ms, ledger.newest_ms
    if oldest_ms is None or newest_ms is None:
        return []
    corrected: list[Publication] = []
    for bar in seen.bars:
        if not oldest_ms <= bar.open_ms <= newest_ms or bar.is_blank:
            continue
        published = ledger.recent.get(bar.open_ms)
        if published is not None and same(bar, published):
            continue
        candle = make(bar) if is_closed(bar.end_ms, seen.market_ms, seen.now_ms) else None
        if candle is not None:
            corrected.append(Publication(candle, Kind.CORRECTION))
    return corrected


def same(bar: Bar, candle: Candle) -> bool:
    """Whether a bar says what the candle says, but for rounding."""
    return bar.volume == candle.volume and all(
        isclose(mine, its, rel_tol=SAME) for mine, its in _prices(bar, candle)
    )


def rescaled_by(ledger: Ledger, seen: Seen) -> tuple[Action, ...] | None:
    """Return the splits for which the published candles must come again; None when they need not.

    That is the case when a split took effect after the newest published candle, whether or not
    Yahoo has rescaled its history yet; and, with no split to name, when the published candles
    have all moved by one factor since.
    """
    newest = ledger.newest
    if newest is None:
        return None
    splits = tuple(
        one
        for one in seen.actions
        if one.kind is ActionKind.SPLIT
        and one not in ledger.done
        and newest.close_ms <= one.at_ms <= seen.now_ms
    )
    return splits if splits or _has_moved(ledger, seen) else None


def _has_moved(ledger: Ledger, seen: Seen) -> bool:
    pairs = [
        (bar, ledger.recent[bar.open_ms])
        for bar in seen.bars
        if bar.open_ms in ledger.recent and not bar.is_blank
    ]
    if len(pairs) < _ENOUGH:
        return False
    factors = [mine / its for pair in pairs for mine, its in _prices(*pair)]
    first = factors[0]
    return abs(first - 1) > SCALED and all(isclose(one, first, rel_tol=_EVEN) for one in factors)


def _prices(bar: Bar, candle: Candle) -> tuple[tuple[float, float], ...]:
    return (
        (bar.open, candle.open),
        (bar.high, candle.high),
        (bar.low, candle.low),
        (bar.close, candle.close),
    )


def rescaled(
    ledger: Ledger, seen: Seen, splits: tuple[Action, ...], make: Make, count: int
) -> list[Publication]:
    """Return the newest ``count`` published candles on the scale of today, oldest first.

    Args:
        ledger: what is published.
        seen: an answer that reaches back far enough.
        splits: that are the cause; each candle names them.
        make: makes candles.
        count: how many, at least the longest window that reads them.
    """
    newest_ms = -1 if ledger.newest_ms is None else ledger.newest_ms
    old = [bar for bar in seen.bars if bar.open_ms <= newest_ms and not bar.is_blank]
    made = [make(bar) for bar in old[-count:]]
    return [Publication(one, Kind.RESCALED, splits) for one in made if one is not None]
