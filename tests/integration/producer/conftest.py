"""What integration tests of the producer share: producers, and Yahoo's stand-in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.yahoo import YahooStandIn, real_now_ms
from local.yahoo.market import new_york, open_now, round_the_clock
from producer.yahoo.client import Yahoo
from tests import yfinance_state
from tests.integration.processes import Processes
from tests.integration.producer.producers import Producer
from tests.polled_market import HALF_DAY, Clock, Market


@pytest.fixture
def producer(kafka: str, processes: Processes, unique_name: Callable[[str], str]) -> Producer:
    """Starts producers on a topic of the test's own."""
    return Producer(kafka, unique_name("candles"), processes)


@pytest.fixture
def yahoo() -> Iterator[YahooStandIn]:
    """Yahoo with three shares whose market is open now."""
    prices = {"GOOD": 100.0, "OTHER": 9.0, "BAD": 5.0}
    now_ms = real_now_ms()
    listings = [open_now(symbol, now_ms, price=price) for symbol, price in prices.items()]
    with YahooStandIn(*listings) as stand_in:
        yield stand_in


@pytest.fixture
def market() -> Iterator[Market]:
    """Two shares and a coin behind the stand-in of Yahoo, on August 5, 2026, at 15:43:27."""
    yfinance_state.forget()
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
    yfinance_state.forget()
