"""Configuration of all tests: reproducible Hypothesis profiles; skips that fail in CI."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

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


ON_DOCUMENTED_PORTS = {"test_demo.py", "test_documents.py", "test_wheel.py", "test_dashboards.py"}
"""Files whose tests start the demo where the documents say that it is: not two at once."""


class _ByFile(LoadFileScheduling):
    """A process takes a file at a time, so that its fixtures are made once."""

    def _split_scope(self, nodeid: str) -> str:
        path: str = super()._split_scope(nodeid)
        name = path.rpartition("/")[2]
        return "documented ports" if name in ON_DOCUMENTED_PORTS else path


@pytest.hookimpl(optionalhook=True)  # so that "-p no:xdist" works too
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Have ``-n`` run the tests of a file in one process, and those of some files one by one."""
    config.option.loadscopereorder = False  # long files come first as they are collected
    return _ByFile(config, log)


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
