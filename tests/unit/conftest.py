"""What unit tests share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.polled_market import Market


@pytest.fixture
def market() -> Iterator[Market]:
    """Two shares and a coin behind the stand-in of Yahoo, on August 5, 2026, at 15:43:27."""
    # yfinance takes a second to import, which most tests do without
    from producer.yahoo import Yahoo  # noqa: PLC0415
    from tests.unit.polled_market import HALF_DAY, Clock, Market  # noqa: PLC0415
    from tests.yahoo import YahooStandIn, process_state  # noqa: PLC0415
    from tests.yahoo.market import new_york, round_the_clock  # noqa: PLC0415

    process_state.forget()
    clock = Clock()
    listings = (
        new_york("AAPL", HALF_DAY, price=200.0, days=14, half=frozenset({HALF_DAY})),
        new_york("MSFT", HALF_DAY, price=400.0, days=14, half=frozenset({HALF_DAY})),
        round_the_clock("BTC-USD", HALF_DAY, price=60_000.0),
    )
    with (
        YahooStandIn(*listings, now_ms=clock) as stand_in,
        tempfile.TemporaryDirectory() as cache,
    ):
        yahoo = Yahoo(Path(cache), stand_in.proxy_url, stand_in.ca_bundle)
        yield Market(stand_in, clock, yahoo, Path(cache))
    process_state.forget()
