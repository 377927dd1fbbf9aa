"""How an engine answers signals, and that its end takes a bounded time (F79).

======================  =====================================================================
signal(7)               the engine
======================  =====================================================================
SIGTERM, SIGINT         ends; transfers have some seconds to finish. A second one cuts them.
SIGQUIT                 the same, without a core dump.
SIGHUP                  the same where a terminal controls the engine, because it was closed.
                        Without one (a service) it changes nothing: rules, credential sets and
                        secrets are read again by themselves, a log file is opened again.
SIGUSR1, SIGUSR2        logs the same line; by default they would kill the process.
SIGTSTP, SIGCONT        stops and goes on, as every program.
======================  =====================================================================

A signal that is ignored when the engine starts stays ignored, as nohup(1) wants it; SIGTERM and
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
"""Seconds after which an engine that was asked to end waits no longer; transfers have 10 of them.

systemd kills after 90 (DefaultTimeoutStopSec)."""

CUT_TIMEOUT = 5.0
"""Seconds that it has after it was asked a second time."""

NOT_IN_ORDER = 1
"""Exit status of an engine that could not end in order."""

_TOLD_TO_END = (signal.SIGTERM, signal.SIGINT)
_HARMLESS = (signal.SIGUSR1, signal.SIGUSR2)

_log = logging.getLogger("entrepot.server")


class Deadline:
    """Ends the process when it has not ended in order *timeout* seconds after `begin`, such as on a
    disk that hangs: no thread can be called off from there.

    What is on the disk is whole then, as after a power cut.
    """

    def __init__(
        self,
        timeout: float = END_TIMEOUT,
        *,
        leave: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout = timeout
        self._leave = leave
        self._clock = clock
        self._until: float | None = None
        self._changed = threading.Condition()
        self.reason: Callable[[], str] = lambda: "A thread waits for the disk or for a program."
        """What keeps the engine from its end, as far as it knows, in a sentence."""
        self.say_last: Callable[[], None] = lambda: None
        """Writes what is still to be logged."""

    def begin(self, timeout: float | None = None) -> None:
        """From now on there are *timeout* seconds; called again, what is over first counts."""
        until = self._clock() + (self._timeout if timeout is None else timeout)
        with self._changed:
            starts = self._until is None
            self._until = until if self._until is None else min(self._until, until)
            self._changed.notify()
        if starts:
            threading.Thread(target=self._wait, name="entrepot-deadline", daemon=True).start()

    def _wait(self) -> None:
        with self._changed:
            while self._until is not None and (left := self._until - self._clock()) > 0:
                self._changed.wait(left)
        _log.error(
            "The engine could not end in order. %s It ends now as in a power cut: what is on the disk is whole.",
            self.reason(),
        )
        self.say_last()
        self._leave(NOT_IN_ORDER)


class Ending:
    """What is asked of an engine that ends. *stopping* is set when it is asked to end."""

    def __init__(self, stopping: asyncio.Event, deadline: Deadline | None) -> None:
        self.stopping = stopping
        self.hurry = asyncio.Event()
        """It was asked a second time: transfers are cut."""
        self._deadline = deadline

    def ask(self, number: signal.Signals) -> None:
        """A signal asks the engine to end."""
        if not self.stopping.is_set():
            self.stopping.set()
            self.begin()
        elif not self.hurry.is_set():
            _log.info("%s came again: transfers under way are cut.", number.name)
            self.hurry.set()
            if self._deadline is not None:
                self._deadline.begin(CUT_TIMEOUT)

    def begin(self) -> None:
        """The end has begun, whoever asked for it."""
        if self._deadline is not None:
            self._deadline.begin()


def has_terminal() -> bool:
    """Whether a terminal controls this process: it sends SIGHUP when it is closed (credentials(7))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def survive_harmless_signals() -> None:
    """From the start on let no signal kill the engine that means nothing to it: a service manager
    may send it before the engine is up."""
    for number in (*_HARMLESS, *(() if has_terminal() else (signal.SIGHUP,))):
        if signal.getsignal(number) is signal.SIG_DFL:
            # Not SIG_IGN: the programs that the engine starts would inherit that.
            signal.signal(number, _ignore)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    _log.info("A signal came while the engine starts, and changes nothing.")


@asynccontextmanager
async def answer_signals(
    stopping: asyncio.Event, deadline: Deadline | None = None
) -> AsyncIterator[Ending]:
    """Within it signals do what this module says."""
    loop = asyncio.get_running_loop()
    ending = Ending(stopping, deadline)

    def nothing_to_do(number: signal.Signals) -> None:
        _log.info(
            "%s: the log goes on in its file, and rules, credential sets and secrets are read again whenever they change. "
            "settings.toml and certificates are read at the start only: restart the engine for them.",
            number.name,
        )

    ends, harmless = [*_TOLD_TO_END], [*_HARMLESS]
    if signal.getsignal(signal.SIGQUIT) is not signal.SIG_IGN:
        ends.append(signal.SIGQUIT)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        (ends if has_terminal() else harmless).append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in (*ends, *harmless)}
    for number in ends:
        loop.add_signal_handler(number, ending.ask, number)
    for number in harmless:
        loop.add_signal_handler(number, nothing_to_do, number)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            # What came before asyncio's own handler, which leaves the default action behind.
            if handler is not None:
                signal.signal(number, handler)
