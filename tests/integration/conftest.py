"""Fixtures of integration tests: the session's broker, unique names, processes."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, sync_playwright

from local.broker import Broker
from shared.leash import Leash
from tests.integration.processes import Processes

FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Flags of a Chromium that only tests see, as root perhaps."""


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. While it is open the test's thread runs no event loop of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()
