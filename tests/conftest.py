"""Coverage is measured by the tests that are about rules and stores: to trace all others would double their time, and tell nothing new."""

import signal
from contextlib import suppress
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MEASURED = [HERE / name for name in ("core", "contract", "stores")]


def pytest_collection_modifyitems(items):
    for item in items:
        if not any(folder in item.path.parents for folder in MEASURED):
            item.add_marker(pytest.mark.no_cover)


def pytest_configure():
    """Have programs that tests start listen to signals, also where these tests run behind nohup or in the background."""
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        with suppress(ValueError):  # not in the main thread
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, usual)
