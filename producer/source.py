"""The port that every source of candles has, and what it gives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shared.candles import Candle


class Kind(StrEnum):
    """What a candle is to those before it in the topic; its header says so."""

    CLOSED = "closed"  # new and final, as far as its source knows
    PROVISIONAL = "provisional"  # made from ticks; polling confirms or corrects it
    CORRECTION = "correction"  # another value of a published candle, or one that came late
    RESCALED = "rescaled"  # a published candle on the scale after a split


class ActionKind(StrEnum):
    """What a company may do that moves its price by itself."""

    SPLIT = "split"
    DIVIDEND = "dividend"


@dataclass(frozen=True, slots=True)
class Action:
    """A split or a dividend; from ``at_ms`` on the market trades after it."""

    kind: ActionKind
    at_ms: int  # opening of the ex-date's session, UTC
    value: str  # "4:1", four new shares for one; or "0.25", of the quote currency a share


@dataclass(frozen=True, slots=True)
class Publication:
    """A candle to publish, and what its readers should know about it beyond its values."""

    candle: Candle
    kind: Kind = Kind.CLOSED
    actions: tuple[Action, ...] = ()  # that take effect with this candle, or caused it


Published = Mapping[str, Sequence[Candle]]
"""The newest candles in the topic by symbol, oldest first; a symbol without one is absent."""


class SourceError(Exception):
    """A source that cannot give candles at all."""


class UnreachableError(SourceError):
    """A source that does not answer at the start, so that another may stand in for it."""


class CandleSource(Protocol):
    """Gives the closed candles of some symbols at one interval.

    Whatever an implementation reads, it holds to this:

    - Every candle is valid and closed: its time is over.
    - The candles of one symbol that are ``CLOSED`` or ``PROVISIONAL`` come in rising
      ``open_ms``, each once, and begin after the newest published one; none between two that
      come is left out for an error that passes, or it comes later as a ``CORRECTION``.
    - A ``CORRECTION`` or ``RESCALED`` candle is no newer than those that came or were published
      before, and says something that they did not.
    - What is wrong with one symbol stops no other; it is logged and counted.
    - It reads on only as the caller takes candles, so a sink that waits holds back the source.
    - It ends when there is nothing more to come, or raises ``SourceError`` when there never
      was anything; ``aclose`` ends it sooner.
    """

    @property
    def name(self) -> str:
        """Whose candles they are, for the log and the metrics."""
        ...

    @property
    def interval(self) -> str:
        """The one interval of all its candles."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols whose candles it gives."""
        ...

    def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        """Yield the candles that come after the published ones."""
        ...
