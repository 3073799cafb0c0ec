"""Configuration of all tests: reproducible Hypothesis profiles; skips that fail in CI."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "candlecast",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("candlecast")


COUNTS = "counts"
"""Property of a test: a line for the end of the run, whichever process the test was in."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have counted."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == COUNTS:
                terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)  # so that pytest-xdist may lack, and "-p no:xdist" works
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have ``-n`` run the tests of a file in one process, and those of some files one by one."""
    from tests.by_file import ByFile  # noqa: PLC0415 - imports pytest-xdist

    config.option.loadscopereorder = False  # long files come first as they are collected
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests of one name: ``-n`` would run but one of them, and say nothing."""
    names = Counter(item.nodeid for item in items)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise pytest.UsageError(f"expected one test of each name, got several of {twice[:5]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where everything that a test may need is installed."""
    del item, call
    report = yield
    if report.skipped and os.environ.get("CANDLECAST_SKIP_IS_FAILURE"):
        report.outcome = "failed"
    return report
