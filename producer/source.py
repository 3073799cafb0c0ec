"""Port of candle sources: the contract that each one keeps, and the publications it yields."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from shared.candles import Candle

RECHECKED: Final = 15
"""Newest published candles of a symbol that a source may check again for corrections."""


class Kind(StrEnum):
    """Relation of a candle to those before it in the topic; its header has it."""

    CLOSED = "closed"  # new and final, as far as its source knows
    PROVISIONAL = "provisional"  # made from ticks; polling confirms or corrects it
    CORRECTION = "correction"  # another value of a published candle, or a late one
    RESCALED = "rescaled"  # a published candle on the scale after a split


class ActionKind(StrEnum):
    """Kind of a corporate action, which moves the price by itself."""

    SPLIT = "split"
    DIVIDEND = "dividend"


@dataclass(frozen=True, slots=True)
class CorporateAction:
    """A split or a dividend; from ``at_ms`` on the market trades after it."""

    kind: ActionKind
    at_ms: int  # opening of the ex-date's session, UTC
    value: str  # "4:1", four new shares for one; or "0.25", of the quote currency a share


@dataclass(frozen=True, slots=True)
class Publication:
    """A candle to publish, and what consumers should know about it beyond its values."""

    candle: Candle
    kind: Kind = Kind.CLOSED
    actions: tuple[CorporateAction, ...] = ()  # that take effect with this candle, or caused it


Published = Mapping[str, Sequence[Candle]]
"""The newest candles in the topic by symbol, oldest first; a symbol without one is absent."""


class SourceError(Exception):
    """A source that cannot yield candles at all."""


class UnreachableError(SourceError):
    """A source that does not answer at the start, so that another may stand in for it."""


class CandleSource(Protocol):
    """Yields the closed candles of some symbols at one interval.

    Whatever an implementation reads, it keeps this contract:

    - Every candle is valid and closed: its time is over.
    - The candles of one symbol that are ``CLOSED`` or ``PROVISIONAL`` have rising ``open_ms``,
      each once, and begin after the newest published one; none between two of them is left out
      for an error that passes, or it follows later as a ``CORRECTION``.
    - A ``CORRECTION`` or ``RESCALED`` candle is not newer than those yielded or published
      before, and differs from them.
    - A fault of one symbol does not stop the others; it is logged and counted.
    - It reads on only as the caller takes candles, so a sink that waits holds back the source.
    - It ends when it has no more candles, or raises ``SourceError`` when it never had any;
      ``aclose`` ends it sooner.
    """

    @property
    def name(self) -> str:
        """Name of the source in log, metrics and headers."""
        ...

    @property
    def interval(self) -> str:
        """The one interval of all its candles."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols whose candles it yields."""
        ...

    def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        """Yield the candles after the published ones, and corrections of those."""
        ...
