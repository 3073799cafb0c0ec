"""Compares a response with what is published: new, late, corrected and rescaled candles. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isclose
from typing import Final

from producer.source import RECHECKED, ActionKind, CorporateAction, Kind, Publication
from producer.yahoo.bars import Bar, Response, closed_after
from shared.candles import Candle

SAME: Final = 1e-7
"""Largest relative difference of equal prices: the rounding of Yahoo's 32-bit floats."""

SCALED: Final = 0.01
"""Smallest relative change of many candles that counts as another scale, not as corrections."""

_EVEN: Final = 1e-3
_ENOUGH: Final = 3

MakeCandle = Callable[[Bar], Candle | None]
"""Makes the candle of a bar, None of one that breaks a rule."""


@dataclass(slots=True)
class RecentCandles:
    """The newest candles of one symbol that are published or on the way; in memory, no I/O."""

    by_open_ms: dict[int, Candle] = field(default_factory=dict)  # rising
    rescaled_for: set[CorporateAction] = field(default_factory=set)  # splits

    @classmethod
    def of(cls, candles: Iterable[Candle]) -> RecentCandles:
        """Return the newest of some published candles, of which later ones correct earlier ones."""
        recent = cls()
        for candle in candles:
            recent.note(candle)
        return recent

    @property
    def newest(self) -> Candle | None:
        """The candle with the latest opening time."""
        return next(reversed(self.by_open_ms.values()), None)

    @property
    def newest_ms(self) -> int | None:
        """Opening time of the newest candle."""
        newest = self.newest
        return None if newest is None else newest.open_ms

    @property
    def oldest_ms(self) -> int | None:
        """Opening time of the oldest candle that is requested again."""
        return next(iter(self.by_open_ms), None)

    def note(self, candle: Candle) -> None:
        """Add a candle that was published, or is about to be."""
        newest_ms = self.newest_ms
        known = candle.open_ms in self.by_open_ms
        self.by_open_ms[candle.open_ms] = candle
        if not known and newest_ms is not None and candle.open_ms < newest_ms:
            self.by_open_ms = dict(sorted(self.by_open_ms.items()))
        while len(self.by_open_ms) > RECHECKED:
            del self.by_open_ms[next(iter(self.by_open_ms))]


def due(recent: RecentCandles, response: Response, make: MakeCandle) -> list[Publication]:
    """Return what to publish: corrections and late candles first, then the new ones, by time.

    Call ``rescaled_by`` before: on another scale every candle would seem corrected.
    """
    publications = _corrections(recent, response, make)
    begun_ms = recent.newest.close_ms if recent.newest is not None else None
    for bar in closed_after(response, recent.newest_ms):
        candle = make(bar)
        since_ms = bar.open_ms if begun_ms is None else begun_ms
        actions = _between(response.actions, since_ms, bar.end_ms) if response.actions else ()
        begun_ms = bar.end_ms
        if candle is not None:
            publications.append(Publication(candle, Kind.CLOSED, actions))
    return publications


def _between(
    actions: Sequence[CorporateAction], since_ms: int, until_ms: int
) -> tuple[CorporateAction, ...]:
    return tuple(action for action in actions if since_ms <= action.at_ms < until_ms)


def _corrections(recent: RecentCandles, response: Response, make: MakeCandle) -> list[Publication]:
    oldest_ms, newest_ms = recent.oldest_ms, recent.newest_ms
    if oldest_ms is None or newest_ms is None:
        return []
    corrections: list[Publication] = []
    for bar in response.bars:
        if not oldest_ms <= bar.open_ms <= newest_ms or bar.is_blank:
            continue
        published = recent.by_open_ms.get(bar.open_ms)
        if published is not None and same(bar, published):
            continue
        candle = make(bar) if response.is_closed(bar) else None
        if candle is not None:
            corrections.append(Publication(candle, Kind.CORRECTION))
    return corrections


def same(bar: Bar, candle: Candle) -> bool:
    """True when a bar and a candle have the same values, but for rounding."""
    return bar.volume == candle.volume and all(
        isclose(mine, its, rel_tol=SAME) for mine, its in _prices(bar, candle)
    )


def rescaled_by(recent: RecentCandles, response: Response) -> tuple[CorporateAction, ...] | None:
    """Return the splits for which candles must be published again; None when they need not be.

    They must when a split took effect after the newest published candle, whether or not Yahoo
    has rescaled its history yet; and, with no split to name, when the published candles have
    all moved by one factor since.
    """
    newest = recent.newest
    if newest is None:
        return None
    splits = tuple(
        action
        for action in response.actions
        if action.kind is ActionKind.SPLIT
        and action not in recent.rescaled_for
        and newest.close_ms <= action.at_ms <= response.received_ms
    )
    return splits if splits or _has_moved(recent, response) else None


def _has_moved(recent: RecentCandles, response: Response) -> bool:
    pairs = [
        (bar, recent.by_open_ms[bar.open_ms])
        for bar in response.bars
        if bar.open_ms in recent.by_open_ms and not bar.is_blank
    ]
    if len(pairs) < _ENOUGH:
        return False
    factors = [mine / its for pair in pairs for mine, its in _prices(*pair)]
    first = factors[0]
    return abs(first - 1) > SCALED and all(
        isclose(factor, first, rel_tol=_EVEN) for factor in factors
    )


def _prices(bar: Bar, candle: Candle) -> tuple[tuple[float, float], ...]:
    return (
        (bar.open, candle.open),
        (bar.high, candle.high),
        (bar.low, candle.low),
        (bar.close, candle.close),
    )


def rescaled(
    recent: RecentCandles,
    response: Response,
    splits: tuple[CorporateAction, ...],
    make: MakeCandle,
    count: int,
) -> list[Publication]:
    """Return the newest ``count`` published candles on the scale of today, oldest first.

    Args:
        recent: the newest published candles.
        response: one that reaches back far enough.
        splits: the cause; each publication names them.
        make: makes candles.
        count: how many, at least the longest window that reads them.
    """
    newest_ms = -1 if recent.newest_ms is None else recent.newest_ms
    old = [bar for bar in response.bars if bar.open_ms <= newest_ms and not bar.is_blank]
    candles = [make(bar) for bar in old[-count:]]
    return [Publication(candle, Kind.RESCALED, splits) for candle in candles if candle is not None]
