"""The terminal: signals, suspending, and the clipboard over ssh and tmux."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from functools import partial
from typing import Any

from textual.app import App
from textual.driver import Driver

from tui.driver import DiffingDriver

CLIPBOARD_LIMIT = 74_994
"""Bytes in base64 that common terminals take in one OSC 52 sequence (measured by k9s)."""

WITHOUT_CLIPBOARD = frozenset({"linux", "vt100", "vt220"})
"""Terminals that have no clipboard."""


def end_on_signals(app: App[Any]) -> None:
    """Exit in an orderly way on SIGTERM and SIGHUP.

    Textual would die at once, with the terminal in the alternate screen and the mouse reporting.
    The return code is 128 and the number of the signal, as in a shell.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, partial(app.exit, return_code=128 + number))


def repaint_on_resume(app: App[Any]) -> None:
    """Redraw after ctrl+z and fg.

    Textual enters the alternate screen again and paints nothing until something changes.
    """

    def repaint(_: object) -> None:
        invalidate(app._driver)
        app.refresh(layout=True)

    # The application, not one of its screens: whichever is on top then is painted.
    app.app_resume_signal.subscribe(app, repaint)


def invalidate(driver: Driver | None) -> None:
    """Forget what the terminal shows: all of the next frame is sent."""
    if isinstance(driver, DiffingDriver):
        driver.invalidate()


def copy(app: App[Any], text: str) -> bool:
    """Send *text* to the terminal's clipboard (OSC 52); False when it can't be.

    It can't when it is too long, or the terminal has no clipboard. No terminal reports whether it
    took the text.
    """
    encoded = base64.b64encode(text.encode())
    if len(encoded) > CLIPBOARD_LIMIT or os.environ.get("TERM") in WITHOUT_CLIPBOARD:
        return False
    if os.environ.get("TMUX") and app._driver is not None:
        # tmux passes on what is wrapped, where allow-passthrough is on; with set-clipboard on it
        # takes the plain sequence.
        app._driver.write(f"\x1bPtmux;\x1b\x1b]52;c;{encoded.decode()}\x07\x1b\\")
    app.copy_to_clipboard(text)
    return True
