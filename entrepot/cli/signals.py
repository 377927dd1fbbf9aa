"""Signals that end a command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the program as an exception does.

    The program then cleans up. By default these signals end Python at once, and temporary files and
    processes stay.
    """

    def end(number: int, _: FrameType | None) -> None:
        # A second signal must not interrupt the clean-up.
        for handled_signal in previous_handlers:
            signal.signal(handled_signal, signal.SIG_IGN)
        sys.exit(128 + number)

    # nohup has SIGHUP ignored, and that holds.
    handled_signals = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    previous_handlers = {number: signal.signal(number, end) for number in handled_signals}
    try:
        yield
    finally:
        for number, previous_handler in previous_handlers.items():
            signal.signal(number, previous_handler)
