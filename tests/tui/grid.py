"""What a person sees of a Textual application, as text. The only place in the tests that uses a
private name of Textual."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from textual.app import App

PATIENCE = 20.0
"""Seconds after which a screen that has not come to what was agreed never will."""


def lines(app: App[Any]) -> list[str]:
    """The lines of the screen, without blanks at their ends."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def grid(app: App[Any]) -> str:
    """The whole screen."""
    return "\n".join(lines(app))


async def looks_like(app: App[Any], name: str) -> None:
    """The screen comes to what the file ``grids/<name>-<columns>x<lines>.txt`` holds. With
    ENTREPOT_WRITE_GRIDS set the file is written instead, to be reviewed."""
    await _comes_to(
        Path(__file__).parent / "grids" / f"{name}-{app.size.width}x{app.size.height}.txt",
        lambda: grid(app) + "\n",
    )


async def is_drawn_as(app: App[Any], name: str) -> None:
    """The same for the whole picture, with every colour and style:
    ``drawings/<name>-<columns>x<lines>.svg``, which a browser shows."""
    # At once: a later drawing of a dialog lacks what is behind it.
    await _comes_to(
        Path(__file__).parent / "drawings" / f"{name}-{app.size.width}x{app.size.height}.svg",
        lambda: _drawing(app),
        patience=0.0,
    )


def _drawing(app: App[Any]) -> str:
    drawn = re.sub(r"@font-face\s*{[^}]*}\s*", "", app.export_screenshot(title="entrepot"))
    # A number made of the whole content would make each line another.
    return re.sub(r"\bterminal-\d+", "terminal", drawn) + "\n"


async def _comes_to(file: Path, picture: Callable[[], str], *, patience: float = PATIENCE) -> None:
    if os.environ.get("ENTREPOT_WRITE_GRIDS"):
        await asyncio.sleep(1)
        _write(file, picture())
    agreed, seen = _read(file), picture()
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while seen != agreed:
                await asyncio.sleep(0.01)
                seen = picture()
    differences = difflib.unified_diff(
        agreed.splitlines(), seen.splitlines(), str(file.name), "seen", lineterm="", n=0
    )
    assert agreed == seen, "\n".join(islice(differences, 40))


def _write(file: Path, seen: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(seen)


def _read(file: Path) -> str:
    return file.read_text()
