"""What a person sees of a Textual application, as text. The only place in the tests that uses a
private name of Textual."""

from __future__ import annotations

import difflib
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

from textual.app import App


def lines(app: App[Any]) -> list[str]:
    """The lines of the screen, without blanks at their ends."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def grid(app: App[Any]) -> str:
    """The whole screen."""
    return "\n".join(lines(app))


def looks_like(app: App[Any], name: str) -> None:
    """The screen is what the file ``grids/<name>-<columns>x<lines>.txt`` holds. With
    ENTREPOT_WRITE_GRIDS set the file is written instead, to be reviewed."""
    _is_as_in(
        Path(__file__).parent / "grids" / f"{name}-{app.size.width}x{app.size.height}.txt",
        grid(app) + "\n",
    )


def is_drawn_as(app: App[Any], name: str) -> None:
    """The same for the whole picture, with every colour and style:
    ``drawings/<name>-<columns>x<lines>.svg``, which a browser shows."""
    drawn = re.sub(r"@font-face\s*{[^}]*}\s*", "", app.export_screenshot(title="entrepot"))
    # A number made of the whole content would make each line another.
    drawn = re.sub(r"\bterminal-\d+", "terminal", drawn)
    _is_as_in(
        Path(__file__).parent / "drawings" / f"{name}-{app.size.width}x{app.size.height}.svg",
        drawn + "\n",
    )


def _is_as_in(file: Path, seen: str) -> None:
    if os.environ.get("ENTREPOT_WRITE_GRIDS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(seen)
    agreed = file.read_text()
    differences = difflib.unified_diff(
        agreed.splitlines(), seen.splitlines(), str(file.name), "seen", lineterm="", n=0
    )
    assert agreed == seen, "\n".join(islice(differences, 40))
