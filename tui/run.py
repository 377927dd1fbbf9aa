"""Opening the dashboard: read options and keys, run Textual."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrepot.api.client import CacheClient
from entrepot.errors import EntrepotError

if TYPE_CHECKING:
    from tui.outcome import DashboardOutcome


class DashboardFailed(EntrepotError):
    """An error of the dashboard itself has ended it."""

    code = "DashboardFailed"


def run_dashboard(
    client: CacheClient,
    *,
    config: Path,
    data: Path,
    log: Path,
    chosen: Mapping[str, Any],
    started_engine: bool,
    demo_images: Sequence[str] = (),
) -> DashboardOutcome:
    """Show the dashboard of the engine behind *client*; returns how it ended.

    *config* is the user's directory with ``dashboard.toml`` and ``keymap.toml``, *data* the
    directory for the dashboard's own state, *log* the one for tracebacks. *chosen* are the options
    of the command line, which override the file's, *demo_images* the images of a demo's source.
    Raises `OptionInvalid` and `DashboardFailed`.
    """
    # Textual reads its environment when it is imported.
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    # Rich and Textual would take them for the size of the terminal, and never notice that it
    # changes (F76).
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    # What is imported stays: collecting garbage would take a tenth of the time to the first
    # frame.
    gc.disable()
    from tui.app import Dashboard
    from tui.crash_log import log_warnings_to, write_crash
    from tui.driver import DiffingDriver
    from tui.options import read_options, theme_named
    from tui.outcome import DashboardOutcome
    from tui.theme import DARK, LIGHT

    state_file, crash_log = data / "dashboard-state.toml", log / "dashboard.log"
    options = replace(read_options(config / "dashboard.toml", state_file), **chosen)
    encoding = getattr(sys.__stderr__, "encoding", None) or "ascii"
    options = replace(options, ascii=options.ascii or not encoding.lower().startswith("utf"))
    if options.read_only:
        client.bind_to_reading()
    keymap = None
    # Path.exists raises where a directory on the way can't be entered: with sudo -E, HOME is
    # another user's.
    if os.path.exists(config / "keymap.toml"):
        from tui.keymap import read_keymap

        keymap = read_keymap(config / "keymap.toml", Dashboard)
    DiffingDriver.ascii_only, DiffingDriver.colours = options.ascii, not os.environ.get("NO_COLOR")
    app = Dashboard(
        client,
        started_engine=started_engine,
        options=options,
        keymap=keymap,
        theme_state_file=state_file,
        log=crash_log,
        demo_images=demo_images,
        driver_class=DiffingDriver,
    )
    if options.theme:
        themes = {*app.available_themes, DARK.name, LIGHT.name}
        if "theme" in chosen:
            theme_named(options.theme, themes)
        elif options.theme not in themes:
            app.options = replace(
                options,
                theme="",
                problems=(*options.problems, f"There is no theme {options.theme}."),
            )
    log_warnings_to(crash_log)
    outcome = app.run(mouse=options.mouse) or DashboardOutcome(keep_engine=True)
    if app.fault is not None:
        raise DashboardFailed(
            "The dashboard itself has failed and has ended; the engine keeps running.",
            write_crash(crash_log, app.fault),
        )
    status = app.return_code or 0
    if status == 128 + signal.SIGHUP:
        # The terminal is gone. What Python still writes to it would fail and change the status.
        for descriptor in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    return replace(outcome, status=status)


def format_keys(config: Path, *, markdown: bool) -> tuple[str, tuple[str, ...]]:
    """All keys by screen, with the user's own, and what is wrong with those."""
    from tui.app import Dashboard
    from tui.keymap import as_markdown, as_text, cheat_sheet, places, read_keymap

    keymap = read_keymap(config / "keymap.toml", Dashboard)
    sheet = cheat_sheet(places(Dashboard), keymap.keys)
    return (as_markdown if markdown else as_text)(sheet).rstrip(), keymap.problems
