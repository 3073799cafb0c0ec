"""The port that every source of candles has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from shared.candles import Candle

Published = Mapping[str, int]
"""Opening time of the newest candle in the topic, by symbol; a symbol without one is absent."""


class SourceError(Exception):
    """A source that cannot give candles at all."""


class CandleSource(Protocol):
    """Gives the closed candles of some symbols at one interval.

    Whatever an implementation reads, it holds to this:

    - Every candle is valid and closed: it will not change by trading any more.
    - The candles of one symbol come in rising ``open_ms``, each once, and begin after the
      newest published one; none between two that come is left out for an error that passes.
    - What is wrong with one symbol stops no other; it is logged and counted.
    - It reads on only as the caller takes candles, so a sink that waits holds back the source.
    - It ends when there is nothing more to come, or raises ``SourceError`` when there never
      was anything; ``aclose`` ends it sooner.
    """

    @property
    def name(self) -> str:
        """Value of ``Candle.source``."""
        ...

    @property
    def interval(self) -> str:
        """The one interval of all its candles."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols whose candles it gives."""
        ...

    def candles(self, published: Published) -> AsyncGenerator[Candle, None]:
        """Yield the candles that come after the published ones."""
        ...
