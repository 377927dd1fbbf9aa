"""Opening the dashboard: options and keys are read, then Textual is imported, and afterwards the
terminal is as it was."""

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
    from tui.quit import DashboardOutcome


class DashboardFailed(EntrepotError):
    """A fault in the dashboard itself has ended it."""

    code = "DashboardFailed"


def run_dashboard(
    client: CacheClient,
    *,
    config: Path,
    data: Path,
    log: Path,
    chosen: Mapping[str, Any],
    started_engine: bool,
    offered: Sequence[str] = (),
) -> DashboardOutcome:
    """Show the dashboard of the engine that *client* speaks to; gives what shall become of the
    engine.

    *config* is the user's directory with ``dashboard.toml`` and ``keymap.toml``, *data* that for
    what the dashboard keeps, *log* that for a fault's traceback, *chosen* the options of the
    command line, which go before the file's, *offered* the images of a demo's source. Raises
    `OptionInvalid` and `DashboardFailed`.
    """
    # Textual reads its environment when it is imported.
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    # Rich and Textual would take them for the size of the terminal, and never see it change (F76).
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    # What is imported stays: to look through it for garbage again and again takes a tenth of the
    # time to the first picture.
    gc.disable()
    from tui.app import Dashboard
    from tui.crash_log import keep_what_is_logged
    from tui.crash_log import kept as kept_in_log
    from tui.driver import ThriftyDriver
    from tui.options import read_options, theme_named
    from tui.quit import DashboardOutcome
    from tui.theme import DARK, LIGHT

    kept, fault_log = data / "dashboard-state.toml", log / "dashboard.log"
    options = replace(read_options(config / "dashboard.toml", kept), **chosen)
    encoding = getattr(sys.__stderr__, "encoding", None) or "ascii"
    options = replace(options, ascii=options.ascii or not encoding.lower().startswith("utf"))
    if options.read_only:
        client.bind_to_reading()
    keymap = None
    # Path.exists raises where a directory on the way can't be entered: with sudo -E, HOME is that
    # of another user.
    if os.path.exists(config / "keymap.toml"):
        from tui.keymap import read_keymap

        keymap = read_keymap(config / "keymap.toml", Dashboard)
    ThriftyDriver.ascii_only, ThriftyDriver.colours = options.ascii, not os.environ.get("NO_COLOR")
    app = Dashboard(
        client,
        started_engine=started_engine,
        options=options,
        keymap=keymap,
        keeps_theme_in=kept,
        log=fault_log,
        offered=offered,
        driver_class=ThriftyDriver,
    )
    if options.theme:
        known = {*app.available_themes, DARK.name, LIGHT.name}
        if "theme" in chosen:
            theme_named(options.theme, known)
        elif options.theme not in known:
            app.options = replace(
                options,
                theme="",
                problems=(*options.problems, f"There is no theme {options.theme}."),
            )
    keep_what_is_logged(fault_log)
    outcome = app.run(mouse=options.mouse) or DashboardOutcome(keep_engine=True)
    if app.fault is not None:
        raise DashboardFailed(
            "The dashboard met a fault of its own and has ended; the engine goes on.",
            kept_in_log(fault_log, app.fault),
        )
    status = app.return_code or 0
    if status == 128 + signal.SIGHUP:
        # The terminal is gone, and what Python still wants to tell it would end in another status.
        for each in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), each)
    return replace(outcome, status=status)


def keys_text(config: Path, *, markdown: bool) -> tuple[str, tuple[str, ...]]:
    """All keys by screen, with the user's own, and sentences about what is wrong with those."""
    from tui.app import Dashboard
    from tui.keymap import as_markdown, as_text, cheat_sheet, places, read_keymap

    keymap = read_keymap(config / "keymap.toml", Dashboard)
    sheet = cheat_sheet(places(Dashboard), keymap.keys)
    return (as_markdown if markdown else as_text)(sheet).rstrip(), keymap.problems
