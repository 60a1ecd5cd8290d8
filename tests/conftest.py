"""Coverage is measured by the tests that are about rules and stores: to trace all others would double their time, and tell nothing new."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
MEASURED = [HERE / name for name in ("core", "contract", "stores")]


def pytest_collection_modifyitems(items):
    for item in items:
        if not any(folder in item.path.parents for folder in MEASURED):
            item.add_marker(pytest.mark.no_cover)
