"""Fixtures of integration tests: the session's broker, unique names, processes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.broker import Broker
from shared.leash import Leash
from tests.integration.processes import Processes


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
