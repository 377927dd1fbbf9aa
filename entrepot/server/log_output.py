"""Where log lines go: standard error, or a file that may be rotated.

Neither may stop the engine (F79). A terminal that is paused (ctrl+s), a pipe without a reader and a
disk that hangs may accept no line for a long time, and a terminal that was closed refuses all (EIO,
EPIPE). So a thread of its own writes the lines; those that can't be written are counted, and the
next one that can says how many.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from entrepot.errors import EngineError

MAX_WAITING = 2000
"""Lines that wait to be written, at most; further ones are dropped."""

FLUSH_TIMEOUT = 2.0
"""Seconds that an engine which stops waits for its last lines to be written."""

IDLE_TIMEOUT = 10.0
"""Seconds after the last line until the writing thread ends."""

NOT_READY_TIMEOUT = 5.0
"""Seconds that a line waits for a standard error which another program made non-blocking."""

LOG_FILE_SIZE = 16 * 1024 * 1024
"""Bytes of a log file, after which it becomes FILE.1 and replaces the one before."""


class LogTarget(Protocol):
    """Where log lines are written to."""

    def write(self, data: bytes) -> None:
        """Write all of *data*; raises `OSError`."""
        ...


class StandardError:
    """Descriptor 2, without Python's buffer.

    The buffer would keep what could not be written, and fail with it again when the process ends.
    """

    def write(self, data: bytes) -> None:
        """Write all of *data*; raises `OSError`."""
        _write_all(2, data)


class LogFile:
    """A log file that becomes ``FILE.1`` when it is large.

    Other programs may rename, remove or truncate it (logrotate(8), also with ``copytruncate``).
    Where standard output or standard error lead to the same file, as in an engine that the
    dashboard started, they are reopened too.
    """

    def __init__(self, path: Path, *, limit: int = LOG_FILE_SIZE) -> None:
        """Open the file; raises `EngineError` where that fails."""
        self._path = path
        self._limit = limit
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise EngineError(
                f"The log {path} can't be written: {error.strerror}.",
                "Let this user write it, or name another file with --log-file.",
            ) from error

    def write(self, data: bytes) -> None:
        """Write all of *data*; raises `OSError`."""
        self._reopen_or_rotate(len(data))
        _write_all(self._descriptor, data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _reopen_or_rotate(self, added: int) -> None:
        opened = os.fstat(self._descriptor)
        try:
            status = self._path.stat()
        except OSError:
            status = None
        if status is not None and (status.st_dev, status.st_ino) == (opened.st_dev, opened.st_ino):
            if not status.st_size or status.st_size + added <= self._limit:
                return
            # Where it can't be renamed, a line in a file above the limit is better than none.
            with suppress(OSError):
                os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
                self._reopen(opened)
            return
        with suppress(OSError):
            if status is None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._reopen(opened)

    def _reopen(self, before: os.stat_result) -> None:
        descriptor = self._open()
        try:
            for number in (1, 2):
                with suppress(OSError):
                    status = os.fstat(number)
                    if (status.st_dev, status.st_ino) == (before.st_dev, before.st_ino):
                        os.dup2(descriptor, number)
            os.dup2(descriptor, self._descriptor, inheritable=False)
        finally:
            os.close(descriptor)


class LogOutput(logging.Handler):
    """Writes log records to a *target*, in a thread of its own.

    The thread ends after `IDLE_TIMEOUT` without a line.
    """

    def __init__(
        self,
        target: LogTarget,
        *,
        waiting: int = MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._target = target
        self._most = waiting
        self._clock = clock
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._is_writing = False
        """Whether the thread writes a line now."""
        self._runs = False
        self._missing = 0
        """Lines that were dropped since the last written one."""
        self._reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, or count it as dropped where too many wait."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            if len(self._lines) >= self._most:
                self._missing += 1
                self._reason = "the target of the log did not accept it in time"
                return
            self._lines.append(line)
            self._changed.notify_all()
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="entrepot-log", daemon=True).start()

    def flush(self) -> None:
        """Wait until all lines are written, for `FLUSH_TIMEOUT` at most."""
        until = self._clock() + FLUSH_TIMEOUT
        with self._changed:
            while (
                self._runs
                and (self._lines or self._is_writing)
                and (remaining := until - self._clock()) > 0
            ):
                self._changed.wait(remaining)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._lines and not self._changed.wait_for(
                    lambda: self._lines, IDLE_TIMEOUT
                ):
                    self._runs = False
                    self._changed.notify_all()
                    return
                line, missing, reason = self._lines.popleft(), self._missing, self._reason
                self._is_writing = True
            failure = self._write(self._gap_line(missing, reason) + line if missing else line)
            with self._changed:
                self._is_writing = False
                if failure is None:
                    self._missing -= missing
                else:
                    self._missing += 1
                    self._reason = failure
                self._changed.notify_all()

    def _write(self, data: bytes) -> str | None:
        """Write *data*; returns why that failed, or None."""
        try:
            self._target.write(data)
        except OSError as error:
            return os.strerror(error.errno) if error.errno is not None else str(error)
        return None

    def _gap_line(self, missing: int, reason: str) -> bytes:
        text = f"{missing:,} lines are missing here: {reason}."
        record = logging.LogRecord(
            "entrepot.server", logging.WARNING, __file__, 0, text, None, None
        )
        return f"{self.format(record)}\n".encode(errors="backslashreplace")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            # Programs that share a terminal may set O_NONBLOCK for all of them.
            if not select.select([], [descriptor], [], NOT_READY_TIMEOUT)[1]:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
