"""Errors of the dashboard itself: a traceback in a log, a sentence for the user."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import suppress
from pathlib import Path


def write_crash(log: Path, error: BaseException) -> str:
    """Append the traceback of *error* to *log*; returns a sentence about that."""
    try:
        _append(log, "".join(traceback.format_exception(error)))
    except OSError as log_error:
        return (
            f"Its log {log} can't be written: {log_error.strerror}. "
            f"The error was: {describe_error(error)}."
        )
    return f"The details are in {log}."


def log_warnings_to(log: Path) -> None:
    """Append warnings and errors of libraries to *log*, not to the screen."""
    handler = _FileHandler(logging.WARNING)
    handler.log = log
    logging.getLogger().addHandler(handler)


def describe_error(error: BaseException) -> str:
    """``KeyError: 'library'``"""
    return f"{type(error).__name__}: {error}"


class _FileHandler(logging.Handler):
    log: Path

    def emit(self, record: logging.LogRecord) -> None:
        # A log that can't be written has no other place to be reported.
        with suppress(OSError):
            _append(self.log, f"{record.name}: {self.format(record)}\n")


def _append(log: Path, text: str) -> None:
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n{text}\n")
