"""A fault in the dashboard itself: what Python tells of it goes into a log, and a sentence to the
person, who never sees a traceback."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import suppress
from pathlib import Path


def write_crash(log: Path, error: BaseException) -> str:
    """Append the traceback of *error* to *log*; a sentence that says where it is."""
    try:
        _append(log, "".join(traceback.format_exception(error)))
    except OSError as refusal:
        return (
            f"Its log {log} can't be written: {refusal.strerror}. It was: {describe_error(error)}."
        )
    return f"What happened is in {log}."


def log_warnings_to(log: Path) -> None:
    """Append to *log* what libraries warn of in this process from now on. Python would write it
    across the screen."""
    handler = _Log(logging.WARNING)
    handler.log = log
    logging.getLogger().addHandler(handler)


def describe_error(error: BaseException) -> str:
    """``KeyError: 'library'``"""
    return f"{type(error).__name__}: {error}"


class _Log(logging.Handler):
    log: Path

    def emit(self, record: logging.LogRecord) -> None:
        # There is nobody to tell of a log that can't be written.
        with suppress(OSError):
            _append(self.log, f"{record.name}: {self.format(record)}\n")


def _append(log: Path, text: str) -> None:
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("a") as written:
        written.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n{text}\n")
