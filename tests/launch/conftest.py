"""Tests of containers are skipped, with the reason, where none can run."""

import pytest

from tests import containers


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of containers where they cannot run, which takes a second to find out."""
    if item.get_closest_marker("containers") and containers.why_not():
        pytest.skip(containers.why_not())
