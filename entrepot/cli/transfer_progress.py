"""How far an export or import is: one line on a terminal, else a line every few seconds."""

from __future__ import annotations

import os
import sys
import time

import click

from entrepot.cli.output import note
from entrepot.formatting import cells, last_cells, printable, size

PLAIN_INTERVAL = 2.0
"""Seconds between two lines where there is no terminal."""

TERMINAL_INTERVAL = 0.1
"""Seconds between two drawings of the line."""


class TransferProgress:
    """The progress of one command; *total* is the number of its images, where it is known."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._in_terminal = sys.stderr.isatty()
        self._began = self._printed = time.monotonic()
        self.total = 0
        self.images = 0
        self.image = ""
        self.transferred = 0
        """Bytes that were written or sent."""

    def begin(self, image: str) -> None:
        """The next image begins."""
        self.image = image
        self.images += 1
        self.show()

    def add(self, count: int) -> None:
        """Count bytes."""
        self.transferred += count
        self.show()

    def show(self) -> None:
        """Draw or print the line, if the last one is old enough."""
        now = time.monotonic()
        interval = TERMINAL_INTERVAL if self._in_terminal else PLAIN_INTERVAL
        if now - self._printed < interval:
            return
        self._printed = now
        line = self._line(now)
        if self._in_terminal:
            click.echo(f"\r{_fitting(line)}\x1b[K", err=True, nl=False)
        else:
            note(line)

    def _line(self, now: float) -> str:
        speed = self.transferred / max(now - self._began, 0.001)
        of_total = f" of {self.total:,}" if self.total else ""
        return (
            f"{self._verb} {printable(self.image)}, image {self.images:,}{of_total}: "
            f"{size(self.transferred)}, {size(int(speed))}/s"
        )

    def note(self, text: str) -> None:
        """Print a line for people that stays."""
        self.clear()
        note(text)

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self._in_terminal:
            click.echo("\r\x1b[K", err=True, nl=False)

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began


def _fitting(line: str) -> str:
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        columns = 0
    columns = (columns or 80) - 1
    return line if cells(line) <= columns else f"...{last_cells(line, columns - 3)}"
