"""Plugin for pytest (`-p tests.reach`, run by coverage): which test reaches which line, also in child processes.

Each test is a context of the coverage data. The file that REACH_TESTS names gets one line of JSON for each part of a test: its
name, whether it passed, and its seconds.
"""

import json
import os
from collections.abc import Iterator

import coverage
import pytest

TESTS = "REACH_TESTS"


def pytest_configure(config: pytest.Config) -> None:
    """Let child processes read the settings of coverage anew, whose context is the test that starts them."""
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    os.environ["COVERAGE_PROCESS_START"] = str(config.rootpath / "pyproject.toml")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Assign what is executed from here on to the test."""
    measured = coverage.Coverage.current()
    assert measured is not None, "run this as `coverage run -m pytest -p tests.reach`"
    measured.switch_context(item.nodeid)
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of a test's set-up, call or end."""
    with open(os.environ[TESTS], "a", encoding="utf-8") as file:
        print(json.dumps([report.nodeid, report.passed, round(report.duration, 3)]), file=file)
