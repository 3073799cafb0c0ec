"""What integration tests share: one broker for the session, unique names, processes."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.broker import Broker
from local.leash import Leash
from local.yahoo import YahooStandIn, real_now_ms
from local.yahoo.market import new_york, open_now, round_the_clock
from producer.yahoo.client import Yahoo
from tests import yfinance_state
from tests.integration.processes import Processes
from tests.integration.producer.producers import Producer
from tests.polled_market import HALF_DAY, Clock, Market


@pytest.fixture(scope="session")
def leash() -> Iterator[Leash]:
    """Ends every process that a test started, even if pytest itself is killed."""
    with Leash() as leash:
        yield leash


@pytest.fixture(scope="session")
def broker(leash: Leash) -> Iterator[Broker]:
    """The session's broker. A test that kills or restarts one makes its own ``Broker()``."""
    with Broker(leash=leash) as broker:
        yield broker


@pytest.fixture
def kafka(broker: Broker) -> str:
    """The bootstrap address of the session's broker, seen to answer."""
    broker.wait_ready()
    return broker.bootstrap


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """A function that makes a name, of a topic or a group, that no other test has."""

    def make(stem: str) -> str:
        return f"{stem}.{uuid.uuid4().hex[:12]}"

    return make


@pytest.fixture
def processes(tmp_path: Path, leash: Leash) -> Iterator[Processes]:
    """Starts processes that end with the test."""
    with Processes(tmp_path, leash) as processes:
        yield processes


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
