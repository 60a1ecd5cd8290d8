"""Crashes are not measured for coverage: the same lines run thousands of times over, and to trace them takes most of the time."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.no_cover)
