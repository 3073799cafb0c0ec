"""Candles for tests: plain ones, and Hypothesis strategies that obey every rule."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from shared.candles import DAY_MS, Candle

START_MS = 1_262_563_200_000  # 2010-01-04, a Monday, midnight UTC


def values_of(candle: Candle) -> tuple[float, float, float, float, float]:
    """Return open, high, low, close and volume."""
    return candle.open, candle.high, candle.low, candle.close, candle.volume


def candle(
    day: int = 0,
    close: float = 100.0,
    *,
    symbol: str = "AAPL",
    interval: str = "1d",
    volume: float = 1e6,
) -> Candle:
    """Return the candle of a day counted from 2010-01-04, around its close."""
    open_ms = START_MS + day * DAY_MS
    return Candle(
        symbol=symbol,
        interval=interval,
        open_ms=open_ms,
        close_ms=open_ms + DAY_MS,
        open=close * 0.99,
        high=close * 1.02,
        low=close * 0.98,
        close=close,
        volume=volume,
        source="test",
    )


def walk(count: int, *, symbol: str = "AAPL", first: int = 0, start: float = 100.0) -> list[Candle]:
    """Return consecutive days of a price that rises and falls by a fixed pattern."""
    return [
        candle(first + i, start * (1 + 0.01 * ((first + i) * 7 % 11 - 5)), symbol=symbol)
        for i in range(count)
    ]


@st.composite
def ohlcv(draw: st.DrawFn) -> tuple[float, float, float, float, float]:
    """Draw open, high, low, close and volume that agree with each other."""
    price = st.floats(min_value=2**-10, max_value=2**20, width=32)
    low, first, second, high = sorted(draw(st.tuples(price, price, price, price)))
    opened, closed = draw(st.permutations([first, second]))
    volume = draw(st.one_of(st.just(0.0), st.floats(min_value=0, max_value=2**40, width=32)))
    return opened, high, low, closed, volume


@st.composite
def candles_at(draw: st.DrawFn, days: Sequence[int]) -> list[Candle]:
    """Draw one candle for each of the given days."""
    candles = []
    for day in days:
        opened, high, low, closed, volume = draw(ohlcv())
        open_ms = START_MS + day * DAY_MS
        candles.append(
            Candle(
                symbol="AAPL",
                interval="1d",
                open_ms=open_ms,
                close_ms=open_ms + DAY_MS,
                open=opened,
                high=high,
                low=low,
                close=closed,
                volume=volume,
                source="test",
            )
        )
    return candles
