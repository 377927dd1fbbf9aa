"""Life in a terminal: signals, suspending, and the clipboard behind ssh and tmux."""

from __future__ import annotations

import asyncio
import base64
import os
import signal

from textual.app import App

CLIPBOARD_LIMIT = 74_994
"""Bytes in base64 that common terminals take in one OSC 52 sequence (what k9s found out)."""


def end_on_signals(app: App[object]) -> None:
    """Leave by the door on SIGTERM and SIGHUP: Textual would die at once, with the terminal in the alternate screen and the mouse reporting."""
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(each, app.exit)


def repaint_on_resume(app: App[object]) -> None:
    """After ctrl+z and fg Textual enters the alternate screen and paints nothing until something changes."""

    def repaint(_: object) -> None:
        app.refresh(layout=True)

    app.app_resume_signal.subscribe(app.screen, repaint)


def copy(app: App[object], text: str) -> bool:
    """Send *text* to the terminal's clipboard (OSC 52); False when it is too long. Whether the terminal takes it nobody tells us."""
    encoded = base64.b64encode(text.encode())
    if len(encoded) > CLIPBOARD_LIMIT:
        return False
    if os.environ.get("TMUX") and app._driver is not None:
        # tmux hands on what is wrapped, where allow-passthrough is on; with set-clipboard on it takes the plain sequence.
        app._driver.write(f"\x1bPtmux;\x1b\x1b]52;c;{encoded.decode()}\x07\x1b\\")
    app.copy_to_clipboard(text)
    return True
