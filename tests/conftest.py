"""What all tests share: signals as a program finds them."""

import signal
from contextlib import suppress


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
