"""Life in a terminal: signals, suspending, and the clipboard behind ssh and tmux."""

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
"""Bytes in base64 that common terminals take in one OSC 52 sequence (what k9s found out)."""

WITHOUT_CLIPBOARD = frozenset({"linux", "vt100", "vt220"})
"""Terminals that have no clipboard."""


def end_on_signals(app: App[Any]) -> None:
    """Leave by the door on SIGTERM and SIGHUP: Textual would die at once, with the terminal in the
    alternate screen and the mouse reporting.

    The return code is then 128 and the number of the signal, as a shell counts it.
    """
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(each, partial(app.exit, return_code=128 + each))


def repaint_on_resume(app: App[Any]) -> None:
    """After ctrl+z and fg Textual enters the alternate screen and paints nothing until something
    changes."""

    def repaint(_: object) -> None:
        forget(app._driver)
        app.refresh(layout=True)

    # The application and not one of its screens: whichever is on top then is painted.
    app.app_resume_signal.subscribe(app, repaint)


def forget(driver: Driver | None) -> None:
    """What the terminal shows is not known any more: all of it is sent with the next picture."""
    if isinstance(driver, DiffingDriver):
        driver.forget()


def copy(app: App[Any], text: str) -> bool:
    """Send *text* to the terminal's clipboard (OSC 52); False when it is too long. Whether the
    terminal takes it nobody tells us."""
    encoded = base64.b64encode(text.encode())
    if len(encoded) > CLIPBOARD_LIMIT or os.environ.get("TERM") in WITHOUT_CLIPBOARD:
        return False
    if os.environ.get("TMUX") and app._driver is not None:
        # tmux hands on what is wrapped, where allow-passthrough is on; with set-clipboard on it
        # takes the plain sequence.
        app._driver.write(f"\x1bPtmux;\x1b\x1b]52;c;{encoded.decode()}\x07\x1b\\")
    app.copy_to_clipboard(text)
    return True
