"""Signals of the engine, and a shutdown that takes a bounded time (F79).

======================  =====================================================================
signal(7)               the engine
======================  =====================================================================
SIGTERM, SIGINT         stops; transfers have some seconds to finish. A second one cuts them.
SIGQUIT                 the same, without a core dump.
SIGHUP                  the same where a terminal controls the engine, because it was closed.
                        Without one (a service) it changes nothing: rules, credential sets and
                        secrets are reloaded when they change, a log file is opened again.
SIGUSR1, SIGUSR2        logs the same line; by default they would kill the process.
SIGTSTP, SIGCONT        suspends and continues, as every program.
======================  =====================================================================

A signal that is ignored when the engine starts stays ignored, as nohup(1) requires; SIGTERM and
SIGINT never are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType

END_TIMEOUT = 20.0
"""Seconds after which an engine that was asked to stop waits no longer; transfers have 10 of them.

systemd kills after 90 (DefaultTimeoutStopSec).
"""

CUT_TIMEOUT = 5.0
"""Seconds that it has after a second request to stop."""

NOT_IN_ORDER = 1
"""Exit status of an engine that could not stop in order."""

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_HARMLESS = (signal.SIGUSR1, signal.SIGUSR2)

_log = logging.getLogger("entrepot.server")


class Deadline:
    """Ends a process that has not stopped in order *timeout* seconds after `begin`.

    A disk that hangs can cause that: its threads can't be interrupted. The data on the disk is
    consistent then, as after a power cut.
    """

    def __init__(
        self,
        timeout: float = END_TIMEOUT,
        *,
        end_process: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout = timeout
        self._end_process = end_process
        self._clock = clock
        self._until: float | None = None
        self._changed = threading.Condition()
        self.reason: Callable[[], str] = lambda: "A thread waits for the disk or for a program."
        """What keeps the engine from stopping, as far as it knows, in a sentence."""
        self.flush_log: Callable[[], None] = lambda: None
        """Writes the log lines that still wait."""

    def begin(self, timeout: float | None = None) -> None:
        """Start the time-out, in seconds; of several calls the earliest end counts."""
        until = self._clock() + (self._timeout if timeout is None else timeout)
        with self._changed:
            starts = self._until is None
            self._until = until if self._until is None else min(self._until, until)
            self._changed.notify()
        if starts:
            threading.Thread(target=self._wait, name="entrepot-deadline", daemon=True).start()

    def _wait(self) -> None:
        with self._changed:
            while self._until is not None and (remaining := self._until - self._clock()) > 0:
                self._changed.wait(remaining)
        _log.error(
            "The engine could not end in order. %s It ends now as in a power cut: "
            "the data on the disk is consistent.",
            self.reason(),
        )
        self.flush_log()
        self._end_process(NOT_IN_ORDER)


class Shutdown:
    """The requests to stop of an engine. The first one sets *stopping*."""

    def __init__(self, stopping: asyncio.Event, deadline: Deadline | None) -> None:
        self.stopping = stopping
        self.asked_again = asyncio.Event()
        """Set by a second request: transfers are cut."""
        self._deadline = deadline

    def ask(self, number: signal.Signals) -> None:
        """Handle a signal that asks the engine to stop."""
        if not self.stopping.is_set():
            self.stopping.set()
            self.begin()
        elif not self.asked_again.is_set():
            _log.info("%s came again: transfers under way are cut.", number.name)
            self.asked_again.set()
            if self._deadline is not None:
                self._deadline.begin(CUT_TIMEOUT)

    def begin(self) -> None:
        """Note that the engine stops, by a signal or by a request of the API."""
        if self._deadline is not None:
            self._deadline.begin()


def has_terminal() -> bool:
    """Whether a terminal controls this process (credentials(7)).

    It sends SIGHUP when it is closed.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def ignore_harmless_signals() -> None:
    """Let no harmless signal kill the engine while it starts.

    A service manager may send one before the engine is up.
    """
    for number in (*_HARMLESS, *(() if has_terminal() else (signal.SIGHUP,))):
        if signal.getsignal(number) is signal.SIG_DFL:
            # Not SIG_IGN: the programs that the engine starts would inherit that.
            signal.signal(number, _ignore)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    _log.info("A signal came while the engine starts, and changes nothing.")


@asynccontextmanager
async def handle_signals(
    stopping: asyncio.Event, deadline: Deadline | None = None
) -> AsyncIterator[Shutdown]:
    """Handle signals as the docstring of this module says."""
    loop = asyncio.get_running_loop()
    shutdown = Shutdown(stopping, deadline)

    def log_no_effect(number: signal.Signals) -> None:
        _log.info(
            "%s: the log goes on in its file, and rules, credential sets and secrets are read "
            "again whenever they change. settings.toml and certificates are read at the start "
            "only: restart the engine for them.",
            number.name,
        )

    stopping_signals, harmless = [*_STOPPING], [*_HARMLESS]
    if signal.getsignal(signal.SIGQUIT) is not signal.SIG_IGN:
        stopping_signals.append(signal.SIGQUIT)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        (stopping_signals if has_terminal() else harmless).append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in (*stopping_signals, *harmless)}
    for number in stopping_signals:
        loop.add_signal_handler(number, shutdown.ask, number)
    for number in harmless:
        loop.add_signal_handler(number, log_no_effect, number)
    try:
        yield shutdown
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            # The handler from before; asyncio leaves the default action.
            if handler is not None:
                signal.signal(number, handler)
